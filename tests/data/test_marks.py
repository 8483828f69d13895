"""Columns beside the task's fields: groups that stay together, and slices on which a loss is limited."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from baton.artifacts.frozen import read_holdout
from baton.artifacts.storage import Storage
from baton.config.file import override
from baton.config.model_settings import DataSettings
from baton.errors import ConfigError, DataError
from baton.tasks.classification import Classification
from baton.tasks.qa import QuestionAnswering
from tests.support.growing import GrowingData
from tests.support.world import settings_of
from training.data.datasets import Dataset, freeze
from training.judge.holdout import describe_holdout

GROUPED = {"fields": {"group": "customer"}}
LABELS = ("billing", "shipping")


@pytest.fixture
def data(tmp_path: Path) -> GrowingData:
    growing = GrowingData(tmp_path, Storage(str(tmp_path / "storage")))
    growing.settings = dict(GROUPED)
    return growing


def row(text: int, customer: object, label: int = 0, **more: object) -> dict[str, Any]:
    return {"text": f"text {text}", "label": LABELS[label], "customer": customer, **more}


def many(customers: int, each: int = 4) -> list[dict[str, Any]]:
    return [row(number, f"c{number // each}", number % 2) for number in range(customers * each)]


def texts(examples: Sequence[Any]) -> set[int]:
    return {int(one.text.split()[1]) for one in examples}


def customers_of(dataset: Dataset, split: str, rows: Sequence[Mapping[str, Any]]) -> set[object]:
    held = texts(getattr(dataset, split))
    return {one["customer"] for one in rows if int(one["text"].split()[1]) in held}


# --- groups --------------------------------------------------------------------------------------------------------------


def test_a_share_is_drawn_of_the_groups_and_no_group_is_in_both_splits(data):
    data.train, data.holdout = many(40), 0.25
    frozen = data.freeze()
    held, trained = (customers_of(frozen, split, data.train) for split in ("holdout", "train"))
    assert held.isdisjoint(trained)
    assert len(held | trained) == 40
    assert 4 <= len(held) <= 20
    assert len(frozen.holdout) == 4 * len(held)


def test_without_the_column_the_same_rows_are_drawn_one_by_one(data):
    data.train, data.holdout, data.settings = many(40), 0.25, {}
    frozen = data.freeze()
    assert customers_of(frozen, "holdout", data.train) & customers_of(frozen, "train", data.train)


def test_new_rows_of_a_group_follow_it(data):
    data.train, data.holdout = many(40), 0.25
    first = data.freeze()
    held = customers_of(first, "holdout", data.train)
    data.train += [row(1_000 + number, f"c{number}", number % 2) for number in range(40)]
    second = data.freeze()
    assert customers_of(second, "holdout", data.train) == held
    assert texts(second.holdout) >= texts(first.holdout)
    assert len(second.holdout) == len(first.holdout) + len(held)


def test_train_rows_of_a_group_of_the_holdout_file_are_leaks(data):
    data.train = [row(1, "a"), row(2, "b", 1), row(3, "b"), row(4, "c", 1)]
    data.holdout = [row(5, "b"), row(6, "d", 1)]
    frozen = data.freeze()
    assert (texts(frozen.train), frozen.version.removed_leaks) == ({1, 4}, 2)
    assert texts(frozen.holdout) == {5, 6}


def test_a_group_that_was_trained_on_cannot_judge_later(data):
    data.train, data.holdout = [row(1, "a"), row(2, "b", 1), row(8, "c", 1)], [row(5, "x"), row(6, "y", 1)]
    data.freeze()
    data.train, data.holdout = [row(1, "a"), row(2, "b", 1), row(8, "c", 1)], [row(5, "x"), row(6, "y", 1), row(7, "b")]
    frozen = data.freeze()
    assert texts(frozen.holdout) == {5, 6}
    assert [entry["reason"] for entry in frozen.version.quarantined] == [
        "rows of its group (data.fields.group) are, or were, in the train split"
    ]


def test_rows_without_a_group_move_by_their_text(data):
    data.train = [row(1, None), row(2, "", 1), row(3, " ")]
    data.holdout = [row(4, None), row(5, "", 1)]
    frozen = data.freeze()
    assert (len(frozen.train), len(frozen.holdout)) == (3, 2)


def test_only_rows_of_one_file_that_are_all_one_group_cannot_be_split(data):
    data.train, data.holdout = [row(number, "a", number % 2) for number in range(6)], 0.5
    with pytest.raises(DataError, match="cannot be split into train and holdout"):
        data.freeze()


numbers = st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 1))


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "train": st.lists(numbers, min_size=2, max_size=12),
                "holdout": st.lists(numbers, min_size=1, max_size=5) | st.just(0.4),
                "feedback": st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=3),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_happens_no_declared_group_is_in_both_splits_and_no_text_is_ever(steps):
    with tempfile.TemporaryDirectory() as directory:
        data = GrowingData(Path(directory), Storage(f"{directory}/storage"))
        data.settings = dict(GROUPED)
        ever: dict[str, set[int]] = {"train": set(), "holdout": set()}
        for step in steps:
            holdout = step["holdout"]
            data.train = [row(*one) for one in step["train"]]
            data.holdout = holdout if isinstance(holdout, float) else [row(*one) for one in holdout]
            data.correct(*({"text": f"text {text}", "label": LABELS[label]} for text, label in step["feedback"]))
            try:
                frozen = data.freeze()
            except DataError:
                continue
            judging = holdout if not isinstance(holdout, float) else step["train"]
            kept = {(one.text, one.label) for one in frozen.train}
            held = {(one.text, one.label) for one in frozen.holdout}
            trained = {group for text, group, label in step["train"] if (f"text {text}", LABELS[label]) in kept}
            tested = {group for text, group, label in judging if (f"text {text}", LABELS[label]) in held}
            unsure = {group for text, group, _ in [*step["train"], *judging] if _of_several_groups(text, step)}
            assert (trained - unsure).isdisjoint(tested - unsure)
            for split in ever:
                ever[split] |= texts(getattr(frozen, split))
        assert ever["train"].isdisjoint(ever["holdout"])


def _of_several_groups(text: int, step: Mapping[str, Any]) -> bool:
    """Tell whether rows of several groups have the text: of which one a frozen row is cannot be told from outside."""
    rows = [*step["train"], *(step["holdout"] if isinstance(step["holdout"], list) else ())]
    return len({group for other, group, _ in rows if other == text}) > 1


def test_the_gate_counts_a_group_once(data):
    data.train, data.holdout = [row(1, "a"), row(2, "a", 1)], [row(3, "x"), row(4, "y", 1), row(5, "x", 1), row(6, None)]
    frozen = data.freeze()
    holdout = describe_holdout(Classification, frozen.holdout, frozen.version.holdout_hash, marks=frozen.marks)
    assert holdout.groups.tolist() == [0, 1, 0, 2]
    assert len(set(holdout.fingerprints)) == 4, "matches are counted by texts, whatever the groups are called"


def test_a_context_and_its_group_are_one_and_so_is_what_they_connect():
    rows = [
        {"question": f"why {number}?", "context": f"text {number // 2}", "answers": {"text": [], "answer_start": []}}
        for number in range(6)
    ]
    examples = [QuestionAnswering.Example.model_validate(one) for one in rows]
    marks = [{"unit": unit, "slices": {}} for unit in ("a", "b", "b", None, None, None)]
    assert describe_holdout(QuestionAnswering, examples, "h", marks=marks).groups.tolist() == [0, 0, 0, 0, 1, 1]


# --- slices --------------------------------------------------------------------------------------------------------------


def test_slices_are_frozen_with_the_holdout_and_change_its_data_set_but_not_its_hash(data):
    data.train = [row(1, "a"), row(2, "b", 1)]
    data.holdout = [row(3, "x", language="de"), row(4, "y", 1, language="en"), row(5, "z", language=None)]
    data.settings = {}
    plain = data.freeze()
    data.settings = {"slices": ["language"]}
    sliced = data.freeze()
    assert list(plain.marks) == []
    assert [mark["slices"] for mark in sliced.marks] == [{"language": "de"}, {"language": "en"}, {"language": ""}]
    assert (sliced.version.holdout_hash, sliced.version.hash == plain.version.hash) == (plain.version.holdout_hash, False)
    read, marks = read_holdout(Classification, data.storage, sliced.version.uri)
    assert (read, marks) == (list(sliced.holdout), list(sliced.marks))
    assert read_holdout(Classification, data.storage, plain.version.uri) == (list(plain.holdout), [])
    holdout = describe_holdout(Classification, read, "h", marks=marks)
    assert {name: rows.tolist() for name, rows in holdout.slices.items()} == {
        "language de": [True, False, False],
        "language en": [False, True, False],
    }


def test_altered_marks_are_noticed(data):
    data.train, data.holdout = [row(1, "a"), row(2, "b", 1)], [row(3, "x"), row(4, "y", 1)]
    uri = data.freeze().version.uri
    [path] = Path(data.storage.url).rglob("marks.jsonl")
    path.write_text(path.read_text().replace("unit", "Unit"))
    with pytest.raises(DataError, match="was altered"):
        read_holdout(Classification, data.storage, uri)


def test_only_the_file_of_the_holdout_needs_the_columns_of_slices(data):
    data.train, data.holdout = [row(1, "a"), row(2, "b", 1)], [row(3, "x", channel="mail"), row(4, "y", 1)]
    data.settings = {"slices": ["channel"]}
    with pytest.raises(DataError, match=r"holdout.jsonl line 2: field 'channel' is missing; the row has .* \(data.slices\)"):
        data.freeze()
    data.holdout[1]["channel"] = "chat"
    assert len(data.freeze().holdout) == 2


@pytest.mark.parametrize(("settings", "what"), [({"slices": ["langage"]}, "data.slices"), (GROUPED, "data.fields.group")])
def test_a_missing_column_is_told_with_the_setting_that_names_it(tmp_path, settings, what):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {number}", "label": LABELS[number % 2], "language": "de"} for number in range(9)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    data = DataSettings.model_validate({"train": str(path), "holdout": 0.3, **settings})
    with pytest.raises(DataError, match=f"is missing.*\\({what}\\)"):
        freeze("m", Classification, data, Storage(str(tmp_path / "storage")))


def test_the_field_group_is_allowed_for_every_task_and_others_are_not(tmp_path):
    settings = settings_of(tmp_path, tmp_path, tmp_path)
    for field, allowed in (("group", True), ("grup", False)):
        values = settings.model_dump(mode="json")
        values["data"]["fields"] = {field: "customer"}
        if allowed:
            assert type(settings).model_validate(values).data.group_column == "customer"
        else:
            with pytest.raises(ValidationError, match=r"'grup' is not a field of classification rows; allowed: .*group"):
                type(settings).model_validate(values)


# --- what traffic and runs cannot do to groups ---------------------------------------------------------------------------


def test_a_correction_of_one_text_of_a_held_out_group_neither_trains_nor_takes_the_others_out(data):
    data.train = [row(1, "a"), row(2, "b", 1), row(3, "x")]
    data.holdout = [row(5, "x"), row(6, "y", 1), row(7, "x")]
    data.freeze()
    data.correct({"text": "text 3", "label": "shipping"})
    for _ in range(2):
        frozen = data.freeze()
        assert (texts(frozen.train), texts(frozen.holdout)) == ({1, 2}, {5, 6, 7})


def test_a_corrected_text_that_joins_the_file_later_takes_no_group_out_of_the_holdout(data):
    data.train, data.holdout = many(40), 0.25
    first = data.freeze()
    held = sorted(customers_of(first, "holdout", data.train))
    data.correct(*({"text": f"text {2_000 + number}", "label": LABELS[number % 2]} for number in range(5)))
    data.freeze()
    data.train += [row(2_000 + number, held[number % len(held)], number % 2) for number in range(5)]
    assert texts(data.freeze().holdout) == texts(first.holdout)


def test_a_run_on_other_data_learns_nothing_of_a_held_out_group(tmp_path, data):
    data.train, data.holdout = [row(1, "a"), row(2, "b", 1), row(3, "x")], [row(5, "x"), row(6, "y", 1)]
    declared = data.data()
    other = tmp_path / "other.jsonl"
    rows = [{"text": f"text {number}", "label": LABELS[number % 2]} for number in (1, 2, 3, 9)]
    other.write_text("".join(json.dumps(one) + "\n" for one in rows))
    run = declared.model_copy(update={"train": str(other), "fields": {"group": "nothing"}})
    frozen = freeze("m", Classification, run, data.storage, declared=declared)
    assert (texts(frozen.train), texts(frozen.holdout)) == ({1, 2, 9}, {5, 6})


def test_a_column_of_ids_is_no_slice(data):
    data.train = [row(1, "a"), row(2, "b", 1)]
    data.holdout = [row(10 + number, f"c{number}", number % 2) for number in range(101)]
    data.settings = {"slices": ["customer"]}
    with pytest.raises(DataError, match="the column 'customer' has 101 values in the holdout; at most 100 are allowed"):
        data.freeze()


def test_a_group_with_broken_unicode_is_told_with_its_place(data):
    data.train, data.holdout = [row(1, "a"), row(2, "b\ud800", 1)], [row(3, "x"), row(4, "y", 1)]
    with pytest.raises(DataError, match=r"train\.jsonl line 2, field 'customer': a lone surrogate at character 1"):
        data.freeze()


def test_a_single_slice_without_a_list_is_told_how_to_write_it():
    with pytest.raises(ValidationError, match=r"give a list of columns: \[language\]"):
        DataSettings.model_validate({"train": "a.jsonl", "slices": "language"})


def test_no_run_chooses_what_moves_together(tmp_path):
    settings = settings_of(tmp_path, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"'data\.fields\.group' cannot be overridden for one run: it decides who judges"):
        override(settings, ["data.fields.group=client"])
    assert override(settings, ["data.fields.text=body"]).data.fields == {"text": "body"}
