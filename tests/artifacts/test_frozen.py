"""What differs between two frozen data sets: rows that came, went, or were given another answer."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from baton.artifacts.frozen import (
    CHANGES_SHOWN,
    QUARANTINE,
    SHOWN_CHARACTERS,
    SplitDifference,
    difference,
    hashes,
    read_splits,
    to_bytes,
)
from baton.artifacts.storage import Storage
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.classification import Classification
from baton.tasks.multi_label import MultiLabel
from baton.tasks.ner import Ner
from baton.tasks.qa import QuestionAnswering

Rows = Sequence[Mapping[str, Any]]


def row(text: str, label: Any, **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, **more}


def changed(before: Rows, after: Rows, task_cls: type[AnyTask] = Classification) -> SplitDifference:
    """What became of the train split; the holdout stays."""
    judge = [task_cls.Example.model_validate(it) for it in (*before, *after)][:1]
    with tempfile.TemporaryDirectory() as directory:
        storage, uris = Storage(directory), []
        for rows in (before, after):
            train = [task_cls.Example.model_validate(it) for it in rows]
            content = {"train": to_bytes(train), "holdout": to_bytes(judge)}
            uris.append(f"data/{hashes(content)[1]}")
            storage.write_dataset(uris[-1], {f"{split}.jsonl": lines for split, lines in content.items()}, {QUARANTINE: b""})
        found = difference(task_cls, storage, *uris)
    assert (found["holdout"].rows, found["holdout"].changes) == (1, [])
    return found["train"]


def test_rows_that_came_and_went_are_counted_by_label_and_told_newest_side_first():
    change = changed([row("a", "x"), row("b", "x"), row("c", "y")], [row("c", "y"), row("d", "x"), row("e", "z")])
    assert (change.rows_before, change.rows) == (3, 3)
    assert (change.added_rows, change.removed_rows, change.relabelled_rows) == (2, 2, 0)
    assert (change.added, change.removed, change.relabelled) == ({"x": 1, "z": 1}, {"x": 2}, {})
    assert change.changes == [
        {"what": "added", "text": "d", "before": None, "after": {"label": "x"}},
        {"what": "added", "text": "e", "before": None, "after": {"label": "z"}},
        {"what": "removed", "text": "a", "before": {"label": "x"}, "after": None},
        {"what": "removed", "text": "b", "before": {"label": "x"}, "after": None},
    ]


def test_the_same_text_with_another_answer_is_relabelled_however_it_is_written():
    change = changed([row("Late  again", "x"), row("b", "y")], [row("ＬＡＴＥ again", "y"), row("b", "y")])
    assert (change.added_rows, change.removed_rows, change.relabelled) == (0, 0, {"x → y": 1})
    assert change.changes == [
        {"what": "relabelled", "text": "ＬＡＴＥ again", "before": {"label": "x"}, "after": {"label": "y"}}
    ]


def test_another_way_of_writing_or_another_order_is_no_change():
    change = changed([row("Late", "x"), row("b", "y")], [row("b", "y"), row(" LATE", "x")])
    assert (change.added_rows, change.removed_rows, change.relabelled_rows, change.changes) == (0, 0, 0, [])


def test_repeated_rows_of_a_holdout_are_compared_one_by_one():
    change = changed([row("a", "x"), row("A", "x"), row("a", "y")], [row("a", "x"), row("a", "z")])
    assert (change.added_rows, change.removed, change.relabelled) == (0, {"y": 1}, {"x → z": 1})
    assert changed([row("a", "x")], [row("a", "x")] * 3).added == {"x": 2}


def test_the_texts_of_a_pair_are_told_apart_and_shown_with_a_stroke():
    change = changed([row("a b", "x", text_pair="c")], [row("a", "x", text_pair="b c")])
    assert [it["text"] for it in change.changes] == ["a | b c", "a b | c"]


def test_labels_are_counted_each_and_an_answer_without_any_is_named():
    before = [row("a", ["x", "y"]), row("b", ["x"]), row("c", [])]
    change = changed(before, [row("a", []), row("c", ["x"]), row("d", ["y", "x"]), row("e", [])], MultiLabel)
    assert change.relabelled == {"x, y → (none)": 1, "(none) → x": 1}
    assert (change.added, change.removed) == ({"": 1, "x": 1, "y": 1}, {"x": 1})


def test_an_answer_that_differs_in_more_than_its_labels_is_another_answer():
    def tagged(end: int) -> dict[str, Any]:
        return {"text": "Oslo Oslo", "entities": [{"start": 0, "end": end, "label": "LOC"}]}

    def asked(answer: str) -> dict[str, Any]:
        context = "Oslo is a city"
        return {"question": "what?", "context": context, "answers": {"text": [answer], "answer_start": [context.index(answer)]}}

    assert changed([tagged(4)], [tagged(9)], Ner).relabelled == {"another answer": 1}
    change = changed([asked("Oslo")], [asked("a city")], QuestionAnswering)
    assert change.relabelled == {"another answer": 1}
    assert change.changes[0]["text"] == "what? | Oslo is a city"


def test_only_the_first_changes_are_listed_and_long_texts_are_cut():
    change = changed([row("a", "x")], [row(f"{number} {'long ' * 100}", "x") for number in range(100)])
    assert (change.added_rows, change.removed_rows, len(change.changes)) == (100, 1, CHANGES_SHOWN)
    assert {len(it["text"]) for it in change.changes} == {SHOWN_CHARACTERS}
    assert change.changes[0]["text"].endswith("…")


def test_sides_that_were_frozen_for_another_task_are_told_so():
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    splits = {name: to_bytes([Classification.Example(text=name, label="x")]) for name in ("train", "holdout")}
    uri = f"models/m/datasets/{hashes(splits)[1]}"
    storage.write_dataset(uri, {f"{name}.jsonl": content for name, content in splits.items()}, {"dataset.json": b"{}"})
    assert [example.text for example in read_splits(Classification, storage, uri)["train"]] == ["train"]
    with pytest.raises(DataError, match="the data set was frozen for another task than qa: Field required"):
        read_splits(QuestionAnswering, storage, uri)
