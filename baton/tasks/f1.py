"""The two forms that the main metric of a task can have, each with the terms of every row that it is computed from.

The gate needs the terms: how much each row contributes, and what the metric would be if some answers were others. Knows neither
tasks nor versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_] | NDArray[np.intp]
"""Selects rows: a mask [n], or their positions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MacroF1:
    """Macro-F1 of n answers with one label each: the mean over labels of 2·TP / (truths + predictions).

    The labels of the mean are those that are the truth of some row here. A prediction of any other label is a miss for the
    row's true label, but adds no label with F1 0 to the mean. So the set of labels depends on the holdout alone, and is the
    same for all versions that are evaluated on it (Opitz and Burst 2019, «Macro F1 and Macro F1», for the two ways to average).
    """

    truth: NDArray[np.int32]
    """[n], index in ``labels`` of each row's right label."""
    predicted: NDArray[np.int32]
    """[n], index in ``labels`` of each row's answer."""
    labels: tuple[str, ...]

    @cached_property
    def truths(self) -> Floats:
        """[labels]: how often each label is the truth."""
        return np.bincount(self.truth, minlength=len(self.labels)).astype(np.float64)

    @cached_property
    def predictions(self) -> Floats:
        """[labels]: how often each label is the answer."""
        return np.bincount(self.predicted, minlength=len(self.labels)).astype(np.float64)

    @cached_property
    def hits(self) -> Floats:
        """[labels]: how often each label is both."""
        return np.bincount(self.truth[self.truth == self.predicted], minlength=len(self.labels)).astype(np.float64)

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """[labels]: the labels of the mean."""
        return self.truths > 0

    @cached_property
    def by_label(self) -> Floats:
        """[labels]: F1 of each label; 0 where it neither occurs nor is predicted."""
        either = self.truths + self.predictions
        return np.divide(2 * self.hits, either, out=np.zeros_like(either), where=either > 0)

    @property
    def right(self) -> NDArray[np.bool_]:
        """[n]: which answers are right."""
        right: NDArray[np.bool_] = self.truth == self.predicted
        return right

    def value(self) -> float:
        """Return the metric; 0 without rows."""
        return float(self.by_label[self.judged].mean()) if self.judged.any() else 0.0

    def influence(self) -> Floats:
        """Return [n], the influence of each row on the metric: its derivative by the row's weight, in F1. They add up to 0.

        With d_k = truths + predictions of label k and L judged labels, row i has
        (2·[answer is right] / d_truth − F_answer / d_answer − F_truth / d_truth) / L, the middle term only if the answer is a
        judged label (delta method; its standard errors agree with the jackknife's).
        """
        either = np.where(self.judged, self.truths + self.predictions, np.inf)
        slope = self.by_label / either
        right = np.where(self.predicted == self.truth, 2 / either[self.truth], 0.0)
        influence: Floats = (right - slope[self.predicted] - slope[self.truth]) / max(int(self.judged.sum()), 1)
        return influence

    def part(self, rows: Rows) -> MacroF1:
        """Return the same metric of some rows; its mean is over the labels that are true among them."""
        return MacroF1(truth=self.truth[rows], predicted=self.predicted[rows], labels=self.labels)

    def with_labels(self, labels: Sequence[str]) -> MacroF1:
        """Return the same metric with indices into ``labels``, which must have all labels that occur in it."""
        position = {label: index for index, label in enumerate(labels)}
        indices = np.array([position.get(label, -1) for label in self.labels], dtype=np.int32)
        return MacroF1(truth=indices[self.truth], predicted=indices[self.predicted], labels=tuple(labels))


@dataclass(frozen=True, kw_only=True, eq=False)
class RatioF1:
    """A metric of n answers that is a ratio of two sums over the rows: Σ numerator / Σ denominator.

    Micro-F1: numerators 2·right, denominators found + true. A mean: numerators the values, denominators 1.
    """

    numerators: Floats
    """[n]"""
    denominators: Floats
    """[n]"""

    @property
    def right(self) -> NDArray[np.bool_]:
        """[n]: which answers are wholly right."""
        right: NDArray[np.bool_] = self.numerators >= self.denominators
        return right

    def value(self) -> float:
        """Return the metric; 0 if the denominators add up to 0."""
        total = float(self.denominators.sum())
        return float(self.numerators.sum()) / total if total > 0 else 0.0

    def influence(self) -> Floats:
        """Return [n], the influence of each row on the metric: (numerator − value · denominator) / Σ denominator."""
        total = float(self.denominators.sum())
        if total <= 0:
            return np.zeros(len(self.numerators))
        influence: Floats = (self.numerators - self.value() * self.denominators) / total
        return influence

    def part(self, rows: Rows) -> RatioF1:
        """Return the same metric of some rows."""
        return RatioF1(numerators=self.numerators[rows], denominators=self.denominators[rows])


Metric = MacroF1 | RatioF1
"""The main metric of some answers, with its terms."""


def micro_f1(counts: NDArray[np.int32]) -> RatioF1:
    """Return micro-F1 = 2·right / (found + true) from the counts [n, 3] of right, found and true labels or entities."""
    right, found, true = counts.reshape(-1, 3).T.astype(np.float64)
    return RatioF1(numerators=2 * right, denominators=found + true)
