"""Augments the texts of training rows: leaves words out, swaps them, adds typing errors. Knows neither labels nor models.

Deletion and swapping follow Wei and Zou 2019, «EDA». The typing errors are two of the four that Damerau 1964 lists. Validation
and holdout rows are never augmented.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import transformers

from baton.config.training_settings import AugmentSettings
from baton.tasks import AnyTask
from baton.text.words import UNSPACED
from training.data.batches import CHUNK, features_by_row

WORD = re.compile(rf"(?:{UNSPACED.pattern}|(?:(?!{UNSPACED.pattern})\S)+)\s*")
"""A word with the white space after it. In scripts without spaces, each character is a word."""


def augment(text: str, settings: AugmentSettings, rng: random.Random) -> str:
    """Return ``text`` with its words changed at the rates of ``settings``. At least one word stays.

    A word keeps the white space after it, unless it is swapped.
    """
    words = WORD.findall(text)
    kept = [word for word in words if rng.random() >= settings.deletion] or [rng.choice(words)]
    index = 0
    while index < len(kept) - 1:
        swaps = rng.random() < settings.swap
        if swaps:
            kept[index : index + 2] = _swapped(*kept[index : index + 2])
        index += 1 + swaps  # a word moves by one index at most
    return "".join(_mistyped(word, rng) if rng.random() < settings.noise else word for word in kept).strip()


def _swapped(first: str, second: str) -> tuple[str, str]:
    """Return two words in the opposite order. The white space after the first and after the second position stays."""
    one, other = first.rstrip(), second.rstrip()
    return other + first[len(one) :], one + second[len(other) :]


def _mistyped(word: str, rng: random.Random) -> str:
    """Swap two neighbouring letters of ``word``, or leave one of them out. A word without such letters stays as it is."""
    indices = [index for index in range(len(word) - 1) if word[index : index + 2].isalpha()]
    if not indices:
        return word
    index = rng.choice(indices)
    first, second = word[index], word[index + 1]
    return word[:index] + rng.choice((second + first, second)) + word[index + 2 :]


class AugmentedDataset(Sequence[dict[str, Any]]):
    """The training features of rows whose texts are augmented again in each epoch, in the same way on every worker.

    Each item corresponds to one window of the original text. If the augmented text has fewer windows, its last one repeats.
    """

    def __init__(self, task: AnyTask, tokenizer: Any, rows: Sequence[Any], settings: AugmentSettings, seed: int) -> None:
        self._task, self._tokenizer, self._rows, self._settings, self._seed = task, tokenizer, rows, settings, seed
        windows = [len(row_features) for row_features in self._encode(rows)]
        self._row_windows = [(row, window) for row, count in enumerate(windows) for window in range(count)]
        self._current = self.of_epoch(0)

    def __len__(self) -> int:
        return len(self._row_windows)

    def __getitem__(self, index: Any) -> Any:
        return self._current[index]

    def begin(self, epoch: int) -> None:
        """Switch to the texts of ``epoch``, counted from 0."""
        self._current = self.of_epoch(epoch)

    def of_epoch(self, epoch: int) -> list[dict[str, Any]]:
        """Return the features that ``epoch`` trains on."""
        rng = random.Random(f"{self._seed} {epoch}")
        by_row = self._encode([self._augment(row, rng) for row in self._rows])
        return [by_row[row][min(window, len(by_row[row]) - 1)] for row, window in self._row_windows]

    def token_ids(self, epochs: int) -> Iterator[Sequence[int]]:
        """Yield the token ids of every window of the first ``epochs`` epochs."""
        for epoch in range(epochs):
            yield from (feature["input_ids"] for feature in self.of_epoch(epoch))

    def _augment(self, row: Any, rng: random.Random) -> Any:
        texts = {name: getattr(row, name) for name in self._task.augmentable}
        return row.model_copy(
            update={name: augment(text, self._settings, rng) for name, text in texts.items() if text is not None}
        )

    def _encode(self, rows: Sequence[Any]) -> list[list[dict[str, Any]]]:
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        return [row_features for chunk in chunks for row_features in features_by_row(self._task, self._tokenizer, chunk)]


class ReaugmentCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Augments the texts again when an epoch begins, also the first one after a resume."""

    def __init__(self, rows: AugmentedDataset) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Switch to the texts of the epoch: ``state.epoch`` counts the epochs that are over."""
        self._rows.begin(round(state.epoch or 0))
