"""Which words of a text speak for its answer: Shapley values of words, by hiding some of them from the model.

The value of a set of words is the score that the answer has when the model sees only these: the others are masked out of its
attention, in their places. A word's attribution is what it adds to that score, averaged over the orders in which words may come
to be seen (Štrumbelj and Kononenko 2010, «An Efficient Explanation of Individual Classifications using Game Theory»). So the
attributions of a text and the score with no words sum to the score with all of them, which is the axiom of efficiency.

It needs no gradients, and so works with every engine. Knows tasks by their contract only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.tasks import AnyTask

PARTS = 32
"""Maximum parts of a text that get an attribution. Of longer texts, neighbouring words share one."""

EXACT_PARTS = 7
"""Parts up to which every set of them is looked at."""

ORDERS = 12
"""Orders of more parts that are averaged: half of them drawn, and the reverse of each, which balances their errors."""

WINDOWS = 2 + ORDERS * (PARTS - 1)
"""Maximum windows that explaining one answer takes."""


def passes(task: AnyTask, options: Any) -> int:
    """Return how many times a model reads an input of a request with these options, at most."""
    return 1 + WINDOWS if task.wants_explanation(options) else task.copies(options)


def group_words(words: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts [start, end) of a text: its ``words``, or as many neighbours together as `PARTS` demands."""
    size = max(1, -(-len(words) // PARTS))
    groups = [words[first : first + size] for first in range(0, len(words), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def draw_orders(parts: int) -> list[tuple[int, ...]]:
    """Return the orders in which parts come to be seen: all of a few parts, else `ORDERS` of them. The same every time."""
    if parts <= EXACT_PARTS:
        return list(itertools.permutations(range(parts)))
    rng = random.Random(parts)
    drawn = [tuple(rng.sample(range(parts), parts)) for _ in range(ORDERS // 2)]
    return [order for one in drawn for order in (one, one[::-1])]


class Coalitions:
    """The sets of parts whose values the orders of ``parts`` need, each once."""

    def __init__(self, parts: int) -> None:
        self._orders = draw_orders(parts)
        self._index: dict[frozenset[int], int] = {}
        for order in self._orders:
            for count in range(parts + 1):
                self._index.setdefault(frozenset(order[:count]), len(self._index))
        self._parts = parts

    def __iter__(self) -> Iterator[frozenset[int]]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def attributions(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values [answers] of no parts, and what each part adds [parts, answers].

        ``values`` [sets, answers]: those of the sets, in their order here. No parts' values and all that they add sum to those
        of all parts, but for rounding.
        """
        added = np.zeros((self._parts, values.shape[1]))
        for order in self._orders:
            seen = frozenset[int]()
            for part in order:
                more = seen | {part}
                added[part] += values[self._index[more]] - values[self._index[seen]]
                seen = more
        return values[self._index[frozenset()]], added / len(self._orders)
