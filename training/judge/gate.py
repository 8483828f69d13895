"""The gate: (candidate, champion, policy) → Decision, in three pure steps: compare, reach a verdict, explain.

Knows neither the registry, nor a model, nor Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from baton.config.model_settings import GateSettings
from baton.errors import Conflict
from baton.store.records import Decision, DecisionKind, Evaluation, Verdict
from baton.tasks import AnyTask
from training.judge.statistics import bootstrap, interval


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How far a candidate is ahead of the champion on the same holdout."""

    champion: int
    """The champion's version number."""
    champion_f1: float
    champion_f1_interval: tuple[float, float]
    """Central bootstrap interval of the champion's F1 that holds ``gate.confidence``."""
    gain: float
    """The candidate's F1 minus the champion's."""
    lower_bound: float
    """One-sided lower confidence bound of ``gain``, at ``gate.confidence``."""
    confidence: float
    """Share of the resamples in which the candidate is better."""

    @property
    def detectable(self) -> float:
        """About the smallest gain that this holdout could show with ``gate.confidence``."""
        return self.gain - self.lower_bound


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The numbers behind a verdict."""

    candidate: int
    """The candidate's version number."""
    f1: float
    f1_interval: tuple[float, float]
    """Central bootstrap interval of the candidate's F1 that holds ``gate.confidence``."""
    against: Gain | None
    """The comparison with the champion; None for a model's first version."""
    examples: int
    """Number of holdout rows."""
    holdout_hash: str

    def numbers(self) -> dict[str, Any]:
        """Return the numbers as a stored Decision has them (`Decision.numbers`)."""
        numbers: dict[str, Any] = {"f1": self.f1, "f1_interval": self.f1_interval}
        if self.against is not None:
            numbers |= {
                "champion_f1": self.against.champion_f1,
                "champion_f1_interval": self.against.champion_f1_interval,
                "gain": self.against.gain,
                "gain_lower_bound": self.against.lower_bound,
                "confidence": self.against.confidence,
                "detectable_gain": self.against.detectable,
            }
        return {**numbers, "examples": self.examples, "holdout_hash": self.holdout_hash}


def decide(task: AnyTask, candidate: Evaluation, champion: Evaluation | None, policy: GateSettings) -> Decision:
    """Decide whether ``candidate`` may replace ``champion`` (None: the candidate is the model's first version).

    Raises:
        Conflict: the two were evaluated on different holdouts.
    """
    comparison = compare(task, candidate, champion, policy)
    verdict = reach_verdict(comparison, policy)
    return Decision(
        model=candidate.model,
        candidate=candidate.version,
        champion=None if champion is None else champion.version,
        kind=DecisionKind.GATE,
        verdict=verdict,
        sentence=explain(comparison, verdict, policy),
        policy=policy.model_dump(mode="json"),
        numbers=comparison.numbers(),
    )


def compare(task: AnyTask, candidate: Evaluation, champion: Evaluation | None, policy: GateSettings) -> Comparison:
    """Compute all numbers that the verdict depends on, by a paired bootstrap over the holdout rows.

    Of ``policy``, only ``confidence`` is used. The same evaluations always give the same numbers.

    Raises:
        Conflict: the two were evaluated on different holdouts.
    """
    if champion is not None and candidate.holdout_hash != champion.holdout_hash:
        raise Conflict(
            f"candidate v{candidate.version} and champion v{champion.version} were evaluated on different holdouts "
            f"({candidate.holdout_hash[:12]} and {champion.holdout_hash[:12]}); evaluate both on the same holdout"
        )
    evaluations = [candidate] if champion is None else [candidate, champion]
    examples = len(candidate.statistics)
    scores = bootstrap(
        [partial(task.resample, evaluation.statistics) for evaluation in evaluations], examples, _seed(candidate)
    )
    f1 = _f1(task, candidate)
    against = None
    if champion is not None:
        champion_f1 = _f1(task, champion)
        gains = scores[:, 0] - scores[:, 1]
        against = Gain(
            champion=champion.version,
            champion_f1=champion_f1,
            champion_f1_interval=interval(scores[:, 1], policy.confidence),
            gain=f1 - champion_f1,
            lower_bound=float(np.quantile(gains, 1 - policy.confidence)),
            confidence=float(np.mean(gains > 0)),
        )
    return Comparison(
        candidate=candidate.version,
        f1=f1,
        f1_interval=interval(scores[:, 0], policy.confidence),
        against=against,
        examples=examples,
        holdout_hash=candidate.holdout_hash,
    )


def reach_verdict(comparison: Comparison, policy: GateSettings) -> Verdict:
    """Return the verdict of ``policy`` on a comparison.

    A first version must reach ``min_f1``. A challenger must be strictly better, by at least ``min_gain``. It is promoted if the
    share of resamples in which it is better reaches ``confidence``; otherwise the verdict is inconclusive.
    """
    against = comparison.against
    if against is None:
        return Verdict.PROMOTE if comparison.f1 >= policy.min_f1 else Verdict.REJECT
    if against.gain <= 0 or against.gain < policy.min_gain:
        return Verdict.REJECT
    return Verdict.PROMOTE if against.confidence >= policy.confidence else Verdict.INCONCLUSIVE


def explain(comparison: Comparison, verdict: Verdict, policy: GateSettings) -> str:
    """Return one sentence for users: the verdict, the numbers that it depends on, and what is required."""
    against = comparison.against
    if against is None:
        return _explain_first(comparison, verdict, policy)
    subject = (
        f"v{comparison.candidate} (F1 {comparison.f1:.4f}) against champion v{against.champion} "
        f"(F1 {against.champion_f1:.4f}) on the same {comparison.examples:,} holdout rows: gain {against.gain:+.4f}"
    )
    if verdict is Verdict.PROMOTE:
        return f"Promote: {subject} with {against.confidence:.1%} confidence ({policy.confidence:.0%} required)."
    if verdict is Verdict.REJECT:
        required = f"at least {policy.min_gain:+.4f} is required" if policy.min_gain > 0 else "a strict gain is required"
        return f"Refused: {subject}, {required}. v{against.champion} stays."
    return (
        f"Inconclusive: {subject}, but only {against.confidence:.1%} confidence that it is real "
        f"({policy.confidence:.0%} required; this holdout can show gains from about {against.detectable:.4f}). "
        f"v{against.champion} stays."
    )


def _explain_first(comparison: Comparison, verdict: Verdict, policy: GateSettings) -> str:
    subject = (
        f"v{comparison.candidate}, the first version, reaches F1 {comparison.f1:.4f} on {comparison.examples:,} holdout rows"
    )
    if verdict is Verdict.PROMOTE:
        return f"Promote: {subject} ({policy.min_f1:.4f} required)."
    return f"Refused: {subject}, but {policy.min_f1:.4f} is required (gate.min_f1)."


def _f1(task: AnyTask, evaluation: Evaluation) -> float:
    return float(evaluation.metrics[task.metric])


def _seed(evaluation: Evaluation) -> int:
    """Return a seed that depends on the holdout alone, so that the same comparison always gives the same numbers."""
    return int(evaluation.holdout_hash[:12], 16)
