"""Two versions' answers to the same rows: both metrics, and the gain after exchanging answers between the versions.

Exchanging the answers of some groups moves counts from one version to the other. `Pair.transfers` gives what each group would
move, and `Pair.swapped` the gain for any sums of that. Knows neither levels nor verdicts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from baton.tasks.f1 import Floats, MacroF1, Metric, RatioF1, Rows


class Pair(ABC):
    """The main metric of a candidate and of a champion on the same n rows."""

    candidate: Metric
    champion: Metric

    @cached_property
    def influence(self) -> Floats:
        """[n]: the influence of each row on the gain, the candidate's metric minus the champion's."""
        return self.candidate.influence() - self.champion.influence()

    @property
    def gain(self) -> float:
        """The candidate's metric minus the champion's."""
        return self.candidate.value() - self.champion.value()

    @abstractmethod
    def part(self, rows: Rows) -> Pair:
        """Return the same pair on some of the rows."""

    @abstractmethod
    def differing(self) -> NDArray[np.bool_]:
        """Return [n]: the rows on which the two answers score differently."""

    @abstractmethod
    def transfers(self, rows: NDArray[np.intp], groups: NDArray[np.intp], count: int) -> NDArray[np.floating]:
        """Return [count, k]: what exchanging a group's answers adds to the candidate's k sums, and takes from the champion's.

        Args:
            rows: positions of the rows to exchange.
            groups: the group of each of these rows, from 0 to ``count`` - 1.
        """

    @abstractmethod
    def swapped(self, moved: NDArray[np.floating]) -> Floats:
        """Return the gains [r] after r exchanges; ``moved`` [r, k] has the sums of the exchanged groups' `transfers`."""


class MacroPair(Pair):
    """Macro-F1 of both versions, over the same labels: those that are true in some row."""

    candidate: MacroF1
    champion: MacroF1

    def __init__(self, candidate: MacroF1, champion: MacroF1) -> None:
        self.candidate, self.champion = candidate, champion

    def part(self, rows: Rows) -> MacroPair:
        return MacroPair(self.candidate.part(rows), self.champion.part(rows))

    def differing(self) -> NDArray[np.bool_]:
        return np.asarray(self.candidate.predicted != self.champion.predicted)

    def transfers(self, rows: NDArray[np.intp], groups: NDArray[np.intp], count: int) -> NDArray[np.floating]:
        """The sums are the hits, then the predictions, of each judged label. float32 holds such counts exactly."""
        truth, judged = self.candidate.truth[rows], self.candidate.judged
        labels = len(judged)
        moved = np.zeros((count, 2 * labels), dtype=np.float32)
        for metric, sign in ((self.champion, 1), (self.candidate, -1)):
            answers = metric.predicted[rows]
            right = answers == truth
            np.add.at(moved, (groups[right], answers[right]), sign)
            np.add.at(moved, (groups, labels + answers), sign)
        return moved[:, np.concatenate([judged, judged])]

    def swapped(self, moved: NDArray[np.floating]) -> Floats:
        labels = int(self.candidate.judged.sum())
        hits, predictions = moved[:, :labels].astype(np.float64), moved[:, labels:].astype(np.float64)
        return _macro(self.candidate, hits, predictions) - _macro(self.champion, -hits, -predictions)


class RatioPair(Pair):
    """A ratio of sums of both versions, such as micro-F1, or a mean."""

    candidate: RatioF1
    champion: RatioF1

    def __init__(self, candidate: RatioF1, champion: RatioF1) -> None:
        self.candidate, self.champion = candidate, champion

    def part(self, rows: Rows) -> RatioPair:
        return RatioPair(self.candidate.part(rows), self.champion.part(rows))

    def differing(self) -> NDArray[np.bool_]:
        ours, theirs = self.candidate, self.champion
        return np.asarray((ours.numerators != theirs.numerators) | (ours.denominators != theirs.denominators))

    def transfers(self, rows: NDArray[np.intp], groups: NDArray[np.intp], count: int) -> NDArray[np.floating]:
        """The sums are the numerators and the denominators."""
        ours, theirs = self.candidate.part(rows), self.champion.part(rows)
        return np.stack(
            [
                np.bincount(groups, weights=theirs.numerators - ours.numerators, minlength=count),
                np.bincount(groups, weights=theirs.denominators - ours.denominators, minlength=count),
            ],
            axis=1,
        )

    def swapped(self, moved: NDArray[np.floating]) -> Floats:
        return _ratio(self.candidate, moved) - _ratio(self.champion, -moved)


def pair_of(candidate: Metric, champion: Metric) -> Pair:
    """Return the pair of two metrics of the same rows, in the same order.

    The versions may have different labels: those of the truth are found in both.
    """
    if isinstance(candidate, MacroF1) and isinstance(champion, MacroF1):
        labels = tuple(dict.fromkeys([*candidate.labels, *champion.labels]))
        return MacroPair(candidate.with_labels(labels), champion.with_labels(labels))
    assert isinstance(candidate, RatioF1), "metrics of two tasks"
    assert isinstance(champion, RatioF1), "metrics of two tasks"
    return RatioPair(candidate, champion)


def _macro(metric: MacroF1, hits: Floats, predictions: Floats) -> Floats:
    """Return macro-F1 [r] after ``hits`` and ``predictions`` [r, judged labels] are added to the counts."""
    judged = metric.judged
    f1 = 2 * (metric.hits[judged] + hits) / (metric.predictions[judged] + predictions + metric.truths[judged])
    mean: Floats = f1.mean(axis=1)
    return mean


def _ratio(metric: RatioF1, moved: NDArray[np.floating]) -> Floats:
    """Return the ratios [r] after ``moved`` [r, 2] is added to numerator and denominator; 0 where the denominator is 0."""
    numerator = metric.numerators.sum() + moved[:, 0]
    denominator = metric.denominators.sum() + moved[:, 1]
    ratios: Floats = np.divide(numerator, denominator, out=np.zeros(len(moved)), where=denominator > 0)
    return ratios
