"""Confident learning: which rows are suspect, given probabilities; and from a file to a list of doubtful rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import MOST_SUSPECTS, stored_suspects
from baton.config.model_settings import DataSettings, ModelSettings
from baton.errors import DataError
from tests.support.tiny import keyword_rows
from training import looking
from training.methods.suspects import confident_errors, suspects


def test_a_row_is_suspect_if_another_label_is_as_probable_as_for_the_rows_that_have_it():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.25, 0.75], [0.15, 0.85]])
    given = np.array([0, 0, 1, 1, 0, 0])
    # label 1 has 0.75 on average: row 4 is at least as much label 1, and row 5 more so; row 3 is not clearly either
    assert confident_errors(probabilities, given) == [(5, 1, pytest.approx(0.7)), (4, 1, pytest.approx(0.5))]


def test_a_label_that_no_row_has_is_suggested_to_none():
    found = confident_errors(np.array([[0.1, 0.2, 0.7], [0.2, 0.1, 0.7]]), np.array([0, 1]))
    assert [(row, other) for row, other, _ in found] == [(0, 1), (1, 0)]


def settings(base: Path, train: Path, task: str = "classification") -> ModelSettings:
    return ModelSettings(name="m", task=task, base_model=str(base), data=DataSettings(train=str(train)))


def test_planted_errors_are_among_the_suspects_which_are_written_as_corrections(tiny_base: Path, tmp_path: Path):
    labels = ("billing", "shipping", "crash")
    rows = keyword_rows(300, labels, seed=1)
    wrong = range(0, 300, 20)  # 5% of the rows
    for number in wrong:
        rows[number] = {**rows[number], "label": next(label for label in labels if label != rows[number]["label"])}
    train, doubtful = tmp_path / "train.jsonl", tmp_path / "doubtful.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    storage = Storage(str(tmp_path / "storage"))
    report = json.loads(looking.look(settings(tiny_base, train), guess=False, suspects_file=doubtful, storage=storage))
    found = [json.loads(line) for line in doubtful.read_text().splitlines()]
    assert (report["review_problem"], stored_suspects(storage, "m")) == (None, found[:MOST_SUSPECTS])
    assert report["suspects"] == len(found)
    assert report["usable"]
    assert set(found[0]) == {"text", "label", "_suggested", "_margin", "_where"}
    places = [one["_where"] for one in found]
    planted = {f"{train} line {number + 1}" for number in wrong}
    assert len(planted & {*places}) >= 0.6 * len(planted)
    assert len(planted & {*places}) > 4 * len(places) * len(planted) / len(
        rows
    )  # a random choice would hit the share of errors


def test_suspects_are_for_texts_with_one_label(tiny_base: Path, tmp_path: Path):
    with pytest.raises(DataError, match="suspects are found for classification only; m is of the task ner"):
        suspects(settings(tiny_base, tmp_path / "t.jsonl", "ner"), [])
