"""The temperature of a version: fitted on its answers to the holdout, so that a score says how often such an answer is right.

A temperature changes scores and no answer, and so no F1: the rows that judge a version may be used to fit it. What the fitted
scores are worth is measured on rows that did not fit them: half of the rows gives the temperature for the other half (ADR 21).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.predict.predictor import Predictor
from baton.quality.confidence import calibration_error
from baton.tasks import AnyTask

ROWS = 1000
"""Maximum number of rows that a temperature is fitted on. One number needs no more."""

CHUNK = 256
"""Number of rows that are predicted between two progress reports."""

TEMPERATURES = tuple(np.geomspace(0.2, 5.0, 41).tolist())
"""Temperatures that are looked at, each 8% above the one before: calibration errors of neighbours hardly differ."""

PLAIN = TEMPERATURES.index(1.0)
COARSE = 8
"""Distance of those that are looked at first: a power of 2, as it is halved until the best one has its neighbours beside it."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The n scored parts of some answers."""

    scores: NDArray[np.float64]
    """[n], in [0, 1]."""
    right: NDArray[np.bool_]
    """[n]: whether each part is right."""
    rows: NDArray[np.int64]
    """[n]: the index of the row that each part answers."""


def judge(task: AnyTask, outputs: Sequence[Any], examples: Sequence[Any]) -> Judged:
    """Return each scored part of the answers ``outputs``, with whether it is right by ``examples``."""
    options = task.Options()
    parts = [
        (score, right, row)
        for row, (output, example) in enumerate(zip(outputs, examples, strict=True))
        for score, right in zip(task.confidences(output, options), task.correct(output, example), strict=True)
    ]
    scores, right, rows = zip(*parts, strict=True) if parts else ((), (), ())
    return Judged(scores=np.array(scores, float), right=np.array(right, bool), rows=np.array(rows, int))


def fit_temperature(
    predictor: Predictor, examples: Sequence[Any], report: Callable[[int], None]
) -> tuple[list[Any], dict[str, float]]:
    """Set the temperature of the predictor's task by its answers to ``examples``. Calls ``report(done)`` after each chunk.

    Return the answers at that temperature, and facts for the metrics: ``ece`` and ``ece_uncalibrated``, the calibration errors
    with and without. Where answers have no scores, the temperature stays 1 and there are no facts.
    """
    task = predictor.task
    chunks = []
    for start in range(0, len(examples), CHUNK):
        inputs = [task.input_of(example) for example in examples[start : start + CHUNK]]
        chunks.append((*predictor.logits(inputs), [task.Options()] * len(inputs)))
        report(start + len(inputs))

    def outputs(temperature: float) -> list[Any]:
        task.temperature = temperature
        return [output for windows, heads, options in chunks for output in task.decode(windows, heads, options)]

    @functools.cache
    def judged_at(place: int) -> Judged:
        return judge(task, outputs(TEMPERATURES[place]), examples)

    before = judged_at(PLAIN)
    if not len(before.scores):
        return outputs(1.0), {}
    scores, right = [], []
    for parity in (0, 1):
        judged = judged_at(best(judged_at, fitted_by=1 - parity))
        chosen = judged.rows % 2 == parity
        scores.append(judged.scores[chosen])
        right.append(judged.right[chosen])
    facts = {
        "ece": calibration_error(np.concatenate(scores), np.concatenate(right)),
        "ece_uncalibrated": calibration_error(before.scores, before.right),
    }
    return outputs(TEMPERATURES[best(judged_at)]), facts


def best(judged_at: Callable[[int], Judged], *, fitted_by: int | None = None) -> int:
    """Return the place in `TEMPERATURES` whose scores explain best which parts are right: that with the least log loss.

    The loss has one valley, so that halving the distance around the best one finds its floor with a dozen looks.

    Args:
        judged_at: returns the scored parts at a place; each takes a decoding of all answers.
        fitted_by: 0 or 1, to look only at rows whose index is even or odd.
    """

    def loss(place: int) -> float:
        judged = judged_at(place)
        chosen = np.ones(len(judged.rows), bool) if fitted_by is None else judged.rows % 2 == fitted_by
        return log_loss(judged.scores[chosen], judged.right[chosen])

    step = COARSE
    found = min(range(0, len(TEMPERATURES), step), key=loss)
    while step > 1:
        step //= 2
        found = min((found, max(found - step, 0), min(found + step, len(TEMPERATURES) - 1)), key=loss)
    return found


def log_loss(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean log loss of scores [n]; 0 if there are none.

    The targets are Platt's (1999, «Probabilistic Outputs for Support Vector Machines», equation 19): a little below 1 and above
    0, so that a few answers that are all right don't make all later ones certain.
    """
    if not len(scores):
        return 0.0
    yes, no = int(right.sum()), int((~right).sum())
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    likely = np.clip(scores, 1e-9, 1 - 1e-9)
    return float(-np.mean(target * np.log(likely) + (1 - target) * np.log1p(-likely)))
