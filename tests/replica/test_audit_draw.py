"""A replica's draw for the audit: a secret share of the logged texts, none of which is masked or answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from baton.config.model_settings import ModelSettings
from baton.errors import RegistryError
from baton.quality.audit import is_drawn
from baton.store.registry import Registry
from baton.text.masks import MASK
from baton.text.normal_form import fingerprint
from services.replica.audit_draw import AuditDraw

ALL = 0.999999
"""A share that draws every text: 1 is not allowed."""


def draw_of(registry: Registry, share: float = ALL, task: str = "classification", **feedback: Any) -> AuditDraw:
    settings = {"name": "m", "task": task, "data": {"train": "train.jsonl"}, "feedback": {"audit": share, **feedback}}
    return AuditDraw(ModelSettings.model_validate(settings), registry.audit)


def logged(text: str, pair: str | None = None) -> Mapping[str, Any]:
    """The input of a classifier, as the prediction log stores it."""
    return {"text": text, "text_pair": pair}


def drawn(registry: Registry) -> list[Mapping[str, Any]]:
    return [item.input for item in registry.audit.items("m")]


def test_the_secret_decides_which_logged_texts_are_drawn(registry):
    texts = [f"text {number}" for number in range(400)]
    draw_of(registry, 0.1).draw([logged(text) for text in texts])
    secret = registry.audit.secret()
    expected = [text for text in texts if is_drawn(secret, "m", fingerprint(text), 0.1)]
    assert [values["text"] for values in drawn(registry)] == expected
    assert 10 < len(expected) < 80


def test_every_replica_draws_the_same_texts_however_they_are_written_and_each_once(registry):
    draw_of(registry).draw([logged("Where is it?"), logged("where  is it?")])
    draw_of(registry).draw([logged("WHERE IS IT?")])
    assert len(drawn(registry)) == 1


def test_a_drawn_text_has_its_whole_input_and_no_answer(registry):
    draw_of(registry).draw([logged("first", "its pair")])
    assert drawn(registry) == [{"text": "first", "text_pair": "its pair"}]
    assert registry.audit.items("m")[0].example is None


def test_a_text_with_masked_parts_is_never_drawn(registry):
    masked = logged(f"card {MASK * 4}")
    draw_of(registry, redact=[r"\d{4}"]).draw([masked, logged("hello", f"card {MASK * 4}"), logged("no card")])
    assert [values["text"] for values in drawn(registry)] == ["no card"]
    assert registry.datasets.ledger("m").keys() >= {fingerprint("no card")}


def test_without_masks_the_mask_character_is_one_like_any_other(registry):
    draw_of(registry).draw([logged(f"card {MASK * 4}")])
    assert len(drawn(registry)) == 1


def test_a_question_with_masked_parts_is_not_drawn_though_its_context_is_whole(registry):
    draw = draw_of(registry, task="qa", redact=["Clara"])
    draw.draw([{"question": f"Is it {MASK * 5}?", "context": "Omar sings"}])
    assert drawn(registry) == []
    draw.draw([{"question": "Who sings?", "context": "Omar sings"}])
    assert len(drawn(registry)) == 1


def test_of_several_questions_to_one_context_one_is_drawn(registry):
    draw = draw_of(registry, task="qa")
    draw.draw([{"question": "Who sings?", "context": "Omar sings"}])
    draw.draw([{"question": "What does Omar do?", "context": "Omar sings"}])
    assert [values["question"] for values in drawn(registry)] == ["Who sings?"]


@pytest.mark.parametrize("task", ["classification", "multi_label", "ner", "qa", "seq2seq"])
def test_what_was_drawn_is_found_by_the_content_of_its_label(registry, task):
    from baton.store.feedback.correction import Correction
    from baton.tasks import task_type

    inputs = {
        "qa": {"question": "Who?", "context": "Omar sings"},
        "ner": {"text": "Omar sings"},
        "seq2seq": {"source": "Omar sings"},
    }.get(task, logged("Omar sings"))
    answer = {
        "classification": {"label": "a"},
        "multi_label": {"label": ["a"]},
        "ner": {"entities": []},
        "qa": {"answers": {"text": ["Omar"], "answer_start": [0]}},
        "seq2seq": {"target": "Omar canta"},
    }[task]
    draw_of(registry, task=task).draw([inputs])
    example = task_type(task).Example.model_validate({**inputs, **answer})
    content = fingerprint(task_type(task).content(example))
    registry.feedback.add(
        "m",
        [Correction(client_id=None, request_id=None, position=0, example=example.model_dump(mode="json"), audited_as=content)],
    )
    assert registry.audit.items("m")[0].done


def test_nothing_is_drawn_and_no_database_is_asked_where_the_audit_is_off(registry):
    off = draw_of(registry, 0.0)
    registry.close()
    off.draw([logged("hello")])


def test_a_database_that_is_away_is_told_and_the_next_try_succeeds(registry, monkeypatch):
    draw, secret = draw_of(registry), registry.audit.secret

    def away() -> bytes:
        raise RegistryError("the registry's database does not answer")

    monkeypatch.setattr(registry.audit, "secret", away)
    with pytest.raises(RegistryError):
        draw.draw([logged("hello")])
    monkeypatch.setattr(registry.audit, "secret", secret)
    draw.draw([logged("hello")])
    assert len(drawn(registry)) == 1
