"""Feedback and base data together: which split each text keeps, and what becomes of each row."""

from __future__ import annotations

import itertools
import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.frozen import read_corrections, read_quarantine
from baton.artifacts.storage import Storage
from baton.errors import DataError
from baton.tasks.multi_label import MultiLabel
from baton.tasks.ner import Ner
from baton.tasks.qa import QuestionAnswering
from tests.data.test_audited_rows import AuditedData, pairs, text_for, texts_for
from tests.support.tiny import keyword_rows
from training.data.datasets import Dataset

TRAIN = [
    {"text": "where is my parcel?", "label": "shipping"},
    {"text": "the courier was late", "label": "shipping"},
    {"text": "refund, please", "label": "billing"},
    {"text": "the invoice is wrong", "label": "billing"},
]
HOLDOUT = [{"text": "a parcel", "label": "shipping"}, {"text": "a refund", "label": "billing"}]
NEW, DRAWN = text_for("train"), text_for("holdout")
"""Two new texts: the audit draws the second."""


def row(text: str, label: str) -> dict[str, str]:
    return {"text": text, "label": label}


@pytest.fixture
def growing(tmp_path: Path) -> AuditedData:
    """Base data with a holdout file."""
    growing = AuditedData(tmp_path, Storage(f"memory://{uuid.uuid4().hex}"))
    growing.train, growing.holdout = list(TRAIN), list(HOLDOUT)
    return growing


def train(dataset: Dataset) -> list[tuple[str, str]]:
    return pairs(dataset.train)


def holdout(dataset: Dataset) -> list[tuple[str, str]]:
    return pairs(dataset.holdout)


def corrections(growing: AuditedData, dataset: Dataset) -> list[tuple[str, str]]:
    """The held-out corrections that are stored beside the splits."""
    version = dataset.version
    return pairs(read_corrections(growing.task_cls, growing.storage, version.uri, version.corrections_hash))


def new_rows(label: str, count: int) -> list[dict[str, str]]:
    return [row(text, label) for text in itertools.islice(texts_for("train", f"about {label}"), count)]


# --- splits ---------------------------------------------------------------------------------------------------------------


def test_a_new_text_from_feedback_trains_unless_the_audit_draws_it_and_then_it_is_held_out_but_does_not_judge(growing):
    growing.correct(row(NEW, "billing"), row(DRAWN, "shipping"))
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), (NEW, "billing")]
    assert holdout(dataset) == pairs(HOLDOUT)
    assert corrections(growing, dataset) == [(DRAWN, "shipping")]
    version = dataset.version
    assert (version.train_feedback, version.corrections, version.holdout_feedback, version.holdout_audited) == (1, 1, 0, 0)


def test_about_the_share_of_the_audit_is_held_out_of_new_texts(growing):
    growing.share = 0.25
    growing.correct(*keyword_rows(2000, ("billing", "shipping"), seed=5))
    version = growing.freeze().version
    assert version.corrections / 2000 == pytest.approx(0.25, abs=0.04)
    assert version.train_feedback + version.corrections == 2000


def test_without_an_audit_all_new_texts_go_to_train(growing):
    growing.share = 0.0
    growing.correct(row(DRAWN, "shipping"))
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), (DRAWN, "shipping")]
    assert (dataset.version.corrections, dataset.version.corrections_hash) == (0, "")


def test_a_text_keeps_its_split_when_the_share_of_the_audit_changes(growing):
    growing.correct(row(NEW, "billing"), row(DRAWN, "shipping"))
    before = growing.freeze().version
    for share in (0.0, 0.95):
        growing.share = share
        after = growing.freeze().version
        assert (after.hash, after.corrections_hash) == (before.hash, before.corrections_hash)


