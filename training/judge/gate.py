"""The gate: may this candidate replace this champion? Pure and deterministic: arrays and a policy → an Outcome.

Several conditions must all hold: a gain that chance alone would rarely reach, and no clear loss on any part of the holdout.
One more condition can only make a false promotion rarer. docs/gate.md explains the rules; benchmarks/gate tests them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from baton.config.model_settings import GateSettings
from baton.quality.matches import allowed
from baton.store.records import Verdict
from baton.tasks.f1 import Floats, Metric
from training.judge.comparison import Comparison, by_group, compare, quantile, standard_error
from training.judge.pairs import MacroPair, Pair

GUARD_CONFIDENCE = 0.8
"""Confidence with which a part must exclude a loss beyond ``max_drop``. Guards cannot make false promotions more frequent."""

PART_GROUPS = 100
"""Number of groups from which a part guards. A smaller one could rarely exclude a loss, even where there is none."""

POWER = 0.8
"""Probability of success with which `needed` holdout texts would show a gain."""

KNOWN_LABELS = "labels that both versions know"
"""Name of the part whose rows have only labels that the champion knows, too."""


class Reason(StrEnum):
    """What decided. In the order in which the conditions are checked."""

    FEW_ROWS = "few rows"
    NO_GAIN = "no gain"
    LABEL_LOST = "label lost"
    PART_LOST = "part lost"
    NOT_SURE = "not sure"
    LOSS_POSSIBLE = "loss possible"
    GAIN = "gain"
    TOO_LOW = "too low"
    """Of a first version: its F1 is below ``min_f1``."""
    BOUND_TOO_LOW = "bound too low"
    """Of a first version: its F1 is not, but the lower bound of it is."""
    HIGH_ENOUGH = "high enough"
    """Of a first version."""


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
class Match:
    """One candidate against one champion on one holdout of n rows."""

    pair: Pair
    groups: NDArray[np.int32]
    """[n], the number of each row's group, from 0."""
    number: int
    """1 plus the number of matches that the champion has played on this holdout before (see `allowed`)."""
    seed: int
    parts: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Parts of the holdout on which a loss is limited by ``max_drop``: name → [n]."""
    known: NDArray[np.bool_] | None = None
    """[n], the rows whose labels the champion knows; None unless the candidate has labels that it lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The gain on a part of the holdout."""

    name: str
    gain: float
    standard_error: float
    groups: int
    guard: Guard


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelChange:
    """F1 of one label in both versions."""

    label: str
    candidate_f1: float
    champion_f1: float
    standard_error: float
    """Of the difference."""
    lost: bool
    """Whether it clearly fell by more than ``max_class_drop``."""

    @property
    def gain(self) -> float:
        """The candidate's F1 minus the champion's."""
        return self.candidate_f1 - self.champion_f1


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The verdict of one match, with everything that it rests on."""

    verdict: Verdict
    reason: Reason
    number: int
    allowed: float
    """The largest p-value with which this match may be won."""
    comparison: Comparison
    parts: Sequence[Part] = ()
    labels: Sequence[LabelChange] = ()
    """Every judged label, if the metric is macro-F1."""

    @property
    def lower_bound(self) -> float:
        """Lower confidence bound of the gain, at the level of this match."""
        return self.comparison.lower_bound(self.allowed)

    @property
    def detectable(self) -> float:
        """The true gain that this match would show with probability `POWER`."""
        return (quantile(1 - self.allowed) + quantile(POWER)) * self.comparison.standard_error


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstOutcome:
    """The verdict on a version without a champion to beat."""

    verdict: Verdict
    reason: Reason
    number: int
    allowed: float
    f1: float
    standard_error: float
    lower_bound: float
    """Wilson's lower bound of ``f1``, which errs with probability ``allowed``."""
    groups: int


def decide(match: Match, policy: GateSettings) -> Outcome:
    """Return the outcome of a match under a policy. The same arguments always give the same outcome."""
    level = allowed(policy.confidence, match.number)
    comparison = compare(match.pair, match.groups, level=level, seed=match.seed)
    parts = [_part(match, name, rows, policy) for name, rows in _guarded_parts(match).items()]
    labels = _label_changes(match, policy) if isinstance(match.pair, MacroPair) else []
    verdict, reason = _verdict(comparison, level, parts, labels, policy)
    return Outcome(
        verdict=verdict,
        reason=reason,
        number=match.number,
        allowed=level,
        comparison=comparison,
        parts=parts,
        labels=labels,
    )


def decide_first(metric: Metric, groups: NDArray[np.int32], number: int, policy: GateSettings) -> FirstOutcome:
    """Return the outcome for a version without a champion: the lower bound of its F1 must reach ``min_f1``.

    ``number``: 1 plus the number of first versions that were tried on this holdout before. ``groups``: [n], as in `Match`.
    """
    level = allowed(policy.confidence, number)
    f1, influence = metric.value(), by_group(metric.influence(), groups)
    error = standard_error(influence)
    bound, _ = wilson_interval(f1, error, len(influence), quantile(1 - level))
    if len(influence) < policy.min_rows:
        verdict, reason = Verdict.INCONCLUSIVE, Reason.FEW_ROWS
    elif f1 < policy.min_f1:
        verdict, reason = Verdict.REJECT, Reason.TOO_LOW
    elif bound < policy.min_f1:
        verdict, reason = Verdict.INCONCLUSIVE, Reason.BOUND_TOO_LOW
    else:
        verdict, reason = Verdict.PROMOTE, Reason.HIGH_ENOUGH
    return FirstOutcome(
        verdict=verdict,
        reason=reason,
        number=number,
        allowed=level,
        f1=f1,
        standard_error=error,
        lower_bound=bound,
        groups=len(influence),
    )


