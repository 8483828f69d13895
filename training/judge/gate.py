"""The gate: (candidate, champion, policy) → Decision. Pure; knows no registry, no model, no Ray."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from baton.config.model_settings import GateSettings
from baton.errors import Conflict
from baton.store.records import Decision, DecisionKind, Evaluation, Verdict
from baton.tasks.base import Task
from training.judge.statistics import bootstrap, interval


def decide(
    task: Task[Any, Any, Any, Any], candidate: Evaluation, champion: Evaluation | None, policy: GateSettings
) -> Decision:
    """Whether ``candidate`` may take over from ``champion`` (None: the model's first version).

    A first version must reach ``min_f1``. A challenger must gain strictly, by at least ``min_gain``, and the paired
    bootstrap must give the gain a one-sided ``confidence`` of being above zero.

    Raises:
        Conflict: the two were not scored on the same holdout.
    """
    if champion is None:
        return _first(task, candidate, policy)
    if candidate.holdout_hash != champion.holdout_hash:
        raise Conflict("candidate and champion were scored on different holdouts; evaluate both on one")
    new, old = _f1(task, candidate), _f1(task, champion)
    gain = new - old
    count = len(candidate.statistics)
    draws = bootstrap(
        [partial(task.resample, candidate.statistics), partial(task.resample, champion.statistics)], count, _seed(candidate)
    )
    gains = draws[:, 0] - draws[:, 1]
    chance = float(np.mean(gains > 0))
    lower = float(np.quantile(gains, 1 - policy.confidence))
    detectable = gain - lower
    numbers = {
        "f1": new,
        "f1_interval": interval(draws[:, 0], policy.confidence),
        "champion_f1": old,
        "champion_f1_interval": interval(draws[:, 1], policy.confidence),
        "gain": gain,
        "gain_lower_bound": lower,
        "confidence": chance,
        "detectable_gain": detectable,
        "examples": count,
        "holdout_hash": candidate.holdout_hash,
    }
    who = (
        f"v{candidate.version} (F1 {new:.4f}) against champion v{champion.version} (F1 {old:.4f}) "
        f"on the same {count:,} holdout rows"
    )
    wanted = f"at least {policy.min_gain:+.4f} is required" if policy.min_gain > 0 else "a strict gain is required"
    if gain <= 0 or gain < policy.min_gain:
        verdict = Verdict.REJECT
        sentence = f"Refused: {who}: gain {gain:+.4f}, {wanted}. v{champion.version} stays."
    elif chance < policy.confidence:
        verdict = Verdict.INCONCLUSIVE
        sentence = (
            f"Inconclusive: {who}: gain {gain:+.4f}, but only {chance:.1%} confidence that it is real "
            f"({policy.confidence:.0%} required; this holdout can show gains from about {detectable:.4f}). "
            f"v{champion.version} stays."
        )
    else:
        verdict = Verdict.PROMOTE
        sentence = f"Promote: {who}: gain {gain:+.4f} with {chance:.1%} confidence ({policy.confidence:.0%} required)."
    return _decision(candidate, champion.version, policy, verdict=verdict, sentence=sentence, numbers=numbers)


def _first(task: Task[Any, Any, Any, Any], candidate: Evaluation, policy: GateSettings) -> Decision:
    f1 = _f1(task, candidate)
    count = len(candidate.statistics)
    draws = bootstrap([partial(task.resample, candidate.statistics)], count, _seed(candidate))
    numbers = {
        "f1": f1,
        "f1_interval": interval(draws[:, 0], policy.confidence),
        "examples": count,
        "holdout_hash": candidate.holdout_hash,
    }
    who = f"v{candidate.version}, the first version, reaches F1 {f1:.4f} on {count:,} holdout rows"
    if f1 >= policy.min_f1:
        sentence = f"Promote: {who} ({policy.min_f1:.4f} required)."
        return _decision(candidate, None, policy, verdict=Verdict.PROMOTE, sentence=sentence, numbers=numbers)
    sentence = f"Refused: {who}, but {policy.min_f1:.4f} is required (gate.min_f1)."
    return _decision(candidate, None, policy, verdict=Verdict.REJECT, sentence=sentence, numbers=numbers)


def _f1(task: Task[Any, Any, Any, Any], evaluation: Evaluation) -> float:
    return float(evaluation.metrics[task.metric])


def _seed(evaluation: Evaluation) -> int:
    """From the holdout, so that the same match always ends the same way."""
    return int(evaluation.holdout_hash[:12], 16)


def _decision(
    candidate: Evaluation,
    champion: int | None,
    policy: GateSettings,
    *,
    verdict: Verdict,
    sentence: str,
    numbers: dict[str, Any],
) -> Decision:
    return Decision(
        model=candidate.model,
        candidate=candidate.version,
        champion=champion,
        kind=DecisionKind.GATE,
        verdict=verdict,
        sentence=sentence,
        policy=policy.model_dump(mode="json"),
        numbers=numbers,
    )