def test_feedback_grows_train_as_a_new_version_and_never_changes_the_holdout(growing):
    first = growing.freeze().version
    growing.correct(row(NEW, "billing"))
    second = growing.freeze().version
    growing.correct(row(DRAWN, "billing"))
    third = growing.freeze().version
    assert first.holdout_hash == second.holdout_hash == third.holdout_hash
    assert first.hash != second.hash == third.hash
    assert [it.corrections for it in (first, second, third)] == [0, 0, 1]
    assert [it.previous for it in (first, second, third)] == [None, 1, 2]
    assert [it.feedback_until for it in (first, second, third)] == [0, 1, 2]


@pytest.mark.parametrize("written", ["A PARCEL", "  a\tparcel ", "ａ ｐａｒｃｅｌ"])
@pytest.mark.parametrize("label", ["billing", "shipping"])
def test_feedback_on_a_text_of_the_base_holdout_changes_nothing_and_is_counted(growing, written, label):
    before = growing.freeze().version
    growing.correct(row(written, label))
    after = growing.freeze().version
    assert after.hash == before.hash
    assert (after.set_aside, after.removed_leaks, after.quarantined_rows) == (1, 0, 0)


def test_feedback_on_a_text_of_base_train_goes_there_also_if_the_audit_draws_it_and_settles_the_label(growing):
    growing.train.append(row(DRAWN, "billing"))
    growing.correct(row(DRAWN.upper(), "shipping"))
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), (DRAWN.upper(), "shipping")]
    assert holdout(dataset) == pairs(HOLDOUT)
    assert (dataset.version.conflicts["texts"], dataset.version.train_feedback, dataset.version.corrections) == (1, 1, 0)


def test_a_base_row_whose_text_was_held_out_when_feedback_brought_it_is_a_leak(growing):
    growing.correct(row(DRAWN, "shipping"))
    before = growing.freeze()
    growing.train.append(row(f" {DRAWN.upper()}", "shipping"))
    growing.share = 0.0
    after = growing.freeze()
    assert after.version.hash == before.version.hash
    assert after.version.removed_leaks == 1


def test_a_text_that_left_the_base_holdout_never_comes_back_in_train(growing):
    growing.freeze()
    growing.holdout = HOLDOUT[1:]
    growing.train.append(HOLDOUT[0])
    dataset = growing.freeze()
    assert train(dataset) == pairs(TRAIN)
    assert holdout(dataset) == pairs(HOLDOUT[1:])
    assert dataset.version.removed_leaks == 1


def test_feedback_on_a_text_that_left_the_base_holdout_is_held_out_but_does_not_judge(growing):
    growing.freeze()
    growing.holdout = HOLDOUT[1:]
    growing.correct(row("A parcel", "shipping"))
    dataset = growing.freeze()
    assert (train(dataset), holdout(dataset)) == (pairs(TRAIN), pairs(HOLDOUT[1:]))
    assert corrections(growing, dataset) == [("A parcel", "shipping")]
    assert (dataset.version.corrections, dataset.version.set_aside) == (1, 0)


def test_a_holdout_row_that_was_once_trained_on_is_quarantined_with_the_reason(growing):
    growing.correct(row(NEW, "billing"))
    growing.freeze()
    growing.holdout = [*HOLDOUT, row(NEW.upper(), "billing"), TRAIN[0]]
    dataset = growing.freeze()
    assert holdout(dataset) == pairs(HOLDOUT)
    assert train(dataset) == [*pairs(TRAIN), (NEW, "billing")]
    reason = "its text was in the train split of an earlier data set"
    assert dataset.version.quarantined == tuple(
        {"where": f"{growing.directory}/holdout.jsonl line {line}", "reason": reason} for line in (3, 4)
    )
    assert dataset.version.quarantined_rows == 2


def test_a_holdout_that_was_wholly_trained_on_is_refused(growing):
    growing.freeze()
    growing.holdout = TRAIN[:2]
    growing.train = [*TRAIN[2:], row("a courier", "shipping")]
    with pytest.raises(DataError, match=r"holdout.jsonl: no row is left in the holdout; all are quarantined; .* line 1: its"):
        growing.freeze()


