"""AugmentedDataset texts: at the stated rates, never empty, fresh each epoch, and of the training rows alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from baton.config.training_settings import AugmentSettings
from baton.predict.predictor import load_tokenizer
from baton.tasks.classification import Classification, TextExample
from baton.tasks.multi_label import MultiLabel, MultiLabelExample
from tests.support.world import World, same, whole_and_resumed
from training.data.augmentation import AugmentedDataset, augment

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]
TEXT = " ".join(WORDS)
ALL = AugmentSettings(deletion=0.2, swap=0.2, noise=0.2)


def altered(text: str, seed: int = 0, **rates: float) -> str:
    return augment(text, AugmentSettings(**rates), random.Random(seed))


# --- one text ------------------------------------------------------------------------------------------------------------


@given(st.text(min_size=1).filter(str.strip), st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 99))
def test_no_text_becomes_empty_or_gains_a_character(text, deletion, swap, noise, seed):
    found = altered(text, seed, deletion=deletion, swap=swap, noise=noise)
    assert found.strip()
    assert not Counter(found) - Counter(text)
    assert found == altered(text, seed, deletion=deletion, swap=swap, noise=noise)


def test_words_are_left_out_at_the_stated_rate_and_in_their_order():
    kept = 0
    for seed in range(500):
        words = altered(TEXT, seed, deletion=0.3).split()
        assert words == [word for word in WORDS if word in words]
        kept += len(words)
    assert kept / (500 * len(WORDS)) == pytest.approx(0.7, abs=0.02)


def test_neighbours_change_places_at_the_stated_rate_and_no_word_goes_far_or_is_lost():
    swaps = 0
    for seed in range(500):
        words = altered(TEXT, seed, swap=0.2).split()
        assert sorted(words) == sorted(WORDS)
        moved = [abs(words.index(word) - place) for place, word in enumerate(WORDS)]
        assert max(moved) <= 1
        swaps += sum(moved) // 2
    # Each pair is tried with 0.2, but for the one after a swap: 19 places give about 19 · 0.2 / 1.2 swaps.
    assert swaps / 500 == pytest.approx(19 * 0.2 / 1.2, abs=0.15)


def test_a_typing_error_leaves_out_a_letter_or_changes_two_about():
    mistyped = Counter[str]()
    for seed in range(500):
        for before, after in zip(WORDS, altered(TEXT, seed, noise=0.25).split(), strict=True):
            if before == after:
                continue
            if len(after) == len(before) - 1:
                assert any(before[:place] + before[place + 1 :] == after for place in range(len(before)))
                mistyped["left out"] += 1
            else:
                places = [place for place in range(len(before)) if before[place] != after[place]]
                assert len(places) == 2
                assert places[1] == places[0] + 1
                assert sorted(before) == sorted(after)
                mistyped["changed about"] += 1
    assert mistyped.total() / (500 * len(WORDS)) == pytest.approx(0.25, abs=0.02)
    assert 0.4 < mistyped["left out"] / mistyped.total() < 0.6


@pytest.mark.parametrize("text", ["12345 67", "€ 19.99", "a b c", "!?", "👩‍🚀 👍🏽"])
def test_numbers_signs_and_single_letters_are_not_mistyped(text):
    assert {altered(text, seed, noise=0.99) for seed in range(50)} == {text}


def test_in_scripts_without_spaces_each_character_is_a_word():
    text = "我想取消订单"
    found = {altered(text, seed, deletion=0.3) for seed in range(50)}
    assert {len(one) for one in found} >= {3, 4, 5, 6}
    assert all(Counter(one) <= Counter(text) for one in found)


# --- the rows of a training ----------------------------------------------------------------------------------------------


def features(base: Path, task_cls: Any, rows: Sequence[Any], labels: Sequence[str], **options: Any) -> AugmentedDataset:
    tokenizer, _ = load_tokenizer(base)
    task = task_cls(labels, options.pop("max_length", 64), **options)
    return AugmentedDataset(task, task.prepare_tokenizer(tokenizer), rows, ALL, seed=0)


def rows_of(count: int) -> list[TextExample]:
    return [TextExample(text=f"{TEXT} {number}", label="ab"[number % 2]) for number in range(count)]


def test_every_epoch_has_other_texts_with_the_same_labels_in_the_same_places(tiny_base):
    train = features(tiny_base, Classification, rows_of(20), "ab")
    epochs = [train.of_epoch(epoch) for epoch in range(3)]
    assert all([row["labels"] for row in epoch] == [0, 1] * 10 for epoch in epochs)
    texts = [[tuple(row["input_ids"]) for row in epoch] for epoch in epochs]
    assert len({text for epoch in texts for text in epoch}) > 50
    assert [tuple(row["input_ids"]) for row in train.of_epoch(1)] == texts[1]
    train.begin(2)
    assert [tuple(train[place]["input_ids"]) for place in range(len(train))] == texts[2]


def test_both_texts_of_a_pair_are_altered_and_rows_keep_all_their_labels(tiny_base):
    rows = [MultiLabelExample(text=TEXT, text_pair=TEXT.upper(), label=["b", "a"]), MultiLabelExample(text=TEXT, label=[])]
    train = features(tiny_base, MultiLabel, rows, "abc", max_length=128)
    plain = features(tiny_base, MultiLabel, rows, "abc", max_length=128)._encode(rows)[0][0]
    for epoch in range(3):
        pair, single = train.of_epoch(epoch)
        assert (pair["labels"], single["labels"]) == ([1, 1, 0], [0, 0, 0])
        for side in (0, 1):
            sides = [
                [token for token, where in zip(it["input_ids"], it["token_type_ids"], strict=True) if where == side]
                for it in (pair, plain)
            ]
            assert sides[0] != sides[1]


def test_a_long_text_keeps_its_number_of_windows(tiny_base):
    rows = [TextExample(text=" ".join([TEXT] * 3), label="a"), TextExample(text="short", label="b")]
    train = features(tiny_base, Classification, rows, "ab", max_length=16, long_text="windows")
    assert len(train) > 10
    for epoch in range(5):
        windows = train.of_epoch(epoch)
        assert [row["labels"] for row in windows] == [0] * (len(train) - 1) + [1]
        assert all(len(row["input_ids"]) <= 16 for row in windows)


class Noted(transformers.TrainerCallback, torch.utils.data.Dataset):
    """Stands before a trainer's rows and keeps which of them it took for its batches, epoch by epoch."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.epochs: list[list[list[int]]] = []
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        if self.epochs:  # before the first one begins, the sampler looks at all lengths
            self.epochs[-1].append(self._rows[place]["input_ids"])
        return self._rows[place]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.epochs.append([])


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("world"), rows=60)


AUGMENT = {"augment": {"deletion": 0.2, "swap": 0.2, "noise": 0.2}}


def test_training_rows_are_altered_and_validation_rows_are_not(world, tmp_path):
    plain = world.trainer(tmp_path / "plain", epochs=2)
    trainer = world.trainer(tmp_path / "altered", epochs=2, **AUGMENT)
    assert list(trainer.eval_dataset) == list(plain.eval_dataset)
    train = trainer.train_dataset
    trainer.train_dataset = noted = Noted(train)
    trainer.add_callback(noted)
    trainer.train()
    unaltered = [row["input_ids"] for row in plain.train_dataset]
    for epoch, taken in enumerate(noted.epochs):
        assert sorted(taken) == sorted(row["input_ids"] for row in train.of_epoch(epoch))
    assert sum(ids in unaltered for epoch in noted.epochs for ids in epoch) < len(unaltered)
    assert [len(epoch) for epoch in noted.epochs] == [len(unaltered)] * 2
    assert list(trainer.eval_dataset) == list(plain.eval_dataset)


def test_a_resumed_training_goes_on_with_the_texts_of_its_epoch(world, tmp_path):
    assert same(*whole_and_resumed(world, tmp_path, epochs=2, **AUGMENT))
