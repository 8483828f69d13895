"""A version and a holdout → a Score. The predictor is the one that serves. Knows no registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from baton.predict.predictor import Predictor
from baton.quality.drift import reference_of
from baton.tasks import AnyTask
from baton.tasks.base import Score, text_length

CHUNK = 512
"""Examples predicted between two progress reports."""


def evaluate(predictor: Predictor, examples: Sequence[Any], report: Callable[[int, int], None]) -> Score:
    """Predict every example and score the answers; ``report(done, total)`` after each chunk."""
    inputs = [predictor.task.input_of(example) for example in examples]
    outputs: list[Any] = []
    for start in range(0, len(inputs), CHUNK):
        outputs += predictor.predict(inputs[start : start + CHUNK])
        report(len(outputs), len(inputs))
    score = predictor.task.score(outputs, examples)
    return replace(score, metrics={**score.metrics, "reference": reference(predictor.task, inputs, outputs)})


def reference(task: AnyTask, inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """What the version's answers look like where all is well: what its answers in service are compared with."""
    usual = task.Options()
    summaries = [task.summary(output, usual) for output in outputs]
    return reference_of(
        [label for label, _ in summaries],
        [confidence for _, confidence in summaries],
        [text_length(item) for item in inputs],
    )