def test_train_that_was_wholly_in_the_holdout_is_refused(growing):
    growing.freeze()
    growing.train, growing.holdout = list(HOLDOUT), [row("new one", "billing"), row("new two", "shipping")]
    with pytest.raises(
        DataError, match=r"train.jsonl: nothing is left to train on; the holdout has, or had earlier, 2 rows of it"
    ):
        growing.freeze()


def test_new_base_rows_are_split_by_the_fraction_and_known_ones_stay_where_they_are(growing):
    growing.holdout = 0.3
    rows = keyword_rows(300, ("billing", "shipping"), seed=0)
    growing.train = rows[:100]
    first = growing.freeze()
    growing.train = rows[::-1]
    second = growing.freeze()
    for split in ("train", "holdout"):
        known = {example.text for example in getattr(first, split)}
        assert known < {example.text for example in getattr(second, split)}
    assert second.version.holdout_rows / 300 == pytest.approx(0.3, abs=0.07)
    growing.holdout = 0.9
    third = growing.freeze()
    assert third.version.hash == second.version.hash


def test_when_a_fraction_becomes_a_file_texts_stay_where_they_were(growing):
    growing.holdout = 0.3
    growing.train = keyword_rows(100, ("billing", "shipping"), seed=0)
    first = growing.freeze()
    growing.holdout = [example.model_dump(exclude_none=True) for example in [*first.holdout, *first.train[:5]]]
    second = growing.freeze()
    assert (second.train, second.holdout) == (first.train, first.holdout)
    assert (second.version.removed_leaks, second.version.quarantined_rows) == (first.version.holdout_rows, 5)


def test_feedback_on_a_row_that_the_fraction_held_out_is_set_aside(growing):
    growing.holdout = 0.3
    growing.train = keyword_rows(100, ("billing", "shipping"), seed=0)
    first = growing.freeze()
    growing.correct(row(first.holdout[0].text.upper(), "billing"), row(first.train[0].text, first.train[0].label))
    second = growing.freeze()
    assert second.version.hash == first.version.hash
    assert (second.version.set_aside, second.version.removed_duplicates) == (1, 1)


# --- conflicts -----------------------------------------------------------------------------------------------------------


def test_of_contradicting_answers_the_newest_stays_and_base_rows_are_the_oldest(growing):
    growing.correct(row(NEW, "billing"), row(NEW.upper(), "shipping"), row("Refund, please", "shipping"))
    dataset = growing.freeze()
    labels = {text.casefold(): label for text, label in train(dataset)}
    assert labels[NEW] == "shipping"
    assert labels["refund, please"] == "shipping"
    assert len(labels) == len(dataset.train) == 5
    assert dataset.version.conflicts == {
        "policy": "latest",
        "texts": 2,
        "dropped": 2,
        "examples": [
            {
                "text": "Refund, please",
                "side": "train",
                "answers": [{"answer": {"label": "billing"}, "rows": 1}, {"answer": {"label": "shipping"}, "rows": 1}],
                "kept": {"label": "shipping"},
                "by": "latest",
            },
            {
                "text": NEW.upper(),
                "side": "train",
                "answers": [{"answer": {"label": "billing"}, "rows": 1}, {"answer": {"label": "shipping"}, "rows": 1}],
                "kept": {"label": "shipping"},
                "by": "latest",
            },
        ],
    }


def test_base_rows_that_contradict_each_other_are_settled_by_the_last_one(growing):
    growing.train += [row("REFUND, please", "shipping")]
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN[:2]), ("REFUND, please", "shipping"), *pairs(TRAIN[3:])]
    assert dataset.version.conflicts["dropped"] == 1


