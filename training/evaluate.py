"""A version and a holdout → a Score. The predictor is the one that serves. Knows no registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from baton.predictor import Predictor
from baton.tasks.base import Score

CHUNK = 512
"""Examples predicted between two progress reports."""


def evaluate(predictor: Predictor, examples: Sequence[Any], report: Callable[[int, int], None]) -> Score:
    """Predict every example and score the answers; ``report(done, total)`` after each chunk."""
    inputs = [predictor.task.input_of(example) for example in examples]
    outputs: list[Any] = []
    for start in range(0, len(inputs), CHUNK):
        outputs += predictor.predict(inputs[start : start + CHUNK])
        report(len(outputs), len(inputs))
    return predictor.task.score(outputs, examples)