def needed(outcome: Outcome, policy: GateSettings) -> int | None:
    """Return how many groups in all would show the observed gain with probability `POWER`, if it is the true one.

    That is in the next match, or in the first match on a holdout that has at least doubled (which starts the count over),
    whichever takes fewer. None unless there is a gain.
    """
    comparison = outcome.comparison
    if comparison.gain <= 0:
        return None

    def groups_at(number: int) -> int:
        distance = quantile(1 - allowed(policy.confidence, number)) + quantile(POWER)
        return math.ceil(comparison.groups * (distance * comparison.standard_error / comparison.gain) ** 2)

    return min(groups_at(outcome.number + 1), max(2 * comparison.groups, groups_at(1)))


def least_differing(level: float) -> int:
    """Return how many groups must differ before any result can reach a p-value of ``level``: 2^-D of all exchanges do."""
    return math.ceil(math.log2(1 / level))


def wilson_interval(share: float, error: float, groups: int, z: float) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share in [0, 1], such as F1: ``z`` standard errors to each side.

    The number of observations is the one that its standard ``error`` shows, share·(1 − share) / error², but at most four times
    the number of groups; it is the number of groups where the share is 0 or 1.
    """
    if groups == 0:
        return 0.0, 1.0
    count = share * (1 - share) / error**2 if 0 < share < 1 and error > 0 else groups
    count = min(count, 4 * groups)
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    width = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)


def _verdict(
    comparison: Comparison, level: float, parts: Sequence[Part], labels: Sequence[LabelChange], policy: GateSettings
) -> tuple[Verdict, Reason]:
    gain, guards = comparison.gain, [part.guard for part in parts]
    checks = (  # in order: the first that holds decides
        (comparison.groups < policy.min_rows, Verdict.INCONCLUSIVE, Reason.FEW_ROWS),
        (gain <= 0 or gain < policy.min_gain, Verdict.REJECT, Reason.NO_GAIN),
        (any(change.lost for change in labels), Verdict.REJECT, Reason.LABEL_LOST),
        (Guard.LOST in guards, Verdict.REJECT, Reason.PART_LOST),
        (comparison.p > level, Verdict.INCONCLUSIVE, Reason.NOT_SURE),
        (Guard.UNKNOWN in guards, Verdict.INCONCLUSIVE, Reason.LOSS_POSSIBLE),
        (True, Verdict.PROMOTE, Reason.GAIN),
    )
    return next((verdict, reason) for holds, verdict, reason in checks if holds)


def _guarded_parts(match: Match) -> dict[str, NDArray[np.bool_]]:
    known = {} if match.known is None else {KNOWN_LABELS: match.known}
    return {name: rows for name, rows in {**match.parts, **known}.items() if rows.any()}


def _part(match: Match, name: str, rows: NDArray[np.bool_], policy: GateSettings) -> Part:
    groups = np.unique(match.groups[rows], return_inverse=True)[1].astype(np.int32)
    comparison = compare(match.pair.part(rows), groups)
    return Part(
        name=name,
        gain=comparison.gain,
        standard_error=comparison.standard_error,
        groups=comparison.groups,
        guard=_guard(comparison, policy, always=name == KNOWN_LABELS),
    )


def _guard(comparison: Comparison, policy: GateSettings, *, always: bool) -> Guard:
    gain, error = comparison.gain, comparison.standard_error
    clear = comparison.differing >= least_differing(1 - policy.confidence) and gain + quantile(policy.confidence) * error < 0
    if clear and gain < -policy.max_drop:
        return Guard.LOST
    if comparison.groups < PART_GROUPS and not always:
        return Guard.SMALL
    return Guard.HELD if gain - quantile(GUARD_CONFIDENCE) * error >= -policy.max_drop else Guard.UNKNOWN


def _label_changes(match: Match, policy: GateSettings) -> list[LabelChange]:
    """Return the change of each judged label. One is lost at a level that is shared by all of them (Bonferroni).

    As for the gain, so many groups must differ that a result at this level is possible at all: a label with a single row, whose
    F1 goes from 1 to 0, has a standard error of 0.
    """
    assert isinstance(match.pair, MacroPair)
    candidate, champion = match.pair.candidate, match.pair.champion
    errors, differing = _label_errors(match.pair, match.groups)
    level = (1 - policy.confidence) / max(int(candidate.judged.sum()), 1)
    z, least = quantile(1 - level), least_differing(level)
    changes = []
    for index in np.flatnonzero(candidate.judged):
        ours, theirs, error = float(candidate.by_label[index]), float(champion.by_label[index]), float(errors[index])
        clear = differing[index] >= least and ours - theirs + z * error < 0
        lost = bool(clear and ours - theirs < -policy.max_class_drop)
        change = LabelChange(
            label=candidate.labels[index], candidate_f1=ours, champion_f1=theirs, standard_error=error, lost=lost
        )
        changes.append(change)
    return changes


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
