"""What a candidate may not pay for its gain with: F1 on parts of the holdout, on single labels and on slices.

Guards can only refuse. They make false promotions rarer, never more frequent. Knows neither the gain nor the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.config.model_settings import GateSettings
from baton.tasks.f1 import Floats
from training.judge.comparison import Comparison, compare, least_differing, quantile
from training.judge.pairs import MacroPair, Pair

GUARD_CONFIDENCE = 0.8
"""Confidence with which a part must exclude a loss beyond ``max_drop``. Guards cannot make false promotions more frequent."""

PART_GROUPS = 100
"""Number of groups from which a part guards. A smaller one could rarely exclude a loss, even where there is none."""

Groups = NDArray[np.int32]
"""[n], the number of each row's group, from 0."""

Rows = Mapping[str, NDArray[np.bool_]]
"""Name → [n], whether each row belongs to it."""


class Guard(StrEnum):
    """What a part of the holdout says about a loss beyond the margin."""

    HELD = "held"
    """It is excluded."""
    UNKNOWN = "unknown"
    """It cannot be excluded."""
    LOST = "lost"
    """It is there: the loss is beyond the margin, and real."""
    SMALL = "small"
    """The part is too small to exclude a loss. A clear loss counts nevertheless."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """F1 of both versions on some rows, or of one label."""

    name: str
    candidate_f1: float
    champion_f1: float
    standard_error: float
    """Of the gain."""
    groups: int
    """Number of groups with such rows; of a label: of groups that have it in the right answer."""

    @property
    def gain(self) -> float:
        """The candidate's F1 minus the champion's."""
        return self.candidate_f1 - self.champion_f1


@dataclass(frozen=True, kw_only=True, slots=True)
class Part(Change):
    """A part of the holdout on which a loss is limited by ``max_drop``."""

    guard: Guard


@dataclass(frozen=True, kw_only=True, slots=True)
class Single(Change):
    """A label or a slice, on each of which a loss is limited by ``max_class_drop``."""

    lost: bool
    """Whether it clearly fell by more than that."""


def guard_parts(pair: Pair, groups: Groups, parts: Rows, policy: GateSettings, *, always: bool = False) -> list[Part]:
    """Return the change on each part. ``always``: a part guards whatever its size."""
    found = []
    for name, rows in parts.items():
        if rows.any():
            comparison = _compare_rows(pair, groups, rows)
            found.append(Part(name=name, guard=_guard(comparison, policy, always=always), **_numbers(comparison)))
    return found


def guard_slices(pair: Pair, groups: Groups, slices: Rows, policy: GateSettings) -> list[Single]:
    """Return the change on each slice. One is lost at a level that those which could be lost share (Bonferroni)."""
    comparisons = {name: _compare_rows(pair, groups, rows) for name, rows in slices.items()}
    least = least_differing(1 - policy.confidence)
    level = (1 - policy.confidence) / max(sum(comparison.groups >= least for comparison in comparisons.values()), 1)
    found = []
    for name, comparison in comparisons.items():
        clear = comparison.differing >= least_differing(level) and comparison.upper_bound(level) < 0
        found.append(Single(name=name, lost=clear and comparison.gain < -policy.max_class_drop, **_numbers(comparison)))
    return found


def guard_labels(pair: Pair, groups: Groups, policy: GateSettings) -> list[Single]:
    """Return the change of each judged label, if the metric is macro-F1. One is lost at a level that all of them share.

    As for the gain, so many groups must differ that a result at this level is possible at all: a label with a single row, whose
    F1 goes from 1 to 0, has a standard error of 0.
    """
    if not isinstance(pair, MacroPair):
        return []
    candidate, champion = pair.candidate, pair.champion
    errors, differing = _label_errors(pair, groups)
    level = (1 - policy.confidence) / max(int(candidate.judged.sum()), 1)
    z, least = quantile(1 - level), least_differing(level)
    found = []
    for index in np.flatnonzero(candidate.judged):
        ours, theirs, error = float(candidate.by_label[index]), float(champion.by_label[index]), float(errors[index])
        clear = differing[index] >= least and ours - theirs + z * error < 0
        change = Single(
            name=candidate.labels[index],
            candidate_f1=ours,
            champion_f1=theirs,
            standard_error=error,
            groups=len(np.unique(groups[candidate.truth == index])),
            lost=bool(clear and ours - theirs < -policy.max_class_drop),
        )
        found.append(change)
    return found


def _compare_rows(pair: Pair, groups: Groups, rows: NDArray[np.bool_]) -> Comparison:
    return compare(pair.part(rows), np.unique(groups[rows], return_inverse=True)[1].astype(np.int32))


def _numbers(comparison: Comparison) -> dict[str, Any]:
    names = ("candidate_f1", "champion_f1", "standard_error", "groups")
    return {name: getattr(comparison, name) for name in names}


def _guard(comparison: Comparison, policy: GateSettings, *, always: bool) -> Guard:
    gain, error = comparison.gain, comparison.standard_error
    level = 1 - policy.confidence
    clear = comparison.differing >= least_differing(level) and comparison.upper_bound(level) < 0
    if clear and gain < -policy.max_drop:
        return Guard.LOST
    if comparison.groups < PART_GROUPS and not always:
        return Guard.SMALL
    return Guard.HELD if gain - quantile(GUARD_CONFIDENCE) * error >= -policy.max_drop else Guard.UNKNOWN


def _label_errors(pair: MacroPair, groups: NDArray[np.int32]) -> tuple[Floats, NDArray[np.intp]]:
    """Return [labels] the standard error of the change of each label's F1 over groups (delta method), and [labels] on how many
    groups the answers differ so that the label is the truth or one of the answers.

    A row has influence on two labels at most in each version: that of its truth and that of the answer. Summed up sparsely: one
    cell for each group and label that occur together.
    """
    count = len(pair.candidate.labels)
    cells, influences = [], []
    for metric, sign in ((pair.candidate, 1), (pair.champion, -1)):
        either = np.maximum(metric.truths + metric.predictions, 1)
        slope = metric.by_label / either
        right = np.where(metric.predicted == metric.truth, 2 / either[metric.truth], 0.0)
        cells += [groups.astype(np.int64) * count + metric.truth, groups.astype(np.int64) * count + metric.predicted]
        influences += [sign * (right - slope[metric.truth]), -sign * slope[metric.predicted]]
    cell, position = np.unique(np.concatenate(cells), return_inverse=True)
    total = np.bincount(position, weights=np.concatenate(influences))
    errors: Floats = np.sqrt(np.bincount(cell % count, weights=total * total, minlength=count))
    differs = np.flatnonzero(pair.differing())
    answers = (pair.candidate.truth, pair.candidate.predicted, pair.champion.predicted)
    touched = np.unique(np.concatenate([groups[differs].astype(np.int64) * count + rows[differs] for rows in answers]))
    return errors, np.bincount(touched % count, minlength=count)
