"""Who judges: declared rows, and audited requests of batches that people have labelled. Feedback alone never does."""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.frozen import read_corrections, read_quarantine
from baton.artifacts.storage import Storage
from baton.quality import audit
from baton.store.records import AuditItem
from baton.tasks import AnyTask
from baton.tasks.classification import Classification
from baton.tasks.qa import QuestionAnswering
from baton.text.masks import MASK, group_keys
from baton.text.normal_form import fingerprint, hash_fraction
from tests.support.growing import BEGINNING, SMALL_HOLDOUT, SMALL_TRAIN, GrowingData
from tests.support.tiny import keyword_rows
from training.data.datasets import Dataset, History, freeze

SECRET = b"the secret of a database"
SHARE = 0.1
LABELLED_TO_JUDGE = 45
"""Number of texts that must be labelled in a batch of 50."""


class AuditedData(GrowingData):
    """A model's data as it grows, with the audit of its requests."""

    def __init__(self, directory: Path, storage: Storage, task_cls: type[AnyTask] = Classification) -> None:
        super().__init__(directory, storage, task_cls)
        self.audited: list[AuditItem] = []
        self.share = SHARE

    def is_drawn(self, group: str) -> bool:
        """Tell whether the audit draws the group with this fingerprint."""
        return audit.is_drawn(SECRET, "m", group, self.share)

    def log(self, *inputs: Mapping[str, Any]) -> list[AuditItem]:
        """Log requests. Return what the audit draws of them: as a replica does it, from texts that have no split yet."""
        keys = group_keys(self.redact)
        drawn = []
        for values in inputs:
            text = self.task_cls.group(self.task_cls.Input.model_construct(**values))
            of_text = keys(text)
            hidden = bool(self.redact) and MASK in text
            if hidden or of_text.group in self.ledger or not self.is_drawn(of_text.group):
                continue
            for key in of_text.in_ledger(held_out=True):
                self.ledger.setdefault(key, "holdout")
            number = len(self.audited) + 1
            drawn.append(AuditItem(id=number, input=values, drawn_at=BEGINNING, example=None, undecidable=False))
            self.audited.append(drawn[-1])
        return drawn

    def label(self, item: AuditItem, **answer: Any) -> None:
        """Label a drawn text. The label is a row of feedback, too."""
        example = {**item.input, **answer}
        self.correct(example)
        self.audited[item.id - 1] = replace(self.audited[item.id - 1], example=example, undecidable=False)

    def mark_undecidable(self, item: AuditItem) -> None:
        """Record that a drawn text has no right answer."""
        self.audited[item.id - 1] = replace(self.audited[item.id - 1], example=None, undecidable=True)

    def freeze(self, **overridden: Any) -> Dataset:
        """Freeze the next version for a run with these settings of `data` instead of the declared ones."""
        declared = self.data()
        history = History(
            feedback=iter(self.feedback),
            ledger=dict(self.ledger),
            previous=len(self.versions) or None,
            audited=list(self.audited),
            classes=self.classes(),
            is_drawn=self.is_drawn,
        )
        data = declared.model_validate({**declared.model_dump(), **overridden})
        dataset = freeze("m", self.task_cls, data, self.storage, history, redact=self.redact, declared=declared)
        for group, split in dataset.splits.items():
            assert self.ledger.setdefault(group, split) == split, "a text changed splits"
        self.versions.append(dataset)
        return dataset

    def classes(self) -> tuple[str, ...]:
        """The labels that ever were classes, in the form of `Task.labels_in`."""
        return self.versions[-1].version.classes if self.versions else ()

    def accounted(self) -> int:
        """Return the number of base and feedback rows that the newest version's record speaks of."""
        version = self.versions[-1].version
        left_out = version.removed_leaks + version.removed_duplicates + version.conflicts["dropped"] + version.over_share
        quarantined = read_quarantine(self.storage, version.uri)
        assert len(quarantined) == version.quarantined_rows
        unusable = sum(not told["where"].startswith("audited request") for told in quarantined)
        kept = version.train_rows + version.holdout_rows - version.holdout_audited + version.corrections
        return kept + left_out + unusable + version.set_aside


def text_for(split: str, stem: str = "new text") -> str:
    """Return a text that the audit draws (``holdout``) or does not draw (``train``)."""
    return next(texts_for(split, stem))


def texts_for(split: str, stem: str = "new text") -> Iterator[str]:
    for number in itertools.count():
        text = f"{stem} {number}"
        if audit.is_drawn(SECRET, "m", fingerprint(text), SHARE) == (split == "holdout"):
            yield text


