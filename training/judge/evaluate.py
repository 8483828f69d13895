"""A model and a holdout → a Score. Predicts with the predictor that serves. Does not know the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from baton.predict.predictor import Predictor
from baton.quality.drift import make_reference
from baton.tasks import AnyTask
from baton.tasks.base import Score, text_length

CHUNK = 512
"""Number of examples that are predicted between two progress reports."""


def evaluate(predictor: Predictor, examples: Sequence[Any], report: Callable[[int, int], None]) -> Score:
    """Predict every example and score the outputs. Calls ``report(done, total)`` after each chunk.

    Metric ``reference`` describes inputs and outputs, for drift monitoring.
    """
    inputs = [predictor.task.input_of(example) for example in examples]
    outputs: list[Any] = []
    for start in range(0, len(inputs), CHUNK):
        outputs += predictor.predict(inputs[start : start + CHUNK])
        report(len(outputs), len(inputs))
    score = predictor.task.score(outputs, examples)
    return replace(score, metrics={**score.metrics, "reference": reference(predictor.task, inputs, outputs)})


def reference(task: AnyTask, inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """Return the distributions of labels, confidences and text lengths on the holdout. Drift is measured against them."""
    options = task.Options()
    summaries = [task.summary(output, options) for output in outputs]
    return make_reference(
        [label for label, _ in summaries],
        [confidence for _, confidence in summaries],
        [text_length(item) for item in inputs],
    )
