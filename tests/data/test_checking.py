"""What `baton data` finds in files: planted faults are told, and what is fine is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from baton.config.model_settings import DataSettings
from baton.tasks import TASKS, task_type
from tests.tasks.test_task_contract import ROWS, row_of
from training.data.checking import check
from training.data.findings import DataReport, Look
from training.data.guessing import Guess, guess

UNMEASURED = Look(task_cls=task_type("classification"), lengths=None, max_length=8)
"""A look that counts no tokens."""


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def looked(
    directory: Path, train: list[Any], holdout: list[Any] | None = None, task: str = "classification", **fields: str
) -> DataReport:
    data = DataSettings(
        train=write(directory / "train.jsonl", train),
        holdout=0.2 if holdout is None else write(directory / "test.jsonl", holdout),
        fields=fields,
    )
    return check(data, Look(task_cls=task_type(task), lengths=words, max_length=8))


def told(report: DataReport, directory: Path) -> list[tuple[str, int, str]]:
    return [(one.level, one.rows, one.what.replace(f"{directory}/", "")) for one in report.findings]


def fine(count: int = 12) -> list[dict[str, Any]]:
    return [{"text": f"where is parcel number {number}", "label": "ab"[number % 2]} for number in range(count)]


def test_of_good_data_nothing_is_told(tmp_path: Path) -> None:
    report = looked(tmp_path, fine(), [{"text": "where is it", "label": "a"}])
    assert report.findings == []
    assert report.usable
    train, holdout = report.splits
    assert (train.name, train.rows, train.labels, train.scripts) == ("train", 12, {"a": 6, "b": 6}, {"Latin": 1.0})
    assert train.tokens == {"median": 5.0, "p95": 5.0, "max": 5.0, "cut": 0.0}
    assert (holdout.name, holdout.rows) == ("holdout", 1)


@pytest.mark.parametrize(("rows", "holdout", "few"), [(140, 0.2, True), (150, 0.2, False), (60, 0.5, False)])
def test_a_holdout_that_judges_nothing_is_told_before_anything_trains(tmp_path: Path, rows: int, holdout: float, few: bool):
    data = DataSettings(train=write(tmp_path / "train.jsonl", fine(rows)), holdout=holdout)
    report = check(data, UNMEASURED, min_rows=30)
    assert [one.what for one in report.findings] == [
        "the holdout gets 28 rows, 0.2 of 140, and the gate asks for 30 texts that differ (gate.min_rows): no version can take "
        "over. Add rows, or hold out a larger part (data.holdout)"
    ] * few
    assert all(one.level == "warning" for one in report.findings)


def test_a_holdout_file_that_judges_nothing_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "test.jsonl", [{"text": "where is it", "label": "a"}])
    data = DataSettings(train=write(tmp_path / "train.jsonl", fine()), holdout=file)
    [finding] = check(data, UNMEASURED, min_rows=2).findings
    assert finding.what.startswith("the holdout gets 1 row, and the gate asks for 2 texts")


def test_planted_faults_are_found(tmp_path: Path) -> None:
    rows = [
        *fine(),
        {"text": "Where is  parcel number 0", "label": "a"},
        {"text": "where is parcel number 1", "label": "a"},
        {"text": "<p>where?</p>", "label": "a"},
        {"text": "N/A", "label": "b"},
        {"text": "...", "label": "b"},
        {"text": "DÃ©jÃ  vu", "label": "B"},
        {"text": "caf\ufffd", "label": "b", "id": 7},
        {"text": "a\x00b", "label": "b"},
        {"text": "nine words are more than eight of them here", "label": "b"},
        {"text": "nine words are more than eight of them there", "label": "b"},
    ]
    report = looked(tmp_path, rows, [{"text": "where is parcel number 2", "label": "a"}])
    assert report.usable
    assert told(report, tmp_path) == [
        ("warning", 1, "train: texts with different answers (data.conflicts chooses one)"),
        ("warning", 1, "train: replacement characters, left by a wrong encoding"),
        ("warning", 1, "train: UTF-8 that was read as Windows-1252"),
        ("warning", 1, "train: HTML"),
        ("warning", 1, "train: control characters"),
        ("warning", 1, "train: a placeholder instead of a text"),
        ("warning", 1, "train: neither a letter nor a digit"),
        (
            "warning",
            0,
            "train: 9% of the texts have more than 8 tokens, and only their beginnings are read; set training.max_length, or "
            "training.long_text: windows",
        ),
        ("warning", 0, "labels that look alike: 'b' (12 rows), 'B' (1 row)"),
        ("warning", 0, "1 label with fewer than 5 rows in train: 'B' (1)"),
        ("warning", 1, "train rows whose text is in the holdout, too: a run leaves them out"),
        ("note", 0, "train.jsonl: not read: 'id'"),
        ("note", 1, "train: repeated rows, which count once"),
    ]
    places = {one.what: one.examples for one in report.findings}
    assert places["train: repeated rows, which count once"] == [
        f"{tmp_path}/train.jsonl line 13 repeats {tmp_path}/train.jsonl line 1"
    ]


def test_what_would_stop_a_run_is_an_error(tmp_path: Path) -> None:
    report = looked(tmp_path, fine(), [{"text": "where is it", "label": "c"}])
    assert told(report, tmp_path) == [("error", 0, "the holdout has labels that train lacks: 'c'")]
    assert not report.usable
    report = looked(tmp_path, [{"text": "x", "label": "a"}])
    assert ("error", 0, "classification needs at least two labels in the training data; it has only 'a'") in told(
        report, tmp_path
    )
    [error] = looked(tmp_path, [{"text": "x"}]).findings
    assert (error.level, error.what.splitlines()[0]) == ("error", f"{tmp_path}/train.jsonl: 1 row cannot be used")


def test_entities_that_no_answer_can_match_are_told_with_the_best_f1(tmp_path: Path) -> None:
    rows = [
        {"text": "A New York-based firm", "entities": [[2, 10, "LOC"]]},
        {"text": "Anna lives in Rome.", "entities": [[0, 4, "PER"], [14, 18, "LOC"]]},
    ]
    report = looked(tmp_path, rows, task="ner")
    assert told(report, tmp_path)[0] == (
        "warning",
        0,
        "train: 1 of 3 entities begin or end inside a word, where no answer can (first: 'New York' in 'A New York-based firm')"
        "; the best possible F1 is 0.800",
    )


def test_columns_and_scripts_are_read_as_the_settings_say(tmp_path: Path) -> None:
    rows = [{"body": "你好 world", "label": label} for label in "ab"]
    report = looked(tmp_path, rows, text="body")
    assert report.splits[0].scripts == pytest.approx({"Latin": 5 / 7, "Cjk": 2 / 7})
    assert report.findings[0].what == "train: texts with different answers (data.conflicts chooses one)"


@pytest.mark.parametrize(
    ("task", "number"), [(task, number) for task, rows in ROWS.items() if task in TASKS for number in range(len(rows))]
)
def test_the_task_is_guessed_from_the_rows(tmp_path: Path, task: str, number: int) -> None:
    row = row_of(task, ROWS[task][number])
    guessed = guess(write(tmp_path / "t.jsonl", [row]), {}).task
    several = len(row.get("label", "")) > 1  # one label may be a class, and none may be no entity
    assert guessed == task or (task == "multi_label" and not several)


def test_of_columns_whose_names_do_not_tell_the_label_is_what_the_texts_tell(tmp_path: Path) -> None:
    words = {
        "money": "I was charged twice for order",
        "parcels": "where is the parcel of order",
        "access": "no login without order",
    }
    kinds = list(words)
    rows = [
        {"wrote": f"{words[kinds[at % 3]]} {at}", "channel": "web" if at % 7 < 4 else "mail", "team": kinds[at % 3]}
        for at in range(60)
    ]
    source = write(tmp_path / "t.jsonl", rows)
    assert guess(source, {}) == Guess(task="classification", fields={"text": "wrote", "label": "team"}, others=("channel",))
    assert guess(source, {"label": "channel"}).others == ()


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        ([{"Body": f"text {number}", "Intent": "ab"[number % 2], "id": str(number)} for number in range(6)],
         {"text": "Body", "label": "Intent"}),
        ([{"n": str(number), "what they wrote": f"a longer text {number}", "kind": "ab"[number % 2]} for number in range(6)],
         {"text": "what they wrote", "label": "kind"}),
    ],
)  # fmt: skip
def test_columns_of_other_names_are_guessed(tmp_path: Path, rows: list[Any], fields: dict[str, str]) -> None:
    source = write(tmp_path / "t.jsonl", rows)
    assert guess(source, {}) == Guess(task="classification", fields=fields)
    [first, *_] = rows[0]
    assert guess(source, {"label": first}).fields["label"] == first


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"text": "Anna", "entities": [[0, 9, "PER"]]}, "ner"),
        ({"text": "Anna", "spans": [{"start": 0}]}, "ner"),
        ({"question": "who?", "context": "Anna", "answers": [{"text": "Bob", "answer_start": 0}]}, "qa"),
        ({"text": "a", "label": 7}, "classification"),
    ],
)
def test_a_broken_row_is_told_as_one_of_its_task(tmp_path: Path, row: dict[str, Any], task: str) -> None:
    assert guess(write(tmp_path / "t.jsonl", [row]), {}).task == task


@pytest.mark.parametrize("broken", [{"Body": "  ", "Team": "a"}, {"Body": "a text", "Team": ""}])
def test_a_broken_row_does_not_hide_the_columns(tmp_path: Path, broken: dict[str, str]) -> None:
    rows = [{"Body": f"text {number}", "Team": "ab"[number % 2]} for number in range(6)]
    found = Guess(task="classification", fields={"text": "Body", "label": "Team"})
    assert guess(write(tmp_path / "t.jsonl", [*rows, broken]), {}) == found
    assert guess(write(tmp_path / "t.jsonl", [broken, *rows]), {}) == found


def test_a_file_that_fits_nothing_is_a_classification_as_it_stands(tmp_path: Path) -> None:
    assert guess(write(tmp_path / "t.jsonl", [{"a": 1}]), {}) == Guess(task="classification", fields={})
