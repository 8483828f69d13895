"""The temperature of a version: fitted on its answers to the holdout, so that a score says how often such an answer is right.

A temperature changes scores and no answer, and so no F1: the rows that judge a version may be used to fit it. What the fitted
scores are worth is measured on rows that did not fit them: half of the rows gives the temperature for the other half (ADR 21).
"""

from __future__ import annotations

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
"""Temperatures that are compared, each 8% above the one before: calibration errors of neighbours hardly differ."""


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

    plain = outputs(1.0)
    before = judge(task, plain, examples)
    if not len(before.scores):
        return plain, {}
    tried = {temperature: judge(task, outputs(temperature), examples) for temperature in TEMPERATURES}
    scores, right = [], []
    for parity in (0, 1):
        judged = tried[best(tried, fitted_by=1 - parity)]
        chosen = judged.rows % 2 == parity
        scores.append(judged.scores[chosen])
        right.append(judged.right[chosen])
    facts = {
        "ece": calibration_error(np.concatenate(scores), np.concatenate(right)),
        "ece_uncalibrated": calibration_error(before.scores, before.right),
    }
    return outputs(best(tried)), facts


def best(tried: dict[float, Judged], *, fitted_by: int | None = None) -> float:
    """Return the temperature whose scores explain best which parts are right: that with the least log loss.

    ``fitted_by``: 0 or 1, to look only at rows whose index is even or odd.
    """

    def loss(judged: Judged) -> float:
        chosen = np.ones(len(judged.rows), bool) if fitted_by is None else judged.rows % 2 == fitted_by
        return log_loss(judged.scores[chosen], judged.right[chosen])

    return min(tried, key=lambda temperature: loss(tried[temperature]))


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
