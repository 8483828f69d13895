"""The windows that show int8 its ranges come from all training rows, and are not too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from baton.artifacts.manifest import Manifest
from baton.tasks.classification import TextExample
from training.int8_ranges import TOKENS, draw_windows

MANIFEST = Manifest(
    model="m",
    task="classification",
    labels=("first", "last"),
    max_length=64,
    base_model="tiny",
    dataset={},
    training={},
    metrics={},
    code_version="0",
)


def rows(count: int, words: int) -> list[TextExample]:
    """Rows sorted by label, as many files are: a first half of «invoice», a last of «parcel»."""
    return [
        TextExample(text=f"{'invoice ' if number < count // 2 else 'parcel '}" * words, label="first")
        for number in range(count)
    ]


def test_sorted_rows_are_drawn_from_the_first_to_the_last(tiny_base: Path):
    windows = draw_windows(tiny_base, MANIFEST, rows(1000, 60))
    firsts = [int(window["input_ids"][0, 1]) for window in windows]
    assert len(set(firsts)) == 2, "one word each"
    assert 0.3 < firsts.count(firsts[0]) / len(firsts) < 0.7


def test_they_end_with_the_tokens_that_are_wanted(tiny_base: Path):
    windows = draw_windows(tiny_base, MANIFEST, rows(1000, 60))
    sizes = [window["input_ids"].size for window in windows]
    assert sum(sizes[:-1]) < TOKENS <= sum(sizes)
    assert max(sizes) <= MANIFEST.max_length


def test_few_rows_are_all_used_and_none_is_none(tiny_base: Path):
    few = draw_windows(tiny_base, MANIFEST, rows(10, 3))
    assert len(few) == 10
    assert all(window["attention_mask"].all() and window["input_ids"].shape[0] == 1 for window in few)
    assert draw_windows(tiny_base, MANIFEST, []) == []


def test_the_same_rows_give_the_same_windows(tiny_base: Path):
    once, again = (draw_windows(tiny_base, MANIFEST, rows(300, 60)) for _ in range(2))
    assert all(np.array_equal(one["input_ids"], other["input_ids"]) for one, other in zip(once, again, strict=True))
