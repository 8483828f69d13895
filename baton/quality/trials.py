"""Canaries and shadows: what replicas measure while they run two versions, and when that speaks against the new one.

Pure arithmetic. It may be looked at as often as one likes: what decides is an e-process (Ramdas et al. 2023, «Game-theoretic
statistics and safe anytime-valid inference»), not a test that is valid for one look.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

EXAMPLES = 10
"""Number of answers that differ most, which are kept for people."""

RATIOS = 64
"""Number of newest time ratios that each replica keeps."""

ENOUGH_RATIOS = 20
"""Number of time ratios whose median counts: a busy machine disturbs single ones."""

ENOUGH_ERRORS = 5
"""Corrected errors of the champion from which on pairs of answers speak against a shadow."""

SUMS = ("answers", "errors", "late", "skipped", "champion_answers", "champion_errors", "compared", "agreed", "shift")
"""Fields of `TrialCounts` that replicas add up."""

STALLED_SECONDS = 30.0
"""Seconds after which a batch counts as one that never ends: much longer than any that serving accepts."""

ALTERNATIVES = 200
"""Number of shares between the expected one and 1 that the e-process bets on."""


@dataclass(frozen=True, kw_only=True)
class TrialCounts:
    """What one replica, or all together, measured since a trial began there."""

    answers: int = 0
    """Requests that the new version answered (canary), or copies that it ran (shadow)."""
    errors: int = 0
    """Requests of its share on which it raised, or gave no numbers, whatever the champion did with them afterwards."""
    late: int = 0
    """Requests that it did not answer in time."""
    skipped: int = 0
    """Requests of its share that it never saw, because too many waited for it."""
    champion_answers: int = 0
    """Requests outside the share that the champion answered meanwhile; in a shadow, those of the share."""
    champion_errors: int = 0
    """Such requests on which it raised."""
    compared: int = 0
    """Inputs that both versions answered."""
    agreed: int = 0
    """Those with the same answer, whatever its score."""
    shift: float = 0.0
    """Sum over the compared inputs of the largest difference of a score, each at most 1."""
    ratios: tuple[float, ...] = ()
    """Time of the new version over the champion's, for the same inputs, one after the other; the newest of each replica."""
    stalled_seconds: float = 0.0
    """How long the new version's batch has been running, if that is the longest of all replicas."""
    examples: tuple[Mapping[str, Any], ...] = ()
    """The inputs (masked) whose answers differ most: ``input``, ``champion``, ``version`` in words, and the ``shift``."""

    @property
    def failures(self) -> int:
        """Requests that were given to the champion instead."""
        return self.errors + self.late

    @property
    def latency_ratio(self) -> float | None:
        """Median of `ratios`; None before there are any."""
        return statistics.median(self.ratios) if self.ratios else None


@dataclass(frozen=True, kw_only=True)
class TrialFeedback:
    """What feedback says of the answers that both versions gave since a trial began."""

    wrong: int = 0
    """Corrected answers of the new version that were wrong; of a shadow, those that the champion got right."""
    champion_wrong: int = 0
    """The same of the champion; in a shadow, those that the shadow got right."""
    f1: float | None = None
    """F1 of the new version on its corrected answers; None while there are none."""
    champion_f1: float | None = None
    pairs: int | None = None
    """Corrected inputs that both versions answered (`baton.quality.shadow_feedback`); None for a canary, in which one did."""
    champion_errors: int = 0
    """Pairs in which the champion was wrong, whatever the shadow answered."""

    @property
    def judges(self) -> bool:
        """Whether it may speak against the version: pairs only once the champion was wrong in `ENOUGH_ERRORS` of them.

        Applications that only confirm right answers would find nothing but errors of the shadow.
        """
        return self.pairs is None or self.champion_errors >= ENOUGH_ERRORS


def total(counts: Iterable[TrialCounts]) -> TrialCounts:
    """Return the sum over replicas: the longest stall, all ratios, and the examples that differ most."""
    found = list(counts)
    sums = {name: sum(getattr(one, name) for one in found) for name in SUMS}
    examples = sorted((example for one in found for example in one.examples), key=lambda example: -example["shift"])
    return TrialCounts(
        **{
            **sums,
            "ratios": tuple(ratio for one in found for ratio in one.ratios),
            "stalled_seconds": max((one.stalled_seconds for one in found), default=0.0),
            "examples": tuple(examples[:EXAMPLES]),
        }
    )


def complaint(
    counts: TrialCounts, feedback: TrialFeedback, *, share: float, confidence: float, max_latency_ratio: float
) -> str | None:
    """Return what speaks against the new version, as the end of a sentence; None if nothing does.

    Args:
        counts: of all replicas.
        feedback: on answers given since the trial began.
        share: of the requests that the new version gets, in (0, 1); in a shadow 0.5, because both answer each. If it is no
            worse, each failure and each answer that only one version got wrong is then its with probability 0.5 at most.
        confidence: 1 minus the probability of a complaint about failures or wrong answers that are as rare as the champion's,
            if what is corrected does not depend on who was wrong.
        max_latency_ratio: of the new version's time to the champion's.
    """
    if counts.stalled_seconds >= STALLED_SECONDS:
        return f"it has not finished a batch in {counts.stalled_seconds:.0f} s"
    if evidence(counts.failures, counts.champion_errors, share) * (1 - confidence) >= 1:
        kinds = [f"{counts.errors} raised an error" * bool(counts.errors), f"{counts.late} came too late" * bool(counts.late)]
        seen = counts.answers + counts.failures
        against = f"the champion failed on {counts.champion_errors} of {counts.champion_answers + counts.champion_errors}"
        return f"of its {seen} requests {' and '.join(filter(None, kinds))}; {against}"
    ratio = counts.latency_ratio
    if ratio is not None and len(counts.ratios) >= ENOUGH_RATIOS and ratio > max_latency_ratio:
        return (
            f"it takes {ratio:.1f} times as long as the champion for the same inputs "
            f"(rollout.max_latency_ratio: {max_latency_ratio:g})"
        )
    if feedback.judges and evidence(feedback.wrong, feedback.champion_wrong, share) * (1 - confidence) >= 1:
        known = feedback.f1 is not None and feedback.champion_f1 is not None
        scores = f", F1 {feedback.f1:.3f} against {feedback.champion_f1:.3f}" if known else ""
        if feedback.pairs is not None:
            return (
                f"of {feedback.pairs} corrected inputs that both versions ran, it alone was wrong on {feedback.wrong}, and "
                f"the champion alone on {feedback.champion_wrong}{scores}"
            )
        wrong = feedback.wrong + feedback.champion_wrong
        return (
            f"feedback found {feedback.wrong} of its answers wrong, and {feedback.champion_wrong} of the champion's; by its "
            f"share of the requests, {wrong * share:.3g} of these {wrong} would be its own{scores}"
        )
    return None


def evidence(bad: int, champion_bad: int, share: float) -> float:
    """Return the evidence (e-value) that the new version has more than its share of the bad cases.

    If it is no worse than the champion, each bad case is its with probability ``share`` at most, and the value exceeds 1/α at
    any time with probability α at most (Ville's inequality). It is the mean over alternatives q in (share, 1) of the
    likelihood ratio of q to ``share``.
    """
    q = share + (1 - share) * (np.arange(ALTERNATIVES) + 0.5) / ALTERNATIVES
    logs = bad * np.log(q / share) + champion_bad * np.log((1 - q) / (1 - share))
    highest = float(logs.max())
    return float(np.exp(min(highest, 700.0)) * np.exp(logs - highest).mean())
