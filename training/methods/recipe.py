"""Chooses the training settings that users leave out (``training.method``), by the task, the base model and the rows.

What was tried before the values in this module were chosen, and what it gave, is in docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.tasks import AnyTask, task_type
from baton.tasks.base import Target
from baton.wording import counted
from training.methods.pooling import FAMILIES

PLAIN: Mapping[str, Any] = {
    "few_shot": False,
    "start_from": "base",
    "epochs": 3,
    "learning_rate": 5e-5,
    "label_smoothing": 0.0,
}
"""Values of the keys that ``method: fine_tune`` sets: the defaults of transformers' `Trainer`."""

RATES: Mapping[str, float] = {"full": 2e-4, "last_n": 1e-3, "lora": 2e-3, "head": 5e-3}
"""Learning rate with a new head, by ``tune``."""

FITTED = 0.5
"""Their factor for a head that fits already, from a probe or a champion, unless there are rows for very few passes: with more
passes, the encoder would change too much."""

WIDTH, MAX_SCALE = 384, 2.0
"""Hidden size of the model that these rates were found with, and the most that they are multiplied by for a smaller one. They
fall with the square of the hidden size: 2e-4 becomes 5e-5 for BERT-base, the highest rate that its authors tried (Devlin et al.
2019, appendix A.3)."""

EPOCHS = 2
"""The fewest passes over the rows."""

MAX_EPOCHS: Mapping[str, int] = {"probe": 10, "base": 20}
"""The most passes over the rows, by start: a new head has more to learn."""

STEPS: Mapping[Target, int] = {"class": 300, "classes": 300, "tokens": 400, "span": 250}
"""Optimiser steps that a model needs, for which few rows are passed over more often."""

SMOOTHING = 0.1
"""Label smoothing of classifiers with one label for each text."""

FEW = 500
"""Rows up to which a probe alone is the better model."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a run, with nothing left to choose."""

    training: TrainingSettings
    """With a value for each key of `PLAIN`."""
    reason: str
    """What was chosen and why, for users."""


def choose(settings: ModelSettings, rows: Sequence[Any], base_config: Mapping[str, Any]) -> Recipe:
    """Return the settings with a value for each key that ``training.method`` chooses. What users set is kept.

    Args:
        settings: of the run.
        rows: its training rows.
        base_config: content of the base model's ``config.json``.
    """
    training, task_cls = settings.training, task_type(settings.task)
    if training.method == "fine_tune" or training.few_shot or training.folds is not None or training.search is not None:
        return Recipe(training=_with(training, PLAIN), reason="as set")
    start, why = _start(training, task_cls, base_config)
    if start == "probe" and training.few_shot is None and training.start_from is None and len(rows) <= FEW:
        reason = f"a probe only, for {counted(len(rows), 'row')}"
        return Recipe(training=_with(training, {**PLAIN, "few_shot": True}), reason=reason)
    epochs, rate = _schedule(training, task_cls, start, len(rows), base_config)
    smoothing = SMOOTHING if task_cls.target == "class" else 0.0
    values = {"start_from": start, "epochs": epochs, "learning_rate": rate, "label_smoothing": smoothing}
    chosen = _with(training, {**PLAIN, **values})
    if training.validation is None and training.start_from != "champion" and not task_cls.calibrates():
        # few rows choose a worse epoch than the last one, and training misses them
        chosen = chosen.model_copy(update={"validation": 0.0})
    return Recipe(
        training=chosen, reason=f"{why}; {counted(chosen.epochs or 0, 'epoch')} at a learning rate of {chosen.learning_rate:g}"
    )


def _with(training: TrainingSettings, values: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings with ``values`` for the keys that have none."""
    return training.model_copy(update={key: value for key, value in values.items() if getattr(training, key) is None})


def _start(training: TrainingSettings, task_cls: type[AnyTask], base_config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what to start from, and why."""
    if training.start_from is not None:
        return training.start_from, f"from the {training.start_from}, as set"
    if task_cls.target not in ("class", "classes"):
        return "base", "from the base model"
    if training.tune != "full":
        return "base", f"from the base model: tune is {training.tune}"
    if base_config.get("model_type") not in FAMILIES:
        return "base", f"from the base model: no probe is known for the family {base_config.get('model_type')}"
    return "probe", "from a probe"


def _schedule(
    training: TrainingSettings, task_cls: type[AnyTask], start: str, rows: int, base_config: Mapping[str, Any]
) -> tuple[int, float]:
    """Return epochs and learning rate for a number of rows."""
    rate = RATES[training.tune] * _scale(base_config)
    if start == "champion":
        return EPOCHS, rate * FITTED
    epochs = min(MAX_EPOCHS[start], max(EPOCHS, math.ceil(STEPS[task_cls.target] * training.batch_size / max(1, rows))))
    return epochs, rate * FITTED if start == "probe" and epochs > EPOCHS else rate


def _scale(base_config: Mapping[str, Any]) -> float:
    """Return the factor of the learning rates for a model of this size; 1 if its configuration names none."""
    width = base_config.get("hidden_size") or base_config.get("dim") or WIDTH  # DistilBERT's name for it is dim
    return min(MAX_SCALE, (WIDTH / float(width)) ** 2)
