"""Live quality: the scores of a version on its corrected answers, which it cannot have been trained on when it gave them.

This is test-then-train, also called prequential evaluation (Gama et al. 2013, «On evaluating stream learning algorithms»).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from baton.config.model_settings import ModelSettings
from baton.store.records import ModelVersion
from baton.store.registry import Registry
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

    ``since``: count only answers that were given after this time. Skipped are answers in a form that cannot be scored,
    corrections that do not fit the task (the model may have had another one), and corrections with another text than the one
    that was answered. The scores are biased: applications correct the answers that they doubt.
    """
    corrected = registry.feedback.corrected(settings.name, version.number, window, since)
    if not corrected:
        return None
    task = settings.make_task(version.lineage["labels"])
    outputs, examples = [], []
    for answer, correction in corrected:
        try:
            output, example = task.Output.model_validate(answer.output), task.Example.model_validate(correction.example)
        except ValidationError:
            continue
        item = task.input_of(example)
        if same_but_for_masks(answer.input, item):
            outputs.append(task.brief(output, item))  # the correction may contain text that is masked in the log
            examples.append(example)
    if not outputs:
        return None
    score = task.score(outputs, examples)
    metrics = score.metrics
    return LiveQuality(
        version=version.number,
        f1=float(metrics[task.metric]),
        corrections=len(outputs),
        wrong=int((~task.measure(metrics, score.statistics).right).sum()),
        per_class=metrics.get("per_class", {}),
    )
