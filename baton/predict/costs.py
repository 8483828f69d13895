"""What a forward pass costs, measured where the model runs: a + b·rows + c·tokens."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

SHAPES = ((1, 8), (1, 64), (4, 8), (8, 8), (8, 32), (16, 16), (32, 32))
"""Rows and tokens of the passes that are timed, the cheap ones first."""

REPEATS = 3
"""Passes for each shape. The fastest counts: other processes only make a pass slower."""

SECONDS = 0.5
"""When so much time is spent, no larger shapes are tried."""


def measure_overhead(forward: Callable[[int, int], object], max_length: int, max_tokens: int) -> int | None:
    """Return what starting one forward pass costs, in tokens; None if it cannot be told, as on a machine that is very busy.

    Args:
        forward: runs a pass of so many rows and tokens each.
        max_length: the most tokens that a row may have.
        max_tokens: the most tokens that a pass may have.
    """
    shapes, seconds = [], []
    deadline = time.perf_counter() + SECONDS
    for rows, tokens in SHAPES:
        if tokens > max_length or rows * tokens > max_tokens:
            continue
        shapes.append((1, rows, rows * tokens))
        seconds.append(min(_time(forward, rows, tokens) for _ in range(REPEATS)))
        if time.perf_counter() > deadline and len(shapes) >= 3:  # as many as there are unknowns
            break
    if len(shapes) < 3:
        return None
    weights = 1 / np.array(seconds)  # errors are relative to the time of a pass
    start, _, token = np.linalg.lstsq(np.array(shapes) * weights[:, None], np.ones(len(shapes)))[0]
    return max(1, round(start / token)) if token > 0 and start > 0 else None


def _time(forward: Callable[[int, int], object], rows: int, tokens: int) -> float:
    began = time.perf_counter()
    forward(rows, tokens)
    return time.perf_counter() - began
