"""What the scores of answers are worth: their calibration, and the score below which an answer had better be withheld.

Pure functions of scores in [0, 1] and of whether the answers that had them were right. Knows neither tasks nor models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from baton.config.serving_settings import ServingSettings

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017, «On Calibration of Modern Neural Networks»."""

STEP = 0.005
"""Least difference in precision between two points of a `precision_curve`."""

SURE = 0.8416
"""How many standard errors a precision must lie above the wanted one: in four of five cases a true one does (one-sided 80%)."""

UNREACHED = math.nextafter(1.0, 2.0)
"""A threshold that withholds every answer: no score is as high."""


def calibration_error(scores: ArrayLike, right: ArrayLike) -> float:
    """Return the expected calibration error (Naeini et al. 2015): the mean difference between score and share of right answers.

    It is taken over `BINS` bins of equal width, each weighed by its answers. ``scores`` [n], ``right`` [n], n > 0.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.float64)
    bins = np.minimum((values * BINS).astype(int), BINS - 1)
    excess = np.bincount(bins, weights=values - truth, minlength=BINS)
    return float(np.abs(excess).sum() / len(values))


def precision_curve(scores: ArrayLike, right: ArrayLike) -> list[list[float]]:
    """Return [threshold, precision, share] in ascending order of precision: what answers with at least that score are worth.

    ``precision`` is the share of right ones among them, ``share`` what part of all answers they are. Each point has the lowest
    threshold with such a precision, which is higher by `STEP` or more than that of the point before. [] without answers.

    >>> precision_curve([0.9, 0.8, 0.4, 0.3], [True, True, False, True])
    [[0.3, 0.75, 1.0], [0.8, 1.0, 0.5]]
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    if not len(values):
        return []
    order = np.argsort(-values, kind="stable")
    above = values[order]
    count = np.arange(1, len(above) + 1)
    precision = np.cumsum(truth[order]) / count
    cuts = np.flatnonzero(np.append(above[1:] < above[:-1], True))[::-1]  # answers with one score stand on one side
    points: list[list[float]] = []
    for cut in cuts.tolist():
        if not points or precision[cut] >= points[-1][1] + STEP or (precision[cut] == 1.0 > points[-1][1]):
            points.append([float(above[cut]), float(precision[cut]), float(count[cut] / len(above))])
    return points


def abstain_below(serving: ServingSettings, metrics: Mapping[str, Any]) -> float | None:
    """Return the score below which a version's answers are too unsure to act on; None if there is none.

    With ``serving.target_precision`` it is the lowest score of the curve from which on its answers are right as often for sure
    (`lower_bound`), and `UNREACHED` if there is none. Not those that were as often right by chance: of many thresholds, the
    lowest that was good enough on some rows is too low for others. ``metrics``: of the version. Without a holdout they don't
    tell what its scores are worth: None.
    """
    target = serving.target_precision
    if target is None or "confidence" not in metrics:
        return serving.abstain_below
    curve: Sequence[Sequence[float]] = metrics["confidence"]["curve"]
    answers = metrics["confidence"]["answers"]
    return next((least for least, precision, share in curve if lower_bound(precision, share * answers) >= target), UNREACHED)


def lower_bound(share: float, count: float) -> float:
    """Return what a ``share`` seen in ``count`` cases is at least, `SURE` standard errors below (Wilson 1927, equation 4).

    >>> round(lower_bound(0.96, 1000), 3), round(lower_bound(1.0, 10), 3)
    (0.954, 0.934)
    """
    more = SURE**2 / count
    middle = share + more / 2
    return (middle - SURE * math.sqrt(share * (1 - share) / count + more / (4 * count))) / (1 + more)
