"""The gate: may this candidate replace this champion? Pure and deterministic: arrays and a policy → an Outcome.

Several conditions must all hold: a gain that chance alone would rarely reach, and no clear loss on any part of the holdout.
One more condition can only make a false promotion rarer. docs/gate.md explains the rules; benchmarks/gate tests them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from baton.config.model_settings import GateSettings
from baton.quality.matches import allowed
from baton.store.records import Verdict
from baton.tasks.f1 import Metric
from training.judge.comparison import Comparison, by_group, compare, quantile, standard_error
from training.judge.guards import Guard, Part, Single, guard_labels, guard_parts, guard_slices
from training.judge.pairs import Pair

POWER = 0.8
"""Probability of success with which `needed` holdout texts would show a gain."""


KNOWN_LABELS = "labels that both versions know"
"""Name of the part whose rows have only labels that the champion knows, too."""


class Reason(StrEnum):
    """What decided. In the order in which the conditions are checked."""

    TOO_LARGE = "too large"
    TOO_SLOW = "too slow"
    FEW_ROWS = "few rows"
    NO_GAIN = "no gain"
    LABEL_LOST = "label lost"
    SLICE_LOST = "slice lost"
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
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Rows on each of which a loss is limited by ``max_class_drop``: name → [n]."""
    cost: Cost | None = None
    """Of the candidate; None if it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What it costs to serve a version."""

    megabytes: float
    """Size of its files, in 10^6 bytes."""
    latency_ms: float
    """Median time of one answer to a single input, with as many threads as a replica has."""


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
    labels: Sequence[Single] = ()
    """Every judged label, if the metric is macro-F1."""
    slices: Sequence[Single] = ()
    cost: Cost | None = None

    @property
    def optimism(self) -> float:
        """How much larger the gain of a winner looks than it is, on average: only gains that happen to be large win. Else 0.

        A normal gain that is truly g looks larger by SE · φ(m) / (1 − Φ(m)) with m = z − g / SE, given that it passes the level
        of this match, z. The true gain is not known: the formula takes the observed one first, and then what is left of it, but
        not less than 0 (a step of Zhong and Prentice 2008 towards the estimate that explains itself).
        """
        error = self.comparison.standard_error
        if self.verdict is not Verdict.PROMOTE or error == 0:
            return 0.0
        z, shown = quantile(1 - self.allowed), self.comparison.gain / error
        return error * _selection_bias(max(shown - _selection_bias(shown, z), 0.0), z)

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
    cost: Cost | None = None


def decide(match: Match, policy: GateSettings) -> Outcome:
    """Return the outcome of a match under a policy. The same arguments always give the same outcome."""
    level = allowed(policy.confidence, match.number)
    pair, groups = match.pair, match.groups
    comparison = compare(pair, groups, level=level, seed=match.seed)
    outcome = Outcome(
        verdict=Verdict.PROMOTE,
        reason=Reason.GAIN,
        number=match.number,
        allowed=level,
        comparison=comparison,
        parts=[
            *guard_parts(pair, groups, match.parts, policy),
            *guard_parts(pair, groups, _known_labels(match), policy, always=True),
        ],
        labels=guard_labels(pair, groups, policy),
        slices=guard_slices(pair, groups, match.slices, policy),
        cost=match.cost,
    )
    return next((replace(outcome, verdict=verdict, reason=reason) for verdict, reason in _objections(outcome, policy)), outcome)


def decide_first(
    metric: Metric, groups: NDArray[np.int32], number: int, policy: GateSettings, *, cost: Cost | None = None
) -> FirstOutcome:
    """Return the outcome for a version without a champion: the lower bound of its F1 must reach ``min_f1``.

    ``number``: 1 plus the number of first versions that were tried on this holdout before. ``groups``, ``cost``: as in `Match`.
    """
    level = allowed(policy.confidence, number)
    f1, influence = metric.value(), by_group(metric.influence(), groups)
    error = standard_error(influence)
    bound, _ = wilson_interval(f1, error, len(influence), quantile(1 - level))
    if over := over_budget(cost, policy):
        verdict, reason = Verdict.REJECT, over
    elif len(influence) < policy.min_rows:
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
        cost=cost,
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


def over_budget(cost: Cost | None, policy: GateSettings) -> Reason | None:
    """Return why a version costs too much, or None."""
    if cost is not None and policy.max_megabytes is not None and cost.megabytes > policy.max_megabytes:
        return Reason.TOO_LARGE
    if cost is not None and policy.max_latency_ms is not None and cost.latency_ms > policy.max_latency_ms:
        return Reason.TOO_SLOW
    return None


def _selection_bias(mean: float, z: float) -> float:
    """Return the mean of a normal number with this mean and variance 1, given that it is above z, minus that mean."""
    normal = NormalDist()
    return normal.pdf(z - mean) / max(1 - normal.cdf(z - mean), 1e-12)


def _known_labels(match: Match) -> dict[str, NDArray[np.bool_]]:
    return {} if match.known is None else {KNOWN_LABELS: match.known}


def _objections(outcome: Outcome, policy: GateSettings) -> Iterator[tuple[Verdict, Reason]]:
    """Yield the conditions that do not hold, the one that decides first."""
    comparison, guards = outcome.comparison, [part.guard for part in outcome.parts]
    if over := over_budget(outcome.cost, policy):
        yield Verdict.REJECT, over
    if comparison.groups < policy.min_rows:
        yield Verdict.INCONCLUSIVE, Reason.FEW_ROWS
    if comparison.gain <= 0 or comparison.gain < policy.min_gain:
        yield Verdict.REJECT, Reason.NO_GAIN
    if any(label.lost for label in outcome.labels):
        yield Verdict.REJECT, Reason.LABEL_LOST
    if any(part.lost for part in outcome.slices):
        yield Verdict.REJECT, Reason.SLICE_LOST
    if Guard.LOST in guards:
        yield Verdict.REJECT, Reason.PART_LOST
    if comparison.p > outcome.allowed:
        yield Verdict.INCONCLUSIVE, Reason.NOT_SURE
    if Guard.UNKNOWN in guards:
        yield Verdict.INCONCLUSIVE, Reason.LOSS_POSSIBLE