@pytest.mark.parametrize(
    ("answers", "kept", "by"),
    [
        (["billing", "billing", "shipping"], "billing", "majority"),
        (["shipping", "billing", "billing"], "billing", "majority"),
        (["billing", "shipping"], "shipping", "latest"),
        (["billing", "shipping", "shipping", "billing"], "billing", "latest"),
        (["billing", "billing", "shipping", "shipping", "bug"], "shipping", "latest"),
    ],
)
@pytest.mark.parametrize("text", [NEW, DRAWN])
def test_the_majority_settles_a_conflict_and_of_equals_the_newest(growing, answers, kept, by, text):
    growing.settings = {"conflicts": "majority", "new_label_after": 1}
    growing.correct(*(row(text, label) for label in answers))
    dataset = growing.freeze()
    settled = [pair for pair in [*train(dataset), *corrections(growing, dataset)] if pair[0] == text]
    assert settled == [(text, kept)]
    assert holdout(dataset) == pairs(HOLDOUT)
    assert dataset.version.conflicts["policy"] == "majority"
    [conflict] = dataset.version.conflicts["examples"]
    assert (conflict["by"], conflict["side"]) == (by, "train" if text == NEW else "holdout")
    assert (len(dataset.train) == 5, dataset.version.corrections == 1) == (text == NEW, text == DRAWN)


def test_a_row_of_the_base_counts_in_the_majority(growing):
    growing.settings = {"conflicts": "majority"}
    growing.train.append(TRAIN[2])
    growing.correct(row(TRAIN[2]["text"], "shipping"))
    dataset = growing.freeze()
    assert train(dataset) == pairs(TRAIN)
    assert (dataset.version.conflicts["dropped"], dataset.version.removed_duplicates) == (1, 1)


def test_feedback_that_says_what_is_known_is_a_duplicate_and_changes_nothing(growing):
    growing.correct(row(DRAWN, "billing"))
    before = growing.freeze().version
    growing.correct(row(TRAIN[0]["text"].upper(), "shipping"), row(DRAWN.upper(), "billing"))
    after = growing.freeze().version
    assert (after.hash, after.corrections_hash) == (before.hash, before.corrections_hash)
    assert (after.removed_duplicates, after.conflicts["texts"]) == (2, 0)


def test_a_later_correction_relabels_a_held_out_one_and_changes_neither_split(growing):
    growing.correct(row(DRAWN, "billing"))
    before = growing.freeze().version
    growing.correct(row(DRAWN, "shipping"))
    after = growing.freeze()
    assert corrections(growing, after) == [(DRAWN, "shipping")]
    assert after.version.corrections_hash != before.corrections_hash
    assert after.version.hash == before.hash


def test_of_conflicts_and_quarantined_rows_the_record_lists_some_and_the_storage_has_all_in_quarantine(growing):
    rows = keyword_rows(60, ("billing", "shipping"), seed=3)
    growing.share = 0.0
    growing.correct(*rows, *({**it, "label": "bug"} for it in rows), *({"text": "no label"} for _ in rows))
    version = growing.freeze().version
    assert (version.conflicts["texts"], version.quarantined_rows) == (60, 60)
    assert (len(version.conflicts["examples"]), len(version.quarantined)) == (20, 20)
    everything = read_quarantine(growing.storage, version.uri)
    assert tuple(everything[:20]) == version.quarantined
    assert [told["where"] for told in everything] == [f"feedback {number}" for number in range(121, 181)]
    growing.correct({"text": "\u2028", "label": 7})
    again = growing.freeze().version
    assert (again.hash, again.quarantined_rows) == (version.hash, 61)
    assert read_quarantine(growing.storage, version.uri)[60]["where"] == "feedback 181"


# --- personal data -------------------------------------------------------------------------------------------------------


def test_a_masked_text_trains_unless_it_may_be_one_of_the_holdout(growing):
    growing.redact = (r"\d{5,}",)
    growing.holdout = [*HOLDOUT, row("order 12345 is late", "shipping")]
    growing.correct(row("order █████ is late", "billing"), row("order █████ is lost", "shipping"))
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), ("order █████ is lost", "shipping")]
    assert dataset.version.removed_leaks == 1


def test_a_mask_of_one_character_is_no_text_of_its_own(growing):
    growing.redact = (r"\d",)
    growing.train.append(row("i have 3 cards", "billing"))
    growing.holdout = [*HOLDOUT, row("i have 7 cards", "billing")]
    growing.correct(row("i have █ cards", "shipping"))
    dataset = growing.freeze()
    assert (train(dataset), holdout(dataset)) == (pairs(growing.train), pairs(growing.holdout))
    assert dataset.version.removed_leaks == 1


