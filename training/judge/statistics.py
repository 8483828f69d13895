"""Paired bootstrap, vectorised on sufficient statistics. Pure numpy; knows no task and no policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Resample = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Weights [b, n] of b resamples of n examples → the metric of each [b]."""

DRAWS = 4000
CHUNK = 250
"""Resamples computed at once: bounds memory at CHUNK · n weights."""


def bootstrap(metrics: list[Resample], examples: int, seed: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """The same resamples of the same examples, seen by several models.

    Each of ``draws`` resamples takes ``examples`` examples with replacement (Efron 1979); all metrics are computed on the
    same resample, so that differences between columns are paired (Koehn 2004, «Statistical significance tests for
    machine translation evaluation»).

    Args:
        metrics: one function a model.
        examples: n, the size of the holdout.
        seed: the same seed gives the same resamples.

    Returns: [draws, models].
    """
    generator = np.random.default_rng(seed)
    results = []
    for start in range(0, draws, CHUNK):
        rows = min(CHUNK, draws - start)
        drawn = generator.integers(0, examples, size=(rows, examples)) + examples * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float32)
        results.append(np.stack([metric(weights) for metric in metrics], axis=1))
    return np.concatenate(results)


def interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """The central percentile interval that holds ``confidence`` of the bootstrap ``values``."""
    outside = (1 - confidence) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)