def drawn_inputs(count: int, stem: str = "request") -> list[dict[str, str]]:
    return [{"text": text} for text in itertools.islice(texts_for("holdout", stem), count)]


def pairs(rows: Any) -> list[tuple[str, str]]:
    return [(row["text"], row["label"]) if isinstance(row, dict) else (row.text, row.label) for row in rows]


@pytest.fixture
def growing(tmp_path: Path) -> AuditedData:
    """Base data with a holdout file."""
    growing = AuditedData(tmp_path, Storage(f"memory://{uuid.uuid4().hex}"))
    growing.train, growing.holdout = list(SMALL_TRAIN), list(SMALL_HOLDOUT)
    return growing


# --- labels --------------------------------------------------------------------------------------------------------------


def test_a_label_that_corrections_made_a_class_stays_in_the_judge_when_others_correct_it_away(growing):
    """A key that may only send corrections relabelled the class's public texts, and its rows left the holdout."""
    texts = list(itertools.islice(texts_for("train", "brand new"), 6))
    growing.correct(*({"text": text, "label": "new"} for text in texts))
    growing.freeze()
    for number, item in enumerate(growing.log(*drawn_inputs(audit.BATCH))):
        growing.label(item, label="new" if number < 5 else "billing")
    before = growing.freeze()
    assert before.version.counts["holdout"]["audit"] == {"billing": 45, "new": 5}
    growing.correct(*({"text": text, "label": "billing"} for text in texts))
    after = growing.freeze()
    assert "new" not in after.version.labels
    assert after.version.holdout_hash == before.version.holdout_hash == growing.freeze().version.holdout_hash


def test_labels_of_a_batch_that_is_not_complete_are_no_held_out_corrections(growing):
    for item in growing.log(*drawn_inputs(audit.BATCH))[:40]:
        growing.label(item, label="billing")
    version = growing.freeze().version
    assert (version.holdout_audited, version.corrections, version.set_aside) == (0, 0, 40)