def test_what_was_trained_on_with_masks_is_remembered_when_more_is_masked(growing):
    growing.redact = (r"\d{5,}",)
    growing.correct(row("order █████ of ann is late", "shipping"))
    growing.freeze()
    growing.redact = (r"\d{5,}", r"\bann\b")
    growing.holdout = [*HOLDOUT, row("order 12345 of ann is late", "shipping")]
    dataset = growing.freeze()
    assert holdout(dataset) == pairs(HOLDOUT)
    assert train(dataset)[-1] == ("order █████ of ann is late", "shipping")


def test_held_out_texts_are_kept_apart_from_masked_texts_since_the_first_pattern(growing):
    growing.share = 0.99
    growing.correct(row("order 12345 is late", "shipping"))
    assert corrections(growing, growing.freeze()) == [("order 12345 is late", "shipping")]
    growing.redact = (r"\d{5,}",)
    growing.feedback.insert(0, replace(growing.feedback[0], id=0, example=row("order █████ is late", "billing")))
    dataset = growing.freeze()
    assert (train(dataset), dataset.version.removed_leaks) == (pairs(TRAIN), 1)
    assert corrections(growing, dataset) == [("order 12345 is late", "shipping")]


def test_a_masked_text_that_the_audit_would_draw_trains(growing):
    growing.redact = (r"\d{5,}",)
    growing.share = 0.99
    growing.correct(row("order █████ is late", "shipping"))
    dataset = growing.freeze()
    assert train(dataset)[-1] == ("order █████ is late", "shipping")
    assert dataset.version.corrections == 0


def test_without_patterns_a_mask_is_a_character_like_others(growing):
    growing.holdout = [*HOLDOUT, row("order █████ is late", "shipping")]
    growing.train.append(row("order 12345 is late", "shipping"))
    dataset = growing.freeze()
    assert (train(dataset), holdout(dataset)) == (pairs(growing.train), pairs(growing.holdout))


def test_no_text_enters_the_holdout_that_was_trained_on_with_masks(growing):
    growing.redact = (r"\d{5,}",)
    growing.correct(row("order █████ is late", "shipping"))
    growing.freeze()
    growing.holdout = [*HOLDOUT, row("order 12345 is late", "shipping")]
    growing.share = 0.99
    growing.correct(row("order 67890 is late", "shipping"))
    dataset = growing.freeze()
    assert (holdout(dataset), dataset.version.corrections) == (pairs(HOLDOUT), 0)
    [told] = dataset.version.quarantined
    assert told["reason"] == "it may be a text that was trained on with parts masked"
    assert train(dataset)[-1] == ("order 67890 is late", "shipping")


# --- quarantine ----------------------------------------------------------------------------------------------------------


def test_one_mistyped_correction_adds_no_class_and_waits_in_quarantine_with_the_reason(growing):
    before = growing.freeze().version
    growing.correct(row(NEW, "refnud"))
    after = growing.freeze().version
    assert (after.hash, after.labels) == (before.hash, ("billing", "shipping"))
    reason = "its label 'refnud' is new, and 1 of the 5 texts that make it a class have it (data.new_label_after)"
    assert after.quarantined == ({"where": "feedback 1", "reason": reason},)
    assert after.train_feedback == 0


def test_a_new_label_becomes_a_class_with_the_fifth_text_in_train_and_takes_the_waiting_rows_along(growing):
    rows = new_rows("bug", 5)
    growing.correct(*rows[:4], row(rows[0]["text"].upper(), "bug"), row(DRAWN, "bug"))
    before = growing.freeze()
    assert before.version.labels == ("billing", "shipping")
    assert (before.version.quarantined_rows, before.version.removed_duplicates, before.version.corrections) == (5, 0, 1)
    assert all("4 of the 5 texts" in told["reason"] for told in before.version.quarantined)
    growing.correct(rows[4])
    after = growing.freeze()
    assert after.version.labels == ("billing", "bug", "shipping")
    assert train(after) == [*pairs(TRAIN), *pairs(rows)]
    assert (after.version.quarantined_rows, after.version.holdout_hash) == (0, before.version.holdout_hash)


