"""Paired bootstrap, vectorised over per-example statistics. Pure numpy; knows neither tasks nor policies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Resample = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Computes a metric on b resamples of n examples: weights [b, n] (how often each example was drawn) → metrics [b]."""

DRAWS = 4000
"""Number of resamples."""
CHUNK = 250
"""Number of resamples that are computed at once. Limits memory to CHUNK · n weights."""


def bootstrap(metrics: list[Resample], examples: int, seed: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """Compute the metrics of several models on the same resamples of the same examples.

    Each of ``draws`` resamples draws ``examples`` examples with replacement (Efron 1979). All metrics are computed on the same
    resamples, so that differences between columns are paired (Koehn 2004, «Statistical significance tests for
    machine translation evaluation»).

    Args:
        metrics: one function for each model.
        examples: n, the size of the holdout.
        seed: seed of the resampling; the same seed gives the same resamples.

    Returns:
        [draws, models]: the metric of each model on each resample.
    """
    rng = np.random.default_rng(seed)
    results = []
    for start in range(0, draws, CHUNK):
        rows = min(CHUNK, draws - start)
        drawn = rng.integers(0, examples, size=(rows, examples)) + examples * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float32)
        results.append(np.stack([metric(weights) for metric in metrics], axis=1))
    return np.concatenate(results)


def interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the central percentile interval (low, high) that holds a share of ``confidence`` of the bootstrap ``values``."""
    outside = (1 - confidence) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)
