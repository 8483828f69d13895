"""Two evaluations on one holdout → the gate's outcome, and the Decision to store: a sentence and the numbers behind it.

Knows tasks and evaluations; knows neither the registry nor the storage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from baton.config.model_settings import GateSettings
from baton.errors import Conflict
from baton.quality.matches import left_after
from baton.store.records import Champion, Decision, DecisionKind, Evaluation
from baton.tasks import AnyTask
from baton.tasks.f1 import MacroF1, Metric
from training.judge import gate
from training.judge.comparison import by_group, quantile, standard_error
from training.judge.gate import Cost, FirstOutcome, Match, Outcome
from training.judge.guards import Single
from training.judge.holdout import Holdout
from training.judge.pairs import Pair, pair_of
from training.judge.sentences import about_labels, explain, explain_first, listed

LISTED = 10
"""Number of labels and of slices that a decision lists, those with the largest losses first. The report has all."""

TOLD_LOSS = 0.1
"""Share of the holdout's texts above which the sentence tells that they are missing now."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """A version with its evaluation on the holdout."""

    evaluation: Evaluation
    labels: Collection[str]
    """Labels that it can answer, in the form of `Task.labels_in`."""

    @property
    def cost(self) -> Cost | None:
        """What it costs to serve it; None if it was evaluated before this was measured."""
        metrics = self.evaluation.metrics
        if "latency_ms" not in metrics:
            return None
        return Cost(megabytes=metrics["megabytes"], latency_ms=metrics["latency_ms"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A decision with what it rests on."""

    decision: Decision
    outcome: Outcome | FirstOutcome
    metrics: Sequence[Metric]
    """Of the candidate and, if there is one, of the champion."""
    pair: Pair | None
    """Both together; None without a champion."""


def decide_match(
    task: AnyTask,
    holdout: Holdout,
    candidate: Contender,
    champion: Contender | None,
    *,
    pointer: Champion,
    number: int,
    policy: GateSettings,
    corrections: Sequence[Evaluation] = (),
    lost: float = 0.0,
) -> Judged:
    """Return the gate's decision on ``candidate``.

    Args:
        champion: None if there is no champion, or none that can be compared with: it has another task. The candidate is then
            judged as a first version.
        pointer: the champion pointer that the decision is about.
        number: 1 plus the number of matches that were played against this champion on this holdout before.
        corrections: evaluations of the candidate and the champion on held-out corrections. They are reported and decide
            nothing: the champion is wrong on such rows because that is why they were corrected.
        lost: share of the texts that judged in the data set before and do not any more. The sentence tells if it is large.

    Raises:
        Conflict: a version was evaluated on another holdout.
    """
    contenders = [candidate] if champion is None else [candidate, champion]
    for contender in contenders:
        evaluation = contender.evaluation
        if (evaluation.holdout_hash, len(evaluation.statistics)) != (holdout.hash, holdout.rows):
            raise Conflict(
                f"v{evaluation.version} was evaluated on the holdout {evaluation.holdout_hash[:12]}, not on "
                f"{holdout.hash[:12]}; evaluate it on the same holdout"
            )
    metrics = [task.measure(contender.evaluation.metrics, contender.evaluation.statistics) for contender in contenders]
    version = candidate.evaluation.version
    facts: dict[str, Any] = {
        "examples": holdout.rows,
        "unit": holdout.unit,
        "holdout_hash": holdout.hash,
        "unjudged_labels": _unjudged(metrics[0]),
        "unanswerable_labels": _unanswerable(holdout, candidate),
        "lost": lost,
    }
    pair = None if champion is None else pair_of(*metrics)
    outcome: Outcome | FirstOutcome
    if champion is None or pair is None:
        outcome = gate.decide_first(metrics[0], holdout.groups, number, policy, cost=candidate.cost)
        sentence = explain_first(outcome, version, pointer.version, policy, unit=holdout.unit)
        sentence += _about_unanswerable(facts["unanswerable_labels"], holdout)
        numbers = _first_numbers(outcome, policy)
    else:
        match = Match(
            pair=pair,
            groups=holdout.groups,
            number=number,
            seed=_seed(holdout.hash, pointer, version),
            parts=holdout.parts,
            known=holdout.known_to(champion.labels) if set(candidate.labels) - set(champion.labels) else None,
            slices=holdout.slices,
            cost=candidate.cost,
        )
        outcome = gate.decide(match, policy)
        sentence = explain(outcome, version, champion.evaluation.version, policy, unit=holdout.unit)
        sentence += about_labels(candidate.labels, champion.labels)
        numbers = _numbers(outcome, metrics, holdout, policy)
    if corrections:
        scores = [task.measure(one.metrics, one.statistics).value() for one in corrections]
        facts["corrections"] = {"rows": len(corrections[0].statistics), "f1": scores[0], "champion_f1": (*scores, None)[1]}
        sentence += _about_corrections(facts["corrections"], [one.version for one in corrections])
    if facts["unjudged_labels"]:
        sentence += f" No holdout row has {listed(facts['unjudged_labels'])}: nothing is known about such answers."
    if lost > TOLD_LOSS:
        sentence += f" The holdout has lost {lost:.0%} of its texts since the data set before."
    decision = Decision(
        model=candidate.evaluation.model,
        candidate=version,
        champion=pointer.version,
        champion_sequence=pointer.sequence,
        kind=DecisionKind.GATE,
        verdict=outcome.verdict,
        sentence=sentence,
        policy=policy.model_dump(mode="json"),
        numbers={**numbers, **facts, "compared": champion is not None},
    )
    return Judged(decision=decision, outcome=outcome, metrics=metrics, pair=pair)


def _numbers(outcome: Outcome, metrics: list[Metric], holdout: Holdout, policy: GateSettings) -> dict[str, Any]:
    comparison = outcome.comparison
    return {
        "reason": outcome.reason,
        "f1": comparison.candidate_f1,
        "f1_interval": _interval(metrics[0], holdout, policy),
        "champion_f1": comparison.champion_f1,
        "champion_f1_interval": _interval(metrics[1], holdout, policy),
        "gain": comparison.gain,
        "gain_lower_bound": outcome.lower_bound,
        "standard_error": comparison.standard_error,
        "p": comparison.p,
        "p_swap": comparison.p_swap,
        "p_normal": comparison.p_normal,
        "groups": comparison.groups,
        "differing": comparison.differing,
        "detectable_gain": outcome.detectable,
        "needed_groups": gate.needed(outcome, policy),
        "parts": [
            {
                "name": part.name,
                "f1": part.candidate_f1,
                "champion_f1": part.champion_f1,
                "gain": part.gain,
                "standard_error": part.standard_error,
                "groups": part.groups,
                "guard": part.guard,
            }
            for part in outcome.parts
        ],
        "labels": _worst("label", outcome.labels),
        "slices": _worst("slice", outcome.slices),
        "optimism": outcome.optimism,
        **_match_numbers(outcome, policy),
    }


def _first_numbers(outcome: FirstOutcome, policy: GateSettings) -> dict[str, Any]:
    interval = gate.wilson_interval(outcome.f1, outcome.standard_error, outcome.groups, _z(policy))
    return {
        "reason": outcome.reason,
        "f1": outcome.f1,
        "f1_interval": interval,
        "f1_lower_bound": outcome.lower_bound,
        "groups": outcome.groups,
        **_match_numbers(outcome, policy),
    }


def _match_numbers(outcome: Outcome | FirstOutcome, policy: GateSettings) -> Mapping[str, Any]:
    return {
        "match": outcome.number,
        "allowed": outcome.allowed,
        "left": left_after(policy.confidence, outcome.number),
        "cost": None if outcome.cost is None else asdict(outcome.cost),
    }


def _worst(what: str, changes: Sequence[Single]) -> list[dict[str, Any]]:
    worst = sorted(changes, key=lambda change: change.gain)[:LISTED]
    return [
        {what: change.name, "f1": change.candidate_f1, "champion_f1": change.champion_f1, "lost": change.lost}
        for change in worst
    ]


def _about_corrections(facts: Mapping[str, Any], versions: Sequence[int]) -> str:
    scores = [facts["f1"], facts["champion_f1"]][: len(versions)]
    told = ", ".join(f"v{version} has F1 {score:.3f}" for version, score in zip(versions, scores, strict=True))
    return f" On {facts['rows']:,} held-out corrections, which do not decide, {told}."


def _interval(metric: Metric, holdout: Holdout, policy: GateSettings) -> tuple[float, float]:
    """Return the central interval of a version's F1 that holds ``gate.confidence``."""
    influence = by_group(metric.influence(), holdout.groups)
    return gate.wilson_interval(metric.value(), standard_error(influence), len(influence), _z(policy))


def _z(policy: GateSettings) -> float:
    return quantile((1 + policy.confidence) / 2)


def _seed(holdout_hash: str, pointer: Champion, candidate: int) -> int:
    """Return the seed of a match, so that the same match always ends the same way and two matches draw differently."""
    return int.from_bytes(hashlib.sha256(f"{holdout_hash} {pointer.version} {candidate}".encode()).digest()[:8], "big")


def _unanswerable(holdout: Holdout, candidate: Contender) -> list[str]:
    """Return the labels of holdout rows that a version does not have: it was trained elsewhere, or before them."""
    return sorted({label for labels in holdout.labels for label in labels}.difference(candidate.labels))


def _about_unanswerable(labels: Sequence[str], holdout: Holdout) -> str:
    """Return a sentence on the labels that a first version cannot answer; empty if there are none."""
    if not labels:
        return ""
    rows = sum(not set(labels).isdisjoint(of_row) for of_row in holdout.labels)
    return f" It cannot answer {listed(labels)}, which {rows:,} holdout rows have."


def _unjudged(metric: Metric) -> list[str]:
    """Return the labels of a version that are not the truth of any row."""
    if not isinstance(metric, MacroF1):
        return []
    return [label for label, judged in zip(metric.labels, metric.judged, strict=True) if not judged]