@pytest.mark.parametrize("needed", [1, 2, 7])
def test_the_number_of_texts_that_make_a_new_label_a_class_can_be_set(growing, needed):
    growing.settings = {"new_label_after": needed}
    rows = new_rows("bug", needed)
    growing.correct(*rows[:-1])
    assert "bug" not in growing.freeze().version.labels
    growing.correct(rows[-1])
    assert "bug" in growing.freeze().version.labels


def test_a_label_of_one_base_row_is_a_class_and_its_corrections_do_not_wait(growing):
    growing.train.append(row("a bug", "bug"))
    growing.correct(row(NEW, "bug"))
    dataset = growing.freeze()
    assert train(dataset)[-1] == (NEW, "bug")
    assert dataset.version.quarantined_rows == 0


def test_texts_whose_newer_answer_has_another_label_do_not_make_a_new_one_a_class(growing):
    rows = new_rows("bug", 5)
    growing.correct(*rows, row(rows[0]["text"], "billing"))
    dataset = growing.freeze()
    assert "bug" not in dataset.version.labels
    assert train(dataset) == [*pairs(TRAIN), (rows[0]["text"], "billing")]
    assert (dataset.version.quarantined_rows, dataset.version.conflicts["dropped"]) == (5, 0)


def test_an_earlier_answer_trains_while_a_newer_one_with_a_new_label_waits(growing):
    growing.correct(row(NEW, "billing"), row(NEW, "bug"))
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), (NEW, "billing")]
    assert (dataset.version.quarantined_rows, dataset.version.conflicts["dropped"]) == (1, 0)


@pytest.mark.parametrize("label", ["billing", "bgu"])
def test_whoever_corrects_every_text_of_a_label_does_not_take_the_label_out_of_the_judge(growing, label):
    growing.train.append(row("a bug", "bug"))
    growing.holdout = [*HOLDOUT, row("another bug", "bug")]
    before = growing.freeze()
    growing.correct(row("a bug", label))
    dataset = growing.freeze()
    assert dataset.version.holdout_hash == before.version.holdout_hash
    assert dataset.version.labels == (("billing", "shipping") if label == "billing" else before.version.labels)


def test_feedback_that_the_task_does_not_take_is_quarantined_with_the_reason_and_holds_nothing_up(growing):
    growing.correct({"text": "  ", "label": "billing"}, {"question": "who?"}, row(NEW, "billing"), {"text": "x", "label": 7})
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), (NEW, "billing")]
    reasons = {told["where"]: told["reason"] for told in dataset.version.quarantined}
    assert reasons["feedback 1"].startswith("field 'text': '  ': text is empty; send at least one character")
    assert reasons["feedback 2"].startswith("field 'text' is missing; the row has 'question'")
    assert reasons["feedback 4"] == "field 'label': 7: Input should be a valid string"
    assert dataset.version.feedback_until == 4


def test_broken_base_rows_stay_an_error_whatever_the_feedback(growing):
    growing.correct(row(NEW, "billing"))
    growing.train.append({"text": "", "label": "billing"})
    with pytest.raises(DataError, match="line 5, field 'text': '': text is empty"):
        growing.freeze()


def test_a_base_holdout_with_a_label_that_base_train_lacks_stays_an_error_even_if_feedback_brings_it(growing):
    growing.holdout.append(row("a bug", "bug"))
    growing.correct(*new_rows("bug", 5))
    with pytest.raises(DataError, match=r"the holdout has 1 label that the training data lacks: 'bug'"):
        growing.freeze()


# --- the record ----------------------------------------------------------------------------------------------------------