def test_a_label_that_the_task_does_not_take_any_more_is_quarantined(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for item in items:
        growing.label(item, label="billing")
    growing.audited[3] = replace(growing.audited[3], example={"text": "  ", "label": "billing"})
    dataset = growing.freeze()
    assert dataset.version.holdout_audited == audit.BATCH - 1
    assert [told["where"] for told in dataset.version.quarantined] == ["audited request 4"]


def test_a_run_does_not_choose_how_large_its_holdout_is(growing):
    growing.train, growing.holdout = keyword_rows(200, ("billing", "shipping"), seed=3), 0.2
    usual = growing.freeze().version
    assert growing.freeze(holdout=0.02).version.holdout_hash == usual.holdout_hash


# --- batches -------------------------------------------------------------------------------------------------------------


def test_audited_requests_of_a_labelled_batch_are_the_last_holdout_rows_in_the_order_of_the_draw(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    assert len(items) == audit.BATCH
    for item in reversed(items):
        growing.label(item, label="billing")
    dataset = growing.freeze()
    assert pairs(dataset.holdout) == [*pairs(SMALL_HOLDOUT), *((item.input["text"], "billing") for item in items)]
    assert pairs(dataset.train) == pairs(SMALL_TRAIN)
    version = dataset.version
    assert (version.holdout_rows, version.holdout_audited, version.holdout_feedback) == (52, 50, 0)
    assert (version.set_aside, version.corrections, version.corrections_hash) == (50, 0, "")
    assert version.counts["holdout"] == {"base": {"billing": 1, "shipping": 1}, "audit": {"billing": 50}}
    assert growing.accounted() == len(growing.train) + len(growing.holdout) + len(growing.feedback)


@pytest.mark.parametrize(
    ("labelled", "undecidable", "judging"),
    [
        (LABELLED_TO_JUDGE - 1, 0, 0),
        (LABELLED_TO_JUDGE, 0, LABELLED_TO_JUDGE),
        (LABELLED_TO_JUDGE - 6, 5, 0),
        (LABELLED_TO_JUDGE - 6, 6, LABELLED_TO_JUDGE - 6),
        (0, audit.BATCH, 0),
    ],
)
def test_a_batch_judges_when_nine_of_ten_texts_are_labelled_or_undecidable(growing, labelled, undecidable, judging):
    before = growing.freeze().version
    items = growing.log(*drawn_inputs(audit.BATCH))
    for item in items[:labelled]:
        growing.label(item, label="shipping")
    for item in items[labelled : labelled + undecidable]:
        growing.mark_undecidable(item)
    after = growing.freeze()
    assert after.version.holdout_audited == judging
    assert (after.version.holdout_hash == before.holdout_hash) == (judging == 0)
    assert (after.version.set_aside, after.version.corrections) == (labelled, 0)
    assert pairs(after.train) == pairs(SMALL_TRAIN)


def test_a_batch_that_still_grows_does_not_judge_however_well_it_is_labelled(growing):
    before = growing.freeze().version
    for item in growing.log(*drawn_inputs(audit.BATCH - 1)):
        growing.label(item, label="billing")
    dataset = growing.freeze()
    assert (dataset.version.holdout_hash, dataset.version.holdout_audited) == (before.holdout_hash, 0)
    assert (dataset.version.set_aside, dataset.version.corrections) == (audit.BATCH - 1, 0)


def test_each_batch_waits_for_its_own_labels_only(growing):
    items = growing.log(*drawn_inputs(3 * audit.BATCH))
    first, second, third = (items[start : start + audit.BATCH] for start in (0, 50, 100))
    for item in [*first[:20], *second, *third[:30]]:
        growing.label(item, label="billing")
    dataset = growing.freeze()
    assert [row.text for row in dataset.holdout[2:]] == [item.input["text"] for item in second]
    assert (dataset.version.set_aside, dataset.version.corrections) == (100, 0)
    for item in first[20:]:
        growing.label(item, label="shipping")
    again = growing.freeze()
    assert [row.text for row in again.holdout[2:]] == [item.input["text"] for item in [*first, *second]]
    assert (again.version.holdout_audited, again.version.corrections) == (100, 0)
    assert growing.accounted() == len(growing.train) + len(growing.holdout) + len(growing.feedback)


def test_the_newest_label_of_an_audited_text_judges(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for item in items:
        growing.label(item, label="billing")
    before = growing.freeze().version
    growing.label(items[7], label="shipping")
    after = growing.freeze()
    assert pairs(after.holdout)[2 + 7] == (items[7].input["text"], "shipping")
    assert after.version.holdout_hash != before.holdout_hash
    assert (after.version.set_aside, after.version.conflicts["texts"]) == (51, 0)


# --- held out for ever ---------------------------------------------------------------------------------------------------


def test_a_text_of_the_audit_that_nobody_labelled_is_in_neither_split(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for item in items[:46]:
        growing.label(item, label="billing")
    growing.train += [{**item.input, "label": "billing"} for item in items[46:]]
    dataset = growing.freeze()
    texts = {row.text for row in [*dataset.train, *dataset.holdout]}
    assert texts.isdisjoint(item.input["text"] for item in items[46:])
    assert dataset.version.removed_leaks == 4


def test_the_ledger_keeps_audited_texts_out_of_train_for_ever(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    growing.label(items[0], label="billing")
    texts = [item.input["text"] for item in items]
    growing.freeze()
    growing.share = 0.0
    growing.audited.clear()
    growing.correct(*({"text": text.upper(), "label": "billing"} for text in texts))
    growing.train += [{"text": f" {text}", "label": "shipping"} for text in texts]
    dataset = growing.freeze()
    assert pairs(dataset.train) == pairs(SMALL_TRAIN)
    assert pairs(dataset.holdout) == pairs(SMALL_HOLDOUT)
    assert (dataset.version.removed_leaks, dataset.version.corrections) == (50, 50)


def test_an_audited_request_with_a_text_of_the_base_holdout_does_not_judge_a_second_time(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for item in items:
        growing.label(item, label="billing")
    growing.holdout.append({"text": items[3].input["text"].upper(), "label": "shipping"})
    dataset = growing.freeze()
    assert (dataset.version.holdout_rows, dataset.version.holdout_audited) == (3 + 49, 49)
    assert pairs(dataset.holdout)[2] == (items[3].input["text"].upper(), "shipping")
    assert items[3].input["text"] not in {row.text for row in dataset.holdout}
    assert dataset.version.set_aside == 50


def test_requests_with_a_text_of_a_split_are_not_drawn_and_stay_where_they_are(growing):
    text = text_for("holdout")
    growing.train.append({"text": text, "label": "billing"})
    before = growing.freeze().version
    assert growing.log({"text": text.upper()}, {"text": "a parcel"}) == []
    assert growing.freeze().version.hash == before.hash


# --- feedback never judges -----------------------------------------------------------------------------------------------


def test_whatever_texts_a_sender_picks_nothing_that_it_sends_ever_judges(growing):
    growing.train, growing.holdout = keyword_rows(300, ("billing", "shipping"), seed=0), 0.2
    before = growing.freeze()
    chosen = (text for text in map("cheap pills {}".format, itertools.count()) if hash_fraction(fingerprint(text)) < 0.1)
    public = list(itertools.islice(chosen, 60))
    lucky = list(itertools.islice(texts_for("holdout", "cheaper pills"), 60))
    growing.correct(*({"text": text, "label": "billing"} for text in [*public, *lucky, *lucky]))
    growing.correct(*({"text": f"cheap pills are cheap {number}", "label": "billing"} for number in range(300)))
    growing.correct(*({"text": row.text, "label": "billing"} for row in before.holdout))
    after = growing.freeze()
    assert after.holdout == before.holdout
    assert after.version.holdout_hash == before.version.holdout_hash
    assert set(after.version.counts["holdout"]) == {"base", "audit"}
    assert after.version.counts["holdout"]["audit"] == {}
    assert (after.version.holdout_feedback, after.version.holdout_audited) == (0, 0)
    assert after.version.set_aside == len(before.holdout)
    assert {row.text for row in after.train}.isdisjoint(lucky)
    assert {*lucky} <= {row.text for row in corrections(growing, after)}


def test_feedback_does_not_change_the_label_of_an_audited_text_that_judges(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for item in items:
        growing.label(item, label="billing")
    before = growing.freeze().version
    growing.correct(*({"text": item.input["text"].upper(), "label": "shipping"} for item in items))
    after = growing.freeze().version
    assert (after.hash, after.holdout_hash) == (before.hash, before.holdout_hash)
    assert (after.set_aside, after.corrections, after.removed_leaks) == (100, 0, 0)


def corrections(growing: AuditedData, dataset: Dataset) -> list[Any]:
    version = dataset.version
    return read_corrections(growing.task_cls, growing.storage, version.uri, version.corrections_hash)


def test_feedback_on_texts_that_the_audit_draws_is_stored_beside_the_splits_and_hashed(growing):
    one, other = itertools.islice(texts_for("holdout"), 2)
    sent = [{"text": text, "label": label} for text, label in ((one, "billing"), (other, "billing"), (other, "shipping"))]
    before = growing.freeze().version
    growing.correct(*sent)
    dataset = growing.freeze()
    assert pairs(corrections(growing, dataset)) == [(one, "billing"), (other, "shipping")]
    assert dataset.version.corrections == 2
    content = growing.storage.read_dataset(dataset.version.uri, "corrections.jsonl")
    assert dataset.version.corrections_hash == hashlib.sha256(content).hexdigest()
    assert (dataset.version.hash, dataset.version.holdout_hash) == (before.hash, before.holdout_hash)
    assert dataset.version.conflicts["dropped"] == 1
    assert growing.accounted() == len(growing.train) + len(growing.holdout) + len(sent)
    growing.correct({"text": one.upper(), "label": "billing"})
    again = growing.freeze()
    assert pairs(corrections(growing, again)) == pairs(corrections(growing, dataset))
    assert again.version.removed_duplicates == 1


def test_corrections_that_another_freeze_of_the_same_splits_has_replaced_are_not_read(growing):
    growing.correct({"text": text_for("holdout"), "label": "billing"})
    before = growing.freeze()
    growing.correct({"text": text_for("holdout"), "label": "shipping"})
    after = growing.freeze()
    assert before.version.uri == after.version.uri
    assert corrections(growing, before) == []
    assert pairs(corrections(growing, after)) == [(text_for("holdout"), "shipping")]


def test_corrections_with_a_label_that_train_lacks_are_stored_and_make_no_class(growing):
    growing.correct({"text": text_for("holdout"), "label": "bug"})
    dataset = growing.freeze()
    assert pairs(corrections(growing, dataset)) == [(text_for("holdout"), "bug")]
    assert dataset.version.labels == ("billing", "shipping")
    assert dataset.version.quarantined_rows == 0


def test_corrections_become_judges_only_as_audited_labels(growing):
    inputs = drawn_inputs(audit.BATCH)
    items = growing.log(*inputs)
    growing.correct(*({**values, "label": "shipping"} for values in inputs))
    before = growing.freeze()
    assert (before.version.holdout_audited, before.version.corrections) == (0, 50)
    for item in items:
        growing.label(item, label="billing")
    after = growing.freeze()
    assert (after.version.holdout_audited, after.version.corrections, after.version.set_aside) == (50, 0, 100)
    assert {row.label for row in after.holdout[2:]} == {"billing"}


# --- labels and tasks ----------------------------------------------------------------------------------------------------


def test_an_audited_request_with_a_new_label_waits_until_the_label_is_a_class(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for number, item in enumerate(items):
        growing.label(item, label="bug" if number == 9 else "billing")
    texts = itertools.islice(texts_for("train", "it crashes"), 5)
    bugs = [{"text": text, "label": "bug"} for text in texts]
    growing.correct(*bugs[:4])
    before = growing.freeze()
    reasons = {told["where"]: told["reason"] for told in before.version.quarantined}
    assert reasons["audited request 10"] == "it is for the holdout, and no train row has the label 'bug'"
    assert (before.version.holdout_audited, before.version.quarantined_rows) == (49, 5)
    assert growing.accounted() == len(growing.train) + len(growing.holdout) + len(growing.feedback)
    growing.correct(bugs[4])
    after = growing.freeze()
    assert after.version.labels == ("billing", "bug", "shipping")
    assert pairs(after.holdout)[2 + 9] == (items[9].input["text"], "bug")
    assert (after.version.holdout_audited, after.version.quarantined_rows) == (50, 0)


def test_a_label_that_the_task_does_not_accept_any_more_does_not_judge_and_holds_nothing_up(growing):
    items = growing.log(*drawn_inputs(audit.BATCH))
    for number, item in enumerate(items):
        growing.label(item, label=7 if number == 4 else "billing")
    dataset = growing.freeze()
    assert dataset.version.holdout_audited == 49
    reason = "field 'label': 7: Input should be a valid string"
    assert [told["reason"] for told in dataset.version.quarantined] == [reason, reason]
    assert [told["where"] for told in dataset.version.quarantined] == ["feedback 5", "audited request 5"]


def test_an_audited_text_that_may_have_been_trained_on_with_masks_does_not_judge(growing):
    growing.redact = (r"\d{5,}",)
    growing.correct({"text": "order █████ is late", "label": "shipping"})
    growing.freeze()
    numbered = ({"text": f"order {number} is late"} for number in itertools.count(10_000))
    drawn = next(values for values in numbered if growing.is_drawn(fingerprint(values["text"])))
    items = growing.log(drawn, *drawn_inputs(audit.BATCH - 1))
    for item in items:
        growing.label(item, label="billing")
    dataset = growing.freeze()
    assert dataset.version.holdout_audited == audit.BATCH - 1
    assert drawn["text"] not in {row.text for row in [*dataset.train, *dataset.holdout]}


def test_in_question_answering_every_question_about_an_audited_context_is_held_out(growing):
    def question(asked: str, context: str, answer: str) -> dict[str, Any]:
        return {
            "question": asked,
            "context": context,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]},
        }

    growing.task_cls = QuestionAnswering
    growing.train = [question("where?", "Rome is in Italy", "Italy")]
    growing.holdout = [question("where?", "Paris is in France", "France")]
    contexts = list(itertools.islice(texts_for("holdout", "Oslo is a city"), audit.BATCH))
    items = growing.log(*({"question": "what?", "context": context} for context in contexts))
    for item in items:
        growing.label(item, answers={"text": ["a city"], "answer_start": [8]})
    growing.correct(question("who?", contexts[0], "Oslo"), question("what?", contexts[0], "Oslo"))
    growing.train.append(question("which?", contexts[1].upper(), "OSLO"))
    dataset = growing.freeze()
    assert [example.context for example in dataset.holdout[1:]] == contexts
    assert [example.question for example in corrections(growing, dataset)] == ["who?"]
    assert (dataset.version.set_aside, dataset.version.removed_leaks, dataset.version.train_rows) == (51, 1, 1)


def test_feedback_on_a_declared_train_text_does_not_change_the_holdout_when_runs_train_on_other_data(growing, tmp_path):
    growing.train = [*keyword_rows(60, ("billing", "shipping"), seed=0), {"text": text_for("holdout"), "label": "billing"}]
    growing.holdout = 0.1
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in keyword_rows(10, ("billing", "shipping"), seed=4)))
    before = growing.freeze(train=str(other)).version
    growing.correct({"text": text_for("holdout"), "label": "shipping"})
    after = [growing.freeze(train=str(other)).version, growing.freeze(train=str(other)).version, growing.freeze().version]
    assert [version.holdout_hash for version in after] == [before.holdout_hash] * 3
