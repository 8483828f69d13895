"""Live quality: the scores of a version on its corrected answers, which it cannot have been trained on when it gave them.

This is test-then-train, also called prequential evaluation (Gama et al. 2013, «On evaluating stream learning algorithms»).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from baton.config.model_settings import ModelSettings
from baton.store.records import ModelVersion
from baton.store.registry import Registry
from baton.tasks import AnyTask
from baton.text.masks import same_but_for_masks


@dataclass(frozen=True, kw_only=True)
class LiveQuality:
    """Scores of one version on its newest corrected answers."""

    version: int
    f1: float
    corrections: int
    """Number of corrected answers that were scored."""
    wrong: int
    """Number of those that were not wholly right."""
    per_class: Mapping[str, Any] = field(default_factory=dict)
    """Scores of each label, in the form of the task's own metrics; empty if the task has no labels."""


def live_quality(
    registry: Registry, settings: ModelSettings, version: ModelVersion, window: int, since: datetime | None = None
) -> LiveQuality | None:
    """Return the live quality of ``version`` over at most ``window`` corrections, or None if none can be scored.

    ``since``: count only answers that were given after this time. Skipped is what `correctable` cannot read. The scores are
    biased: applications correct the answers that they doubt.
    """
    corrected = registry.predictions.corrected(settings.name, version.number, window, since)
    if not corrected:
        return None
    task = settings.make_task(version.lineage["labels"])
    outputs, examples = [], []
    for answer, correction in corrected:
        read = correctable(task, answer.input, answer.output, correction.example)
        if read is not None:
            outputs.append(read[0])
            examples.append(read[1])
    if not outputs:
        return None
    metrics, right = scored(task, outputs, examples)
    return LiveQuality(
        version=version.number,
        f1=float(metrics[task.metric]),
        corrections=len(outputs),
        wrong=int((~right).sum()),
        per_class=metrics.get("per_class", {}),
    )


def correctable(
    task: AnyTask, item: Mapping[str, Any], output: Mapping[str, Any] | None, correction: Mapping[str, Any]
) -> tuple[Any, Any] | None:
    """Return an answer and the right one as the task's `Output` and `Example`, or None if the one does not judge the other.

    That is so for an answer in a form that cannot be scored, a correction that does not fit the task (the model may have had
    another one), and a correction with another text than the one that was answered.

    Args:
        task: of the version that answered.
        item, output: the input and the answer, as the prediction log keeps them.
        correction: the fields of a row of the task.
    """
    try:
        answer, example = task.Output.model_validate(output), task.Example.model_validate(correction)
    except ValidationError:
        return None
    original = task.input_of(example)
    if not same_but_for_masks(item, original):
        return None
    return task.brief(answer, original), example  # the correction may contain text that is masked in the log


def scored(task: AnyTask, outputs: Sequence[Any], examples: Sequence[Any]) -> tuple[Mapping[str, Any], NDArray[np.bool_]]:
    """Return the task's metrics of n ``outputs`` against their ``examples``, and [n], which of them are wholly right."""
    score = task.score(outputs, examples)
    return score.metrics, task.measure(score.metrics, score.statistics).right