def test_the_record_counts_rows_by_split_source_and_label(growing):
    growing.settings = {"new_label_after": 1}
    growing.correct(row(NEW, "bug"), row(DRAWN, "bug"), row(TRAIN[0]["text"], "billing"))
    version = growing.freeze().version
    assert version.counts == {
        "train": {"base": {"billing": 2, "shipping": 1}, "feedback": {"billing": 1, "bug": 1}},
        "holdout": {"base": {"billing": 1, "shipping": 1}, "audit": {}},
    }
    record = json.loads(growing.storage.read_dataset(version.uri, "dataset.json"))
    assert record["counts"] == version.counts
    assert (record["feedback_until"], record["corrections"], record["corrections_hash"]) == (3, 1, version.corrections_hash)


def test_every_row_is_accounted_for(growing):
    growing.train += [TRAIN[0], row("A REFUND", "billing"), row("refund, PLEASE", "shipping")]
    growing.holdout += [HOLDOUT[0], row("an invoice", "billing"), row("AN invoice", "shipping")]
    growing.correct(
        row(NEW, "bug"), row(NEW, "billing"), row("a parcel", "bug"), row(DRAWN, "late"), *new_rows("late", 2), {"x": 1}
    )
    dataset = growing.freeze()
    version = dataset.version
    assert (version.removed_leaks, version.removed_duplicates, version.conflicts["dropped"]) == (1, 2, 2)
    assert (version.quarantined_rows, version.set_aside, version.corrections) == (2 + 2 + 1, 1, 1)
    assert growing.accounted() == len(growing.train) + len(growing.holdout) + len(growing.feedback)


