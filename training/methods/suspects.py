"""Finds training rows whose label is probably wrong, by confident learning on a cross-validated probe. Read `suspects` first.

Northcutt, Jiang and Chuang 2021, «Confident Learning: Estimating Uncertainty in Dataset Labels».
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.errors import DataError
from baton.tasks import task_type


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A row whose label a model that never saw it doubts."""

    row: int
    """Its index among the rows."""
    given: str
    suggested: str
    margin: float
    """How much more probable the suggested label is than the given one, in (0, 1]."""


def suspects(
    settings: ModelSettings, examples: Sequence[Any], report: Callable[[int, int], None] = lambda done, total: None
) -> list[Suspect]:
    """Return the rows that are probably mislabelled, the most suspicious first.

    A linear probe on the base model's embeddings predicts each row by a fit that left the row's fold out. A row is suspect if
    another label than the given one is at least as probable as that label is on average for the rows that have it.

    Args:
        report: called with the number of embedded windows, and of all.

    Raises:
        DataError: the task does not give each text one label.
        ConfigError: the base model's family has no probe.
    """
    task_cls = task_type(settings.task)
    if task_cls.target != "class":
        raise DataError(f"suspects are found for classification only; {settings.name} is of the task {settings.task}")
    import transformers  # these take seconds

    from training.methods.few_shot import fit_head

    transformers.utils.logging.set_verbosity_error()  # it warns that the head is new, and shows bars of its own
    transformers.utils.logging.disable_progress_bar()
    labels, base = task_cls.labels_of(examples), find_base_model(settings.base_model)
    with tempfile.TemporaryDirectory(prefix="baton-suspects-") as scratch:
        fitted = fit_head(base, settings, labels, examples, directory=Path(scratch), report=report)
    logits = fitted.held_out.double().numpy()
    index = {label: position for position, label in enumerate(labels)}
    given = np.array([index[example.label] for example in examples])
    return [
        Suspect(row=row, given=labels[given[row]], suggested=labels[other], margin=margin)
        for row, other, margin in confident_errors(_softmax(logits), given)
    ]


def confident_errors(probabilities: NDArray[np.float64], given: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return row, other label and margin of the off-diagonal of the confident joint, the largest margin first.

    Args:
        probabilities: [n, labels], each row predicted by a model that was not fitted to it.
        given: [n], indices of the labels in the data.
    """
    present = np.unique(given)
    thresholds = np.full(probabilities.shape[1], np.inf)
    thresholds[present] = [probabilities[given == label, label].mean() for label in present]
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    rows = np.flatnonzero((confident.max(axis=1) >= 0) & (likely != given))
    margins = probabilities[rows, likely[rows]] - probabilities[rows, given[rows]]
    order = np.argsort(-margins, kind="stable")
    return [(int(rows[at]), int(likely[rows[at]]), float(margins[at])) for at in order if margins[at] > 0]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
