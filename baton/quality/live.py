"""Live quality: every correction of a logged answer is a test that the version which gave it had not seen.

Test-then-train, also called prequential evaluation (Gama et al. 2013, «On evaluating stream learning algorithms»).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from baton.config.model_settings import ModelSettings
from baton.store.records import ModelVersion
from baton.store.registry import Registry
from baton.text.masks import same_but_for_masks


@dataclass(frozen=True, kw_only=True)
class LiveQuality:
    """One version's scores on its ``corrections`` newest corrected answers; ``per_class`` as in the task's own score."""

    version: int
    f1: float
    corrections: int
    per_class: Mapping[str, Any] = field(default_factory=dict)


def live_quality(registry: Registry, settings: ModelSettings, version: ModelVersion, window: int) -> LiveQuality | None:
    """The live quality of ``version`` over at most ``window`` corrections; None where none of its answers was corrected.

    Left out are corrections that the task does not take (it is another one by now) or that came with another text than was
    answered, and answers in a form that cannot be scored. Applications correct what they doubt: the numbers are about the
    answers that were looked at.
    """
    corrected = registry.feedback.corrected(settings.name, version.number, window)
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
            outputs.append(task.brief(output, item))  # what was masked in the log may stand in the correction
            examples.append(example)
    if not outputs:
        return None
    metrics = task.score(outputs, examples).metrics
    return LiveQuality(
        version=version.number,
        f1=float(metrics[task.metric]),
        corrections=len(outputs),
        per_class=metrics.get("per_class", {}),
    )
