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
from baton.errors import ConfigError
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

WIDTH_NAMES = ("hidden_size", "dim", "d_model", "n_embd", "emb_dim")
"""Names of the hidden size in ``config.json``, by family."""

EPOCHS = 2
"""The fewest passes over the rows."""

MAX_EPOCHS: Mapping[str, int] = {"probe": 10, "base": 20}
"""The most passes over the rows, by start: a new head has more to learn."""

STEPS: Mapping[Target, int] = {"class": 300, "classes": 300, "tokens": 400, "span": 250, "text": 1000}
"""Optimiser steps that a model needs, for which few rows are passed over more often. For ``text`` it is a guess."""

SMOOTHING = 0.1
"""Label smoothing of classifiers with one label for each text."""

PROBED = "AutoModelForSequenceClassification"
"""The class of models whose head a probe can be."""

FEW = 500
"""Rows up to which a probe alone is as good as fine-tuning, and takes seconds."""


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

    Raises:
        ConfigError: ``training.start_from`` is ``probe``, and the base model's family has none.
    """
    training, task_cls = settings.training, task_type(settings.task)
    if training.method == "fine_tune" or training.few_shot or training.folds is not None or training.search is not None:
        return Recipe(training=_with(training, PLAIN), reason="as set")
    start, why = _start(training, task_cls, base_config)
    if start == "probe" and len(rows) <= FEW and _only_probe(training):
        reason = f"a probe only, for {counted(len(rows), 'row')}"
        return Recipe(training=_with(training, {**PLAIN, "few_shot": True}), reason=reason)
    epochs = training.epochs or _epochs(training, task_cls, start, len(rows))
    rate = RATES[training.tune] * _scale(base_config)
    if start == "champion" or (start == "probe" and epochs > EPOCHS):
        rate *= FITTED
    smoothing = SMOOTHING if task_cls.target == "class" else 0.0
    values = {"start_from": start, "epochs": epochs, "learning_rate": rate, "label_smoothing": smoothing}
    chosen = _with(training, {**PLAIN, **values})
    free = training.validation is None and training.epochs is None  # whoever sets epochs may count on early stopping
    if free and start != "champion" and not task_cls.calibrates():
        # few rows choose a worse epoch than the last one, and training misses them
        chosen = chosen.model_copy(update={"validation": 0.0})
    return Recipe(training=chosen, reason=f"{why}; {_told(chosen, len(rows))}")


def _told(training: TrainingSettings, rows: int) -> str:
    """Return the chosen values in words."""
    smoothing = f", label smoothing {training.label_smoothing:g}" if training.label_smoothing else ""
    validation = "no validation rows" if training.validation == 0 else "some rows for validation"
    return (
        f"{counted(training.epochs or 0, 'epoch')} over {counted(rows, 'row')} at a learning rate of "
        f"{training.learning_rate:g}{smoothing}, {validation}"
    )


def _with(training: TrainingSettings, values: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings with ``values`` for the keys that have none."""
    return training.model_copy(update={key: value for key, value in values.items() if getattr(training, key) is None})


def _start(training: TrainingSettings, task_cls: type[AnyTask], base_config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what to start from, and why. Raise ``ConfigError`` if a probe is asked for that is not possible."""
    family = base_config.get("model_type")
    if training.start_from == "probe" and family not in FAMILIES:
        raise ConfigError(
            f"training.start_from: probe is not possible with {family} models; allowed families: {', '.join(FAMILIES)}; "
            "use base"
        )
    if training.start_from is not None:
        return training.start_from, f"from the {training.start_from}, as set"
    if task_cls.target not in ("class", "classes"):
        return "base", "from the base model"
    why_not = None
    if task_cls.auto_model != PROBED:
        why_not = "a probe is not for models of this task"
    elif training.tune != "full":
        why_not = f"tune is {training.tune}"
    elif training.nodes or training.device == "gpu":
        why_not = "a probe is fitted by the run's driver, and training has a place of its own"
    elif family not in FAMILIES:
        why_not = f"no probe is known for the family {family}"
    if why_not is not None:
        return "base", f"from the base model: {why_not}"
    return "probe", "from a probe"


def _only_probe(training: TrainingSettings) -> bool:
    """Return whether a probe may be all: nothing is set that fine-tuning alone has a use for."""
    of_tuning = (training.few_shot, training.start_from, training.epochs, training.learning_rate, training.validation)
    smaller = training.prune is not None or training.distil is not None
    return all(value is None for value in of_tuning) and not (training.augment.active or smaller) and training.workers == 1


def _epochs(training: TrainingSettings, task_cls: type[AnyTask], start: str, rows: int) -> int:
    if start == "champion":  # it needs few steps, whatever the number of rows
        return EPOCHS
    return min(MAX_EPOCHS[start], max(EPOCHS, math.ceil(STEPS[task_cls.target] * training.batch_size / max(1, rows))))


def _scale(base_config: Mapping[str, Any]) -> float:
    """Return the factor of the learning rates for a model of this size; 1 if its configuration names none."""
    width = next((base_config[name] for name in WIDTH_NAMES if base_config.get(name)), WIDTH)
    return min(MAX_SCALE, (WIDTH / float(width)) ** 2)
