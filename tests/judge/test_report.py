"""Reports: what people see of a match, without personal data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest

from baton.config.model_settings import GateSettings
from baton.predict.predictor import Predictor
from baton.store.records import Champion, Evaluation
from baton.tasks import AnyTask
from baton.tasks.base import PAIR_SEPARATOR, Mark
from baton.tasks.classification import Classification, TextExample
from baton.tasks.f1 import RatioF1
from baton.tasks.ner import Ner
from baton.tasks.ner_entities import Entities, Entity
from baton.tasks.ner_rows import NerExample, Span
from baton.tasks.seq2seq import Seq2Seq
from baton.tasks.seq2seq_rows import Seq2SeqExample
from baton.text.masks import MASK, masker
from training.judge.decision import Contender, decide_match
from training.judge.evaluate import Told, evaluate
from training.judge.excerpts import SHOWN_CHARACTERS, excerpt
from training.judge.holdout import describe_holdout
from training.judge.pairs import RatioPair
from training.judge.report import CHANGED, _changed, make_report, unexplained

LABELS = ("billing", "bug", "shipping")
ROWS = [TextExample(text=f"text {number} of anna@example.com", label=LABELS[number % 3]) for number in range(300)]
POLICY = GateSettings()


def contender(version: int, wrong: Sequence[int], **metrics: Any) -> tuple[Contender, list[Told]]:
    """A version that answers every row rightly but these, which it calls the next label; and its answers."""
    truth = np.arange(300) % 3
    predicted = np.where(np.isin(np.arange(300), wrong), (truth + 1) % 3, truth)
    evaluation = Evaluation(
        id=version,
        model="m",
        version=version,
        holdout_hash="h",
        metrics={"labels": list(LABELS), **metrics},
        statistics=np.stack([truth, predicted], axis=1).astype(np.int32),
        created_at=datetime.now(UTC),
    )
    return Contender(evaluation=evaluation, labels=LABELS), [Told(f"{LABELS[answer]} (0.90)") for answer in predicted]


def report_of(
    ours: tuple[Contender, list[Told]],
    theirs: tuple[Contender, list[Told]] | None,
    *,
    kept: bool = True,
    marks: Sequence[dict[str, Any]] = (),
    audited: int = 0,
) -> dict[str, Any]:
    task = Classification((), 32)
    holdout = describe_holdout(Classification, ROWS, "h", audited=audited, marks=marks)
    champion = None if theirs is None else theirs[0]
    pointer = Champion(version=1 if theirs else None, sequence=1)
    judged = decide_match(task, holdout, ours[0], champion, pointer=pointer, number=1, policy=POLICY)
    return make_report(
        task,
        judged,
        ours[0],
        champion,
        policy=POLICY,
        examples=ROWS,
        answers=[ours[1], theirs[1] if theirs and kept else None],
        mask=masker([r"\S+@\S+"]),
    )


def test_a_report_has_the_whole_the_parts_and_the_slices_with_the_interval_of_each_gain():
    marks = [{"unit": None, "slices": {"language": "de" if number < 100 else ""}} for number in range(300)]
    report = report_of(contender(2, [0]), contender(1, range(0, 300, 10)), marks=marks, audited=120)
    assert [(row["name"], row["texts"]) for row in report["rows"]] == [
        ("the whole holdout", 300),
        ("the declared holdout", 180),
        ("audited requests", 120),
        ("language de", 100),
    ]
    for row in report["rows"]:
        assert row["gain"] == pytest.approx(row["f1"] - row["champion_f1"])
        assert row["low"] < row["gain"] < row["high"]
    assert [label["name"] for label in report["labels"]] == list(LABELS)
    assert (report["candidate"], report["champion"]) == (2, 1)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_confusions_that_changed_most_come_first_and_unchanged_ones_are_left_out():
    report = report_of(contender(2, [0, 3, 1]), contender(1, [1, 2, 5, 8, 11]))
    assert report["confusions"] == [
        {"truth": "shipping", "answer": "billing", "count": 0, "champion_count": 4},
        {"truth": "billing", "answer": "bug", "count": 2, "champion_count": 0},
    ]


def test_the_changed_answers_show_losses_and_gains_masked():
    report = report_of(contender(2, range(0, 30, 3)), contender(1, range(1, 300, 3)))
    changed = report["changed"]
    assert len(changed) == CHANGED
    assert sum(one["influence"] < 0 for one in changed) == sum(one["influence"] > 0 for one in changed) == CHANGED // 2
    worse = changed[0]
    assert (worse["truth"], worse["answer"], worse["champion_answer"]) == ("billing", "bug (0.90)", "billing (0.90)")
    assert worse["text"].startswith("text 0 of █")
    assert "example.com" not in json.dumps(report)


def test_where_only_gains_are_they_fill_the_list_and_equal_answers_are_none():
    report = report_of(contender(2, [7]), contender(1, [7, *range(20, 40)]))
    assert [one["influence"] > 0 for one in report["changed"]] == [True] * CHANGED
    assert report_of(contender(2, [7]), contender(1, [7]))["changed"] == []


def test_answers_that_were_not_kept_are_missing_and_the_rest_is_there():
    report = report_of(contender(2, [7]), contender(1, [8]), kept=False)
    assert [one["champion_answer"] for one in report["changed"]] == [None, None]
    assert all(one["answer"] for one in report["changed"])


def test_a_first_version_has_its_labels_and_its_cost_alone():
    scores = {"per_class": {"billing": {"f1": 0.9, "support": 3}, "unseen": {"f1": 0.0, "support": 0}}}
    report = report_of(contender(1, [7], **scores, megabytes=91.5, latency_ms=2.5), None)
    assert report["labels"] == [{"name": "billing", "texts": 3, "f1": 0.9, "champion_f1": None}]
    assert report["cost"] == [{"megabytes": 91.5, "latency_ms": 2.5}, None]
    assert (report["rows"], report["changed"], report["champion"]) == ([], [], None)


def test_entities_are_quoted_from_the_masked_text():
    task: AnyTask = Ner(("O", "B-PER", "I-PER"), 32)
    example = NerExample(text="write to anna@example.com", entities=(Span(start=9, end=25, label="PER"),))
    item = masker([r"\S+@\S+"])(task.input_of(example))
    entity = Entity(label="PER", score=0.5, start=9, end=25, word="anna@example.com")
    found = Entities(entities=(entity,), word_labels=("O",), word_scores=(0.5,))
    assert task.truth_in_words(example, item) == task.in_words(task.brief(found, item)) == f"{MASK * 16} [PER]"


def test_right_answers_that_are_texts_of_their_own_are_masked():
    examples = [Seq2SeqExample(source=f"write {number}", target=("to anna@example.com",)) for number in range(2)]
    ones = np.ones(2)
    answered = [RatioF1(numerators=np.array(values), denominators=ones) for values in ([1.0, 0.5], [0.5, 0.5])]
    [entry] = _changed(
        Seq2Seq((), 32), RatioPair(*answered), examples, [None, None], mask=masker([r"\S+@\S+"]), explain=unexplained
    )
    assert (entry["text"], entry["truth"]) == ("write 0", f"to {MASK * 16}")


def test_answers_are_masked_when_a_version_is_evaluated():
    task = Ner(("O", "B-PER", "I-PER"), 32)
    example = NerExample(text="write to anna@example.com", entities=(Span(start=9, end=25, label="PER"),))
    entity = Entity(label="PER", score=0.5, start=9, end=25, word="anna@example.com")

    class Stub:
        def __init__(self) -> None:
            self.task = task

        def predict(self, inputs: Sequence[Any]) -> list[Entities]:
            return [Entities(entities=(entity,), word_labels=("O",), word_scores=(0.5,)) for _ in inputs]

    evaluated = evaluate(cast("Predictor", Stub()), [example], lambda done, total: None, mask=masker([r"\S+@\S+"]))
    assert evaluated.answers == [Told(f"{MASK * 16} [PER]", (Mark(9, 25, "PER"),))]
    assert evaluated.score.metrics["f1"] == 1


def test_the_places_of_answers_move_with_the_excerpt_of_a_long_text():
    text = f"{'word ' * 200}Clara{' word' * 200}"
    both = Mark(0, 4, "PER")
    shown, [[mark], [], [cut]] = excerpt(text, [[both, Mark(1000, 1005, "PER")], [both], [both, Mark(1000, 1900, "PER")]])
    assert shown[mark.start : mark.end] == "Clara"
    assert (mark.label, len(shown)) == ("PER", SHOWN_CHARACTERS + 2)
    assert shown[cut.start : cut.end].startswith("Clara word")
    assert (shown[0], shown[cut.end :]) == ("…", "…")


def test_of_a_question_and_a_long_context_the_question_stays_and_the_context_is_cut_to_the_answer():
    question, context = "Who sings?", f"{'Nobody. ' * 100}Clara sings."
    place = len(question) + 1 + 800
    shown, [[mark]] = excerpt(f"{question}{PAIR_SEPARATOR}{context}", [[Mark(place, place + 5)]])
    assert shown.startswith("Who sings? | …")
    assert shown[mark.start : mark.end] == "Clara"
    assert shown.endswith("sings.")
    short, [[mark]] = excerpt(f"{question}{PAIR_SEPARATOR}Clara.", [[Mark(len(question) + 1, len(question) + 6)]])
    assert (short, short[mark.start : mark.end]) == ("Who sings? | Clara.", "Clara")
