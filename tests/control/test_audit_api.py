"""The audit over HTTP: texts without answers, who may label them, and what a label does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from baton.config.file import AuthSettings
from baton.config.model_settings import ModelSettings
from baton.keys import Scope
from baton.quality.audit import BATCH, complete_batches
from baton.store.registry import Registry
from baton.tasks import TASKS
from services.control.api.audit import MAX_LABELS
from services.replica.audit_draw import AuditDraw
from tests.control.test_api import Api, problem
from tests.control.test_feedback_api import configuration, log
from tests.support.local_control import control_of
from tests.support.stores import raw_sql

AUDIT = "/api/models/{}/audit"


@pytest.fixture
def api(tmp_path: Path) -> Api:
    """One model for each task, named after it."""
    return Api(control_of(configuration(tmp_path)))


def draw(registry: Registry, inputs: Sequence[Mapping[str, Any]], model: str = "classification") -> list[int]:
    """Draw these inputs as a replica does. Return the ids of everything that was drawn."""
    settings = {"name": model, "task": model, "data": {"train": "train.jsonl"}, "feedback": {"audit": 0.999999}}
    AuditDraw(ModelSettings.model_validate(settings), registry.audit).draw(inputs)
    return [item.id for item in registry.audit.items(model)]


def draw_texts(registry: Registry, *texts: str) -> list[int]:
    return draw(registry, [{"text": text, "text_pair": None} for text in texts])


def label(api: Api, body: Any, model: str = "classification") -> httpx.Response:
    return api.post(AUDIT.format(model), body)


def report(answer: httpx.Response, status: int = 200) -> tuple[int, int, int]:
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert len(content["errors"]) == content["rejected"]
    return content["labelled"], content["undecidable"], content["rejected"]


def complaint(api: Api, item: Any, model: str = "classification") -> str:
    """Why one label is rejected."""
    answer = label(api, item, model)
    assert report(answer, 422) == (0, 0, 1)
    [error] = answer.json()["errors"]
    assert (error["item"], error["error"]) == (0, problem(answer, 422))
    return str(error["error"])


def examples(registry: Registry, model: str = "classification") -> list[Mapping[str, Any] | None]:
    return [item.example for item in registry.audit.items(model)]


# --- what is to be labelled ----------------------------------------------------------------------------------------------


def test_texts_are_listed_in_the_order_of_the_draw_and_without_the_models_answers(api):
    log(api, "r1", {"text": "hello"})  # its answer is in the log
    ids = draw(api.registry, [{"text": "hello", "text_pair": None}, {"text": "first", "text_pair": "its pair"}])
    page = api.get(AUDIT.format("classification")).json()
    assert [set(item) for item in page["items"]] == [{"id", "drawn_at", "text"}, {"id", "drawn_at", "text", "text_pair"}]
    assert [(item["id"], item["text"]) for item in page["items"]] == [(ids[0], "hello"), (ids[1], "first")]
    assert (page["share"], page["next"]) == (0.02, None)


def test_texts_to_label_are_paged(api):
    draw_texts(api.registry, *(f"text {number}" for number in range(5)))
    first = api.get(AUDIT.format("classification") + "?limit=3").json()
    assert [item["text"] for item in first["items"]] == ["text 0", "text 1", "text 2"]
    rest = api.get(AUDIT.format("classification") + f"?limit=3&after={first['next']}").json()
    assert ([item["text"] for item in rest["items"]], rest["next"]) == (["text 3", "text 4"], None)
    assert api.get(AUDIT.format("classification") + f"?after={10**20}").status_code == 422


def test_the_progress_of_each_batch_is_told(api):
    ids = draw_texts(api.registry, *(f"text {number}" for number in range(BATCH + 2)))
    label(api, [{"id": number, "label": "a"} for number in ids[:44]])
    label(api, {"id": ids[-1], "undecidable": True})
    first, second = api.get(AUDIT.format("classification")).json()["batches"]
    assert first == {
        "number": 1, "texts": 50, "labelled": 44, "undecidable": 0, "deleted": 0, "needed": 45, "judges": False
    }  # fmt: skip
    assert (second["texts"], second["undecidable"], second["judges"]) == (2, 1, False)
    assert list(complete_batches(api.registry.audit.items("classification"))) == []
    label(api, {"id": ids[44], "undecidable": True})
    page = api.get(AUDIT.format("classification")).json()
    assert [batch["judges"] for batch in page["batches"]] == [True, False]
    assert len(list(complete_batches(api.registry.audit.items("classification")))) == 1
    assert len(page["items"]) == BATCH - 45 + 1


def test_a_model_without_drawn_texts_has_nothing_to_label(api):
    page = api.get(AUDIT.format("ner")).json()
    assert (page["batches"], page["items"], page["next"]) == ([], [], None)


def test_an_unknown_model_is_told_with_the_known_ones(api):
    for answer in (api.get(AUDIT.format("nope")), label(api, {"id": 1, "label": "a"}, "nope")):
        assert "unknown model 'nope'; declared models: classification" in problem(answer, 404)


# --- labels --------------------------------------------------------------------------------------------------------------


def test_one_label_and_a_list_of_labels_are_taken(api):
    ids = draw_texts(api.registry, "one", "two", "three")
    assert report(label(api, {"id": ids[0], "label": "a"})) == (1, 0, 0)
    assert report(label(api, [{"id": ids[1], "label": "b"}, {"id": ids[2], "label": "c"}])) == (2, 0, 0)
    assert report(label(api, [])) == (0, 0, 0)
    assert examples(api.registry) == [
        {"text": text, "label": answer} for text, answer in zip(("one", "two", "three"), "abc", strict=True)
    ]
    assert api.get(AUDIT.format("classification")).json()["items"] == []


@pytest.mark.parametrize(
    ("task", "inputs", "answer"),
    [
        ("classification", {"text": "first", "text_pair": "its pair"}, {"label": "a"}),
        ("multi_label", {"text": "hello", "text_pair": None}, {"label": []}),
        ("ner", {"text": "Clara sings"}, {"entities": [{"start": 0, "end": 5, "label": "PER"}]}),
        (
            "qa",
            {"question": "Who?", "context": "Clara sings"},
            {"answers": {"text": ["Clara"], "answer_start": [0]}},
        ),
    ],
)
def test_every_task_has_labels_of_its_own(api, task, inputs, answer):
    assert task in TASKS
    [number] = draw(api.registry, [inputs], task)
    assert report(label(api, {"id": number, **answer}, task)) == (1, 0, 0)
    given = {name: value for name, value in inputs.items() if value is not None}
    assert examples(api.registry, task) == [{**given, **answer}]


def test_entities_may_be_tags_of_the_texts_own_words_and_of_no_others(api):
    [number] = draw(api.registry, [{"text": "Clara sings"}], "ner")
    told = complaint(api, {"id": number, "tokens": ["Omar", "sings"], "tags": ["B-PER", "O"]}, "ner")
    assert told == f"text {number}: the answer is for another text; it must be for {{'text': 'Clara sings'}}"
    assert report(label(api, {"id": number, "tokens": ["Clara", "sings"], "tags": ["B-PER", "O"]}, "ner")) == (1, 0, 0)
    [example] = examples(api.registry, "ner")
    assert example is not None
    assert example["entities"] == [{"start": 0, "end": 5, "label": "PER"}]


def test_what_was_listed_may_be_sent_back_with_the_answer_and_cannot_change_the_text(api):
    draw_texts(api.registry, "hello")
    [item] = api.get(AUDIT.format("classification")).json()["items"]
    assert report(label(api, {**item, "text": "another text", "label": "a"})) == (1, 0, 0)
    assert examples(api.registry) == [{"text": "hello", "label": "a"}]


def test_a_second_label_replaces_the_first_and_the_same_label_again_stores_nothing(api):
    [number] = draw_texts(api.registry, "hello")
    for answer, stored in (("a", 1), ("a", 1), ("b", 2), ("a", 3)):
        assert report(label(api, {"id": number, "label": answer})) == (1, 0, 0)
        assert examples(api.registry) == [{"text": "hello", "label": answer}]
        assert len(api.registry.feedback.newest("classification", 10)) == stored


def test_a_text_without_a_right_answer_is_undecidable_until_somebody_answers_it(api):
    [number] = draw_texts(api.registry, "hello")
    assert report(label(api, {"id": number, "undecidable": True})) == (0, 1, 0)
    assert api.get(AUDIT.format("classification")).json()["items"] == []
    [item] = api.registry.audit.items("classification")
    assert (item.undecidable, item.done, item.example) == (True, True, None)
    assert report(label(api, {"id": number, "label": "a", "undecidable": False})) == (1, 0, 0)
    assert report(label(api, {"id": number, "undecidable": True})) == (0, 1, 0)  # it takes the label back
    assert examples(api.registry) == [None]


def test_a_bad_label_costs_no_other_and_is_named_by_its_place(api):
    first, second = draw_texts(api.registry, "one", "two")
    items = [
        {"id": first, "label": "a"},
        {"id": first},
        5,
        {"label": "a"},
        {"id": 10**6, "label": "a"},
        {"id": second, "label": "b"},
    ]
    answer = label(api, items)
    assert report(answer) == (2, 0, 4)
    assert answer.json()["errors"] == [
        {"item": 1, "error": f"text {first}: field 'label' is missing; the row has 'text'"},
        {"item": 2, "error": "a JSON object is expected, not 5"},
        {"item": 3, "error": "id: None: the id of a text of the audit is expected (GET …/audit)"},
        {"item": 4, "error": "the audit of classification has no text 1000000"},
    ]
    assert [example["label"] for example in examples(api.registry) if example] == ["a", "b"]


@pytest.mark.parametrize("number", ["1", 0, -1, 1.0, True, None, 10**20])
def test_what_is_no_id_is_told(api, number):
    draw_texts(api.registry, "hello")
    assert complaint(api, {"id": number, "label": "a"}).startswith(f"id: {number!r}: the id of a text of the audit is expected")


def test_other_mistakes_are_told(api):
    [number] = draw_texts(api.registry, "hello")
    assert complaint(api, {"id": number, "label": 5}) == f"text {number}: field 'label': 5: Input should be a valid string"
    assert complaint(api, {"id": number, "lable": "a"}).endswith("the row has 'text', 'lable'; did you mean 'lable'?")
    both = complaint(api, {"id": number, "label": "a", "undecidable": True})
    assert both == f"text {number} has an answer and is undecidable; send one of them"
    assert examples(api.registry) == [None]


def test_a_text_of_another_model_cannot_be_labelled(api):
    [number] = draw_texts(api.registry, "hello")
    assert complaint(api, {"id": number, "label": []}, "multi_label") == f"the audit of multi_label has no text {number}"


def test_many_labels_none_of_which_can_be_used_are_a_problem_that_lists_each(api):
    answer = label(api, [{"label": "a"}, "hello"])
    assert report(answer, 422) == (0, 0, 2)
    assert problem(answer, 422).startswith("none of 2 items can be used; item 0: id: None: ")


def test_a_body_that_is_no_object_and_no_list_is_told(api):
    for body in (5, "hello"):
        assert problem(label(api, body), 422)
    json_content = {"content": b'{"id": ', "headers": {"content-type": "application/json"}}
    assert problem(api("POST", AUDIT.format("classification"), **json_content), 400)


def test_more_labels_than_a_request_may_have_are_refused_at_once(api):
    answer = label(api, [{"id": 1, "label": "a"}] * (MAX_LABELS + 1))
    assert problem(answer, 422) == "1,001 labels in one request; at most 1,000 are allowed"


# --- keys ----------------------------------------------------------------------------------------------------------------


class Closed:
    """The control API with keys required, and two drawn texts of ``classification``."""

    def __init__(self, directory: Path) -> None:
        config = configuration(directory).model_copy(update={"auth": AuthSettings(required=True)})
        self.control = control_of(config)
        self.registry = self.control.registry
        self.ids = draw_texts(self.registry, "one", "two")
        self.application: FastAPI = self.control.__serve_build_asgi_app__()

    def key(self, *scopes: Scope, models: Sequence[str] | None = None) -> tuple[str, str]:
        """Return the id and the token of a new key."""
        key, token = self.registry.keys.create("someone", scopes, models=models)
        self.control.keyring.refresh()
        return key.id, token

    def __call__(self, method: str, path: str, token: str, body: Any = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                return await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})

        return asyncio.run(ask())

    def audit(self, token: str, body: Any = None) -> httpx.Response:
        return self("GET" if body is None else "POST", AUDIT.format("classification"), token, body)

    def correct(self, token: str, text: str, answer: str) -> httpx.Response:
        return self("POST", "/api/models/classification/feedback", token, {"text": text, "label": answer})

    def answers(self) -> list[str | None]:
        return [None if example is None else example["label"] for example in examples(self.registry)]


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Closed]:
    closed = Closed(tmp_path)
    yield closed
    closed.registry.close()


@pytest.mark.parametrize("scope", [Scope.LABEL, Scope.OPERATE])
def test_keys_with_label_or_operate_read_and_label_the_audit_and_are_remembered(closed, scope):
    key_id, token = closed.key(scope)
    assert [item["text"] for item in closed.audit(token).json()["items"]] == ["one", "two"]
    assert report(closed.audit(token, {"id": closed.ids[1], "label": "b"})) == (1, 0, 0)
    assert closed.answers() == [None, "b"]
    [stored] = closed.registry.feedback.all("classification")
    assert stored.sender == key_id


@pytest.mark.parametrize("scope", [Scope.PREDICT, Scope.FEEDBACK, Scope.METRICS])
def test_other_keys_neither_read_nor_label_the_audit(closed, scope):
    _, token = closed.key(scope)
    for answer in (closed.audit(token), closed.audit(token, {"id": closed.ids[0], "label": "a"})):
        assert answer.status_code == 403
        assert "lacks the scope 'label'" in answer.json()["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="label"'
    assert closed.answers() == [None, None]


def test_a_label_key_does_nothing_else(closed):
    _, token = closed.key(Scope.LABEL)
    assert closed.correct(token, "one", "a").status_code == 403
    for path in ("/api/models/classification", "/api/models/classification/feedback", "/metrics"):
        assert closed("GET", path, token).status_code == 403, path


def test_a_label_key_for_one_model_labels_no_other(closed):
    _, token = closed.key(Scope.LABEL, models=["ner"])
    assert closed.audit(token).status_code == 403
    assert closed("GET", AUDIT.format("ner"), token).status_code == 200


def test_a_correction_by_a_key_for_feedback_only_never_labels_the_audit(closed):
    key_id, token = closed.key(Scope.FEEDBACK)
    assert closed.correct(token, "one", "a").json()["accepted"] == 1
    assert closed.answers() == [None, None]
    [stored] = closed.registry.feedback.all("classification")
    assert (stored.sender, stored.example["label"]) == (key_id, "a")
    assert [item["text"] for item in closed.audit(closed.key(Scope.LABEL)[1]).json()["items"]] == ["one", "two"]


def test_a_correction_by_a_key_for_feedback_cannot_replace_a_label(closed):
    closed.audit(closed.key(Scope.LABEL)[1], {"id": closed.ids[0], "label": "a"})
    closed.correct(closed.key(Scope.FEEDBACK)[1], "one", "b")
    assert closed.answers() == ["a", None]


@pytest.mark.parametrize("other", [Scope.LABEL, Scope.OPERATE])
def test_a_correction_by_a_key_that_may_also_label_is_the_label_of_its_text(closed, other):
    _, token = closed.key(Scope.FEEDBACK, other)
    assert closed.correct(token, "ONE", "a").json()["accepted"] == 1
    assert closed.correct(token, "not drawn", "b").json()["accepted"] == 1
    assert closed.answers() == ["a", None]


def test_where_no_keys_are_required_every_correction_of_a_drawn_text_is_its_label(api):
    draw_texts(api.registry, "one", "two")
    log(api, "r1", {"text": "two", "text_pair": None})
    api.post("/api/models/classification/feedback", [{"text": "one", "label": "a"}, {"request_id": "r1", "label": "b"}])
    assert [example["label"] for example in examples(api.registry) if example] == ["a", "b"]
    assert all(item.sender is None for item in api.registry.feedback.all("classification"))


# --- retention -----------------------------------------------------------------------------------------------------------


def test_inputs_that_nobody_labelled_are_deleted_after_the_retention(tmp_path):
    api = Api(control_of(configuration(tmp_path, retention_days=7)))
    labelled, waiting = draw_texts(api.registry, "labelled", "waiting")
    label(api, {"id": labelled, "label": "a"})

    def housekeeping_at_an_age_of(days: float) -> None:
        drawn_at = datetime.now(UTC) - timedelta(days=days)
        raw_sql(api.control.config.database, f"update audit set drawn_at = '{drawn_at:%Y-%m-%d %H:%M:%S.%f}'")
        api.control.housekeeping.delete_old_answers()

    housekeeping_at_an_age_of(days=6.9)
    assert [item["text"] for item in api.get(AUDIT.format("classification")).json()["items"]] == ["waiting"]
    housekeeping_at_an_age_of(days=7.1)
    page = api.get(AUDIT.format("classification")).json()
    assert (page["items"], page["batches"][0]["texts"], page["batches"][0]["deleted"]) == ([], 2, 1)
    assert [dict(item.input) for item in api.registry.audit.items("classification")] == [
        {"text": "labelled", "text_pair": None},
        {},
    ]
    told = complaint(api, {"id": waiting, "label": "a"})
    assert told == f"id: the text {waiting} was deleted before anybody labelled it (feedback.retention_days)"