def test_the_same_past_gives_the_same_hash_wherever_it_is_frozen(growing, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    twin = AuditedData(tmp_path / "elsewhere", Storage(f"memory://{uuid.uuid4().hex}"))
    twin.train, twin.holdout = list(TRAIN), list(HOLDOUT)
    for data in (growing, twin):
        data.correct(row(NEW, "billing"), row(DRAWN, "shipping"))
        data.freeze()
        data.correct(row(NEW, "shipping"))
        data.freeze()
    assert [it.version.hash for it in growing.versions] == [it.version.hash for it in twin.versions]


# --- other tasks ---------------------------------------------------------------------------------------------------------


def question(asked: str, context: str, answer: str) -> dict[str, Any]:
    return {"question": asked, "context": context, "answers": {"text": [answer], "answer_start": [context.index(answer)]}}


def test_in_question_answering_a_context_keeps_its_split_with_every_new_question(growing):
    growing.task_cls = QuestionAnswering
    context = text_for("holdout", "Oslo is a city")
    growing.train = [question("where?", "Rome is in Italy", "Italy")]
    growing.holdout = [question("where?", "Paris is in France", "France")]
    growing.correct(question("who?", context, "Oslo"), question("what?", "Paris is in France", "Paris"))
    first = growing.freeze()
    assert [example.context for example in first.holdout] == ["Paris is in France"]
    assert (first.version.corrections, first.version.set_aside) == (2, 0)  # another question on a context that is held out
    growing.train.append(question("what is it?", context, "a city"))
    growing.correct(question("which?", "ROME is in Italy", "ROME"), question("where?", "Paris is in France", "Paris"))
    second = growing.freeze()
    assert second.holdout == first.holdout
    assert [example.question for example in second.train] == ["where?", "which?"]
    assert (second.version.removed_leaks, second.version.set_aside, second.version.corrections) == (1, 1, 2)


def test_entities_of_several_types_are_counted_each_and_unknown_types_wait(growing):
    growing.task_cls = Ner

    def tagged(text: str, *labels: str) -> dict[str, Any]:
        return {"text": text, "entities": [{"start": i, "end": i + 1, "label": label} for i, label in enumerate(labels)]}

    growing.train = [tagged("Oslo", "LOC"), tagged("Clara", "PER", "LOC"), tagged("nothing")]
    growing.holdout = [tagged("Rome", "LOC")]
    growing.correct(tagged(NEW, "PER", "ORG"), tagged("Oslo", "PER"))
    dataset = growing.freeze()
    assert dataset.version.counts["train"] == {"base": {"": 1, "LOC": 1, "PER": 1}, "feedback": {"PER": 1}}
    assert dataset.version.quarantined_rows == 1


def test_the_order_of_labels_is_no_contradiction_in_multi_label(growing):
    growing.task_cls = MultiLabel
    growing.train = [{"text": "late and broken", "label": ["shipping", "bug"]}, {"text": "broken", "label": ["bug"]}]
    growing.holdout = [{"text": "late", "label": ["shipping"]}, {"text": "fine", "label": []}]
    growing.correct(
        {"text": "late and broken", "label": ["bug", "shipping"]},
        {"text": "Broken", "label": []},
        {"text": DRAWN, "label": []},
    )
    version = growing.freeze().version
    assert (version.removed_duplicates, version.conflicts["texts"], version.corrections) == (1, 1, 1)
    assert version.counts["train"] == {"base": {"bug": 1, "shipping": 1}, "feedback": {"": 1}}
    assert version.counts["holdout"] == {"base": {"": 1, "shipping": 1}, "audit": {}}


def test_a_row_of_several_labels_waits_if_one_of_them_is_new(growing):
    growing.task_cls = MultiLabel
    growing.train = [{"text": "late", "label": ["shipping"]}, {"text": "broken", "label": ["bug"]}]
    growing.holdout = [{"text": "later", "label": ["shipping"]}]
    *texts, known = itertools.islice(texts_for("train"), 6)
    growing.correct(*({"text": text, "label": ["shipping", "rude"]} for text in texts[:4]), {"text": known, "label": ["bug"]})
    before = growing.freeze().version
    assert (before.labels, before.quarantined_rows, before.train_feedback) == (("bug", "shipping"), 4, 1)
    growing.correct({"text": texts[4], "label": ["rude"]})
    after = growing.freeze().version
    assert (after.labels, after.quarantined_rows, after.train_feedback) == (("bug", "rude", "shipping"), 0, 6)


# --- senders -------------------------------------------------------------------------------------------------------------


def sent(growing: AuditedData, sender: str | None, *rows: dict[str, str]) -> None:
    """Corrections that were sent with one API key."""
    first = len(growing.feedback)
    growing.correct(*rows)
    growing.feedback[first:] = [replace(correction, sender=sender) for correction in growing.feedback[first:]]


def test_the_record_counts_the_rows_of_each_sender_the_largest_first(growing):
    sent(growing, "shop", *new_rows("billing", 2))
    sent(growing, None, row("by nobody known", "billing"))
    sent(growing, "bank", *(row(f"bank {number}", "billing") for number in range(3)))
    assert list(growing.freeze().version.senders.items()) == [("bank", 3), ("shop", 2), ("", 1)]


def test_without_a_limit_one_sender_may_give_most_rows(growing):
    sent(growing, "shop", *new_rows("billing", 40))
    assert growing.freeze().version.over_share == 0


@pytest.mark.parametrize("share", [0.2, 0.4, 0.9])
def test_no_sender_has_more_than_the_share_that_is_allowed(growing, share):
    growing.settings, growing.share = {"max_sender_share": share}, 0.0
    for sender in ("a", "b"):
        sent(growing, sender, *(row(f"{sender} {number}", "billing") for number in range(20)))
    version = growing.freeze().version
    assert all(count <= share * version.train_rows for count in version.senders.values())
    assert version.train_rows + version.over_share == len(TRAIN) + 40
    assert (version.over_share == 0) == (share == 0.9)


def test_a_sender_over_its_share_loses_its_oldest_rows_and_takes_no_base_row_away(growing):
    growing.settings = {"max_sender_share": 0.2}
    sent(growing, "shop", *({**known, "label": "billing"} for known in TRAIN), row("the newest", "billing"))
    dataset = growing.freeze()
    assert train(dataset) == [*pairs(TRAIN), ("the newest", "billing")]
    assert (dataset.version.over_share, dataset.version.conflicts["dropped"]) == (4, 0)
