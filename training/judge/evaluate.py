"""A model and a holdout → its score, its answers in words, and what it costs to serve. Predicts with the predictor that serves.

Does not know the registry.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from baton.predict.predictor import Predictor
from baton.quality.confidence import calibration_error, precision_curve
from baton.quality.drift import make_reference
from baton.tasks import AnyTask
from baton.tasks.base import Mark, Score
from baton.tasks.checks import text_length
from training.judge import calibration

CHUNK = 512
"""Number of examples that are predicted between two progress reports."""

RACED, ROUNDS = 8, 7
"""Number of single inputs by which engines are compared, and how often."""

TIMED = 21
"""Number of single inputs whose latency is measured."""


class Told(NamedTuple):
    """What a report shows of an answer."""

    words: str
    """`Task.in_words`."""
    marks: tuple[Mark, ...] = ()
    """`Task.marks_of`."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A model's answers to a holdout, and their score."""

    score: Score
    answers: Sequence[Told]
    """What reports show of each answer."""


def evaluate(
    predictor: Predictor,
    examples: Sequence[Any],
    report: Callable[[int, int], None],
    *,
    mask: Callable[[Any], Any] = lambda item: item,
    fit: bool = False,
) -> Evaluated:
    """Predict every example and score the outputs. Calls ``report(done, total)`` after each chunk.

    Metric ``reference`` describes inputs and outputs, for drift monitoring, and ``confidence`` what the scores are worth.
    ``mask`` masks personal data of an input; the answers in words quote what it leaves. With ``fit``, the temperature of the
    predictor's task is fitted first, on some of the examples.
    """
    task = predictor.task
    inputs = [task.input_of(example) for example in examples]
    outputs: list[Any] = [None] * len(inputs)
    places = np.arange(len(inputs))
    facts: dict[str, Any] = {}
    if fit:
        chosen = np.unique(np.linspace(0, len(inputs) - 1, min(len(inputs), calibration.ROWS)).round().astype(int))
        rows = [examples[place] for place in chosen]
        fitted, facts = calibration.fit_temperature(predictor, rows, lambda done: report(done, len(inputs)))
        _put(outputs, chosen, fitted)
        places = np.setdiff1d(places, chosen)
    for start in range(0, len(places), CHUNK):
        chosen = places[start : start + CHUNK]
        _put(outputs, chosen, predictor.predict([inputs[place] for place in chosen]))
        report(len(inputs) - len(places) + start + len(chosen), len(inputs))
    score = task.score(outputs, examples)
    answers = [_told(task, mask(output), mask(item)) for output, item in zip(outputs, inputs, strict=True)]
    described = {"reference": reference(task, inputs, outputs), **_confidence(task, outputs, examples, facts)}
    return Evaluated(score=replace(score, metrics={**score.metrics, **described}), answers=answers)


def _put(outputs: list[Any], places: NDArray[np.int64], answers: Sequence[Any]) -> None:
    for place, answer in zip(places.tolist(), answers, strict=True):
        outputs[place] = answer


def _confidence(
    task: AnyTask, outputs: Sequence[Any], examples: Sequence[Any], facts: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """Return the metric ``confidence``; nothing if answers have no scores.

    ``answers`` is the number of scored parts, ``ece`` their calibration error, and ``curve`` their `precision_curve`.
    """
    judged = calibration.judge(task, outputs, examples)
    if not len(judged.scores):
        return {}
    measured = {"ece": calibration_error(judged.scores, judged.right), **facts}
    curve = precision_curve(judged.scores, judged.right)
    return {
        "confidence": {"temperature": task.temperature, "answers": len(judged.scores), **measured, "curve": curve},
    }


def _told(task: AnyTask, output: Any, item: Any) -> Told:
    brief = task.brief(output, item)
    return Told(task.in_words(brief), task.marks_of(brief, item))


def cost(predictor: Predictor, examples: Sequence[Any], *, size: int, threads: int) -> dict[str, float]:
    """Return what it costs to serve a version: its ``megabytes``, and the median ``latency_ms`` of one answer.

    Args:
        examples: evenly chosen ones of them are predicted one by one.
        size: of the version's files, in bytes.
        threads: as a replica has.
    """
    predictor.engine.limit_threads(threads)
    places = sorted({round(place) for place in np.linspace(0, len(examples) - 1, TIMED)})
    seconds = []
    for item in (predictor.task.input_of(examples[place]) for place in places):
        start = time.perf_counter()
        predictor.predict([item])
        seconds.append(time.perf_counter() - start)
    return {"megabytes": size / 1e6, "latency_ms": statistics.median(seconds) * 1000}


def race(predictors: Sequence[Predictor], examples: Sequence[Any]) -> list[float]:
    """Return the milliseconds of one answer of each predictor, when nothing disturbs: the best of rounds that alternate.

    Each must run with the threads that a replica has, as `cost` leaves it.
    """
    inputs = [predictors[0].task.input_of(example) for example in examples[:RACED]]
    best = [float("inf")] * len(predictors)
    for _ in range(ROUNDS):
        for index, predictor in enumerate(predictors):
            start = time.perf_counter()
            for item in inputs:
                predictor.predict([item])
            best[index] = min(best[index], (time.perf_counter() - start) / len(inputs) * 1000)
    return best


def reference(task: AnyTask, inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """Return the distributions of labels, confidences and text lengths on the holdout. Drift is measured against them."""
    options = task.Options()
    summaries = [task.summary(output, options) for output in outputs]
    return make_reference(
        [label for label, _ in summaries],
        [confidence for _, confidence in summaries],
        [text_length(item) for item in inputs],
    )
