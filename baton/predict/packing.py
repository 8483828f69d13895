"""Groups windows of many lengths into forward passes: little padding, few passes, none above the token budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def pack(
    widths: NDArray[np.int64], budget: int, overhead: int, *, padded: bool = True, max_rows: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of the windows of each forward pass, the pass with the widest windows first.

    The groups minimise the sum over passes of ``overhead`` + padded tokens. A pass has neighbours in the order of width, so
    dynamic programming over the distinct widths finds the optimum (as in optimal 1-D partitioning). A group above the budget
    is then split, so the result may be slightly worse than the optimum.

    Args:
        widths: [windows], the tokens of each window after padding to a multiple of the engine's length step.
        budget: maximum padded tokens in one pass; a single window may exceed it.
        overhead: the cost of starting one pass, in tokens.
        padded: whether a pass may have windows of different widths.
        max_rows: maximum windows in one pass; None: any number.
    """
    if len(widths) == 1:  # most requests that find an idle replica: the search below would take longer than the tokenizer
        yield np.zeros(1, dtype=np.int64)
        return
    order = np.argsort(-widths, kind="stable")
    ordered = widths[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] + 1))
    groups = _groups(ordered, starts, overhead) if padded else itertools.pairwise([*starts.tolist(), len(ordered)])
    for begin, end in groups:
        size = min(max(1, budget // int(ordered[begin])), max_rows or len(ordered))
        for position in range(begin, end, size):
            yield order[position : min(position + size, end)]


def _groups(ordered: NDArray[np.int64], starts: NDArray[np.int64], overhead: int) -> list[tuple[int, int]]:
    """Return the cheapest partition of the descending widths ``ordered`` at some of ``starts``, as half-open ranges."""
    edges = [*starts.tolist(), len(ordered)]
    cost = [0.0] + [float("inf")] * (len(edges) - 1)
    came_from = [0] * len(edges)
    for end in range(1, len(edges)):
        for begin in range(end):
            total = cost[begin] + overhead + int(ordered[edges[begin]]) * (edges[end] - edges[begin])
            if total < cost[end]:
                cost[end], came_from[end] = total, begin
    groups = []
    end = len(edges) - 1
    while end > 0:
        groups.append((edges[came_from[end]], edges[end]))
        end = came_from[end]
    return groups[::-1]
