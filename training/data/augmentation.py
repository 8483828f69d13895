"""Texts altered as their writers might have: words left out, changed about, mistyped. Knows no labels and no models.

Deletion and swapping follow Wei and Zou 2019, «EDA»; the typing errors are two of the four kinds of Damerau 1964. For training
rows only.
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
"""A word with the white space after it. In scripts without spaces each character is one."""


def augment(text: str, settings: AugmentSettings, rng: random.Random) -> str:
    """``text`` with its words altered at the rates of ``settings``; never empty, and with the white space of its words."""
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
    """Two words changed about; the white space after each index stays where it is."""
    one, other = first.rstrip(), second.rstrip()
    return other + first[len(one) :], one + second[len(other) :]


def _mistyped(word: str, rng: random.Random) -> str:
    """``word`` with two neighbouring letters changed about, or one of them left out; as it is where no two letters meet."""
    indices = [index for index in range(len(word) - 1) if word[index : index + 2].isalpha()]
    if not indices:
        return word
    index = rng.choice(indices)
    first, second = word[index], word[index + 1]
    return word[:index] + rng.choice((second + first, second)) + word[index + 2 :]


class AugmentedDataset(Sequence[dict[str, Any]]):
    """Training features of ``rows`` whose texts are altered anew in each epoch; each epoch's are the same for every worker.

    An item stands for a window of the unaltered text. Where the altered one has fewer windows, its last one repeats.
    """

    def __init__(self, task: AnyTask, tokenizer: Any, rows: Sequence[Any], settings: AugmentSettings, seed: int) -> None:
        self._task, self._tokenizer, self._rows, self._settings, self._seed = task, tokenizer, rows, settings, seed
        windows = [len(mine) for mine in self._encode(rows)]
        self._places = [(row, window) for row, count in enumerate(windows) for window in range(count)]
        self._current = self.of_epoch(0)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._current[index]

    def begin(self, epoch: int) -> None:
        """Go over to the texts of ``epoch``, counted from 0."""
        self._current = self.of_epoch(epoch)

    def of_epoch(self, epoch: int) -> list[dict[str, Any]]:
        """The features that ``epoch`` trains on."""
        rng = random.Random(f"{self._seed} {epoch}")
        by_row = self._encode([self._alter(row, rng) for row in self._rows])
        return [by_row[row][min(window, len(by_row[row]) - 1)] for row, window in self._places]

    def token_ids(self, epochs: int) -> Iterator[Sequence[int]]:
        """The token ids of every window of the first ``epochs`` epochs."""
        for epoch in range(epochs):
            yield from (feature["input_ids"] for feature in self.of_epoch(epoch))

    def _alter(self, row: Any, rng: random.Random) -> Any:
        texts = {name: getattr(row, name) for name in self._task.alterable}
        return row.model_copy(
            update={name: augment(text, self._settings, rng) for name, text in texts.items() if text is not None}
        )

    def _encode(self, rows: Sequence[Any]) -> list[list[dict[str, Any]]]:
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        return [mine for chunk in chunks for mine in features_by_row(self._task, self._tokenizer, chunk)]


class ReaugmentCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Alters the texts anew when an epoch begins, the first of a resumed training as well."""

    def __init__(self, rows: AugmentedDataset) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The epochs that are over are counted in ``state.epoch``."""
        self._rows.begin(round(state.epoch or 0))
