"""Two versions on the same rows → the gain, its standard error, and how often chance alone would reach it.

The unit is the group: the rows of one text, context or document, which move together. Pure numpy; knows neither policies nor
tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from baton.tasks.f1 import Floats
from training.judge.pairs import Pair

ENUMERATED = 12
"""Number of differing groups up to which all 2^D exchanges are computed, which makes the p-value exact."""

FEW = 400
"""Effective number of differing groups up to which exchanges are drawn. Above it, both tests agree: the normal one is used."""

TIES = 1e-9
"""Rounding error of a gain. An exchange that reaches the gain within it counts as reaching it."""

CELLS = 4_000_000
"""Maximum number of cells (exchanges times groups) that are computed at once: 16 MB of float32."""

MIN_DRAWS, MAX_DRAWS = 10_000, 200_000
"""Limits of the number of random exchanges. Between them it is 50 / level, for a steady p-value near the level."""


def quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution, for a probability between 0 and 1, both excluded."""
    return NormalDist().inv_cdf(probability)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The gain of a candidate over a champion on the same rows."""

    candidate_f1: float
    champion_f1: float
    gain: float
    """The candidate's F1 minus the champion's."""
    standard_error: float
    """Of ``gain``, over groups."""
    groups: int
    differing: int
    """Number of groups on which the answers score differently."""
    p_normal: float
    """Probability of such a gain between equal versions: the upper tail of the normal distribution at gain / standard error."""
    p_swap: float | None
    """The same by exchanging answers; None if it was not computed, as ``p_normal`` decides alone."""

    @property
    def p(self) -> float:
        """The larger of the two probabilities."""
        return self.p_normal if self.p_swap is None else max(self.p_swap, self.p_normal)

    def lower_bound(self, level: float) -> float:
        """Return the one-sided lower confidence bound of the gain, which errs with probability ``level``."""
        return self.gain - quantile(1 - level) * self.standard_error

    def upper_bound(self, level: float) -> float:
        """Return the one-sided upper confidence bound of the gain, which errs with probability ``level``."""
        return self.gain + quantile(1 - level) * self.standard_error


def compare(pair: Pair, groups: NDArray[np.int32], *, level: float | None = None, seed: int = 0) -> Comparison:
    """Compare two versions.

    Where the answers differ, a coin decides which version gave which answer, and the gain is computed again: the p-value is the
    share of exchanges that reach the observed gain (approximate randomization, Yeh 2000; all exchanges if few groups differ).
    It is exact if the versions are exchangeable, and too small if they are not, for instance if one gains a little on many rows
    and loses much on few. Then the gain divided by its standard error is the more careful test, so that both must pass.
    Exchanges that reach the gain exactly count against the candidate, and the observed one counts as one of them (Phipson and
    Smyth 2010), so that p is never 0.

    Args:
        groups: [n], the number of each row's group, from 0.
        level: the largest p-value that would pass; None: no exchanges, for callers that need the gain and its error only. What
            cannot pass is not computed to the end.
        seed: of the random exchanges; the same seed gives the same result.
    """
    gain = pair.gain
    influence = by_group(pair.influence, groups)
    error = standard_error(influence)
    p_normal = 0.5 * math.erfc(gain / error / math.sqrt(2)) if error > 0 else float(gain <= 0)
    differs = pair.differing()
    differing_groups = np.unique(groups[differs])
    count = len(differing_groups)
    if count == 0:
        p_swap: float | None = 1.0
    elif level is None or (count > ENUMERATED and (p_normal > level or _effective_number(influence[differing_groups]) > FEW)):
        p_swap = None
    else:
        rows = np.flatnonzero(differs)
        moved = pair.transfers(rows, np.searchsorted(differing_groups, groups[rows]), count)
        p_swap = _swap_p_value(pair, moved, gain, level, seed)
    return Comparison(
        candidate_f1=pair.candidate.value(),
        champion_f1=pair.champion.value(),
        gain=gain,
        standard_error=error,
        groups=len(influence),
        differing=count,
        p_normal=p_normal,
        p_swap=p_swap,
    )


def least_differing(level: float) -> int:
    """Return how many groups must differ before any result can reach a p-value of ``level``: 2^-D of all exchanges do."""
    return math.ceil(math.log2(1 / level))


def by_group(influence: Floats, groups: NDArray[np.int32]) -> Floats:
    """Return [G], the influence of each group: the sum over its rows. ``groups``: [n], from 0."""
    sums: Floats = np.bincount(groups, weights=influence).astype(np.float64)
    return sums


def standard_error(influence: Floats) -> float:
    """Return the standard error of a metric from the influence [G] of its groups: √(G / (G − 1) · Σ influence²)."""
    count = len(influence)
    return math.sqrt(float(influence @ influence) * count / max(count - 1, 1))


def _effective_number(influence: Floats) -> float:
    """Return (Σc²)² / Σc⁴: how many groups of equal influence would be as normal as these."""
    squares = influence * influence
    return float(squares.sum() ** 2 / max(float((squares * squares).sum()), 1e-300))


def _swap_p_value(pair: Pair, moved: NDArray[np.floating], gain: float, level: float, seed: int) -> float:
    """Return the share of exchanges that reach ``gain``. ``moved``: [D, k], the `transfers` of the differing groups.

    Drawing ends early when the p-value cannot be ``level`` or less any more; the share so far is then returned.
    """
    count = len(moved)
    if count <= ENUMERATED:
        chosen = ((np.arange(2**count)[:, None] >> np.arange(count)) & 1).astype(moved.dtype)
        return float(np.mean(pair.swapped(chosen @ moved) >= gain - TIES))
    rng = np.random.default_rng(seed)
    draws = min(max(MIN_DRAWS, math.ceil(50 / level)), MAX_DRAWS)
    drawn = reached = 0
    while drawn < draws:
        size = min(draws - drawn, max(1, CELLS // count))
        coins = np.frombuffer(rng.bytes(size * ((count + 7) // 8)), dtype=np.uint8).reshape(size, -1)
        chosen = np.unpackbits(coins, axis=1, count=count).astype(moved.dtype)
        reached += int(np.count_nonzero(pair.swapped(chosen @ moved) >= gain - TIES))
        drawn += size
        if reached + 1 > level * (draws + 1):
            break
    return (reached + 1) / (drawn + 1)
