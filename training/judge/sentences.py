"""The gate's outcomes in words: one sentence with the verdict, the numbers that it rests on, and what is required.

No sentence says «sure» or «100%»: a p-value from random exchanges is a bound.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from baton.config.model_settings import GateSettings
from baton.store.records import Verdict
from training.judge.comparison import least_differing
from training.judge.gate import FirstOutcome, Outcome, Reason, needed
from training.judge.guards import Guard

VERDICTS = {Verdict.PROMOTE: "Promote", Verdict.REJECT: "Refused", Verdict.INCONCLUSIVE: "Inconclusive"}
"""First words of the sentences."""


def explain(outcome: Outcome, candidate: int, champion: int, policy: GateSettings, *, unit: str = "text") -> str:
    """Return the sentence on a match between version ``candidate`` and version ``champion``.

    ``unit``: what a group is called: a ``group`` if some have several texts.
    """
    comparison = outcome.comparison
    if outcome.reason is Reason.FEW_ROWS:
        return f"Inconclusive: {_too_few(comparison.groups, policy, unit)} v{champion} stays."
    subject = (
        f"v{candidate} (F1 {comparison.candidate_f1:.3f}) against v{champion} (F1 {comparison.champion_f1:.3f}) on "
        f"{_counted(comparison.groups, unit)}, {comparison.differing:,} of them answered differently: "
        f"gain {comparison.gain:+.3f}"
    )
    stays = "" if outcome.verdict is Verdict.PROMOTE else f" v{champion} stays."
    return f"{VERDICTS[outcome.verdict]}: {subject}{_why(outcome, policy, unit)}{stays}"


def explain_first(
    outcome: FirstOutcome, candidate: int, champion: int | None, policy: GateSettings, *, unit: str = "text"
) -> str:
    """Return the sentence on a version that has no champion to beat.

    ``champion``: the champion, if there is one that answers another task, so that the two cannot be compared.
    """
    if outcome.reason is Reason.FEW_ROWS:
        return f"Inconclusive: {_too_few(outcome.groups, policy, unit)}"
    what = "the first version" if champion is None else f"the first version of its task (v{champion} has another one)"
    subject = f"v{candidate}, {what}, F1 {outcome.f1:.3f} on {_counted(outcome.groups, unit)}"
    if outcome.reason in (Reason.TOO_LARGE, Reason.TOO_SLOW):
        return f"Refused: {subject}, but {_over_budget(outcome, policy)}."
    if outcome.verdict is Verdict.PROMOTE:
        return f"Promote: {subject}, at least {outcome.lower_bound:.3f} ({policy.min_f1:g} required)."
    if outcome.verdict is Verdict.REJECT:
        return f"Refused: {subject}, and at least {policy.min_f1:g} is required (gate.min_f1)."
    return (
        f"Inconclusive: {subject}, but it may be as low as {outcome.lower_bound:.3f}, and at least {policy.min_f1:g} is "
        f"required (gate.min_f1). More holdout {unit}s would tell."
    )


def about_labels(candidate: Collection[str], champion: Collection[str]) -> str:
    """Return a sentence on the labels that only one of two versions can answer; empty if there are none.

    A renamed label is one of each.
    """
    new, gone = sorted(set(candidate) - set(champion)), sorted(set(champion) - set(candidate))
    told = ([f"adds {listed(new)}"] if new else []) + ([f"no longer knows {listed(gone)}"] if gone else [])
    return f" It {' and '.join(told)}." if told else ""


def listed(labels: Sequence[str]) -> str:
    """Return the first labels, and the number of the others."""
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"the label{'s' if len(labels) > 1 else ''} " + ", ".join(map(repr, labels[:5])) + more


def _why(outcome: Outcome, policy: GateSettings, unit: str) -> str:
    """Return what decided, as the end of the sentence after the gain."""
    match outcome.reason:
        case Reason.NO_GAIN:
            why = f", and {f'at least {policy.min_gain:+g}' if policy.min_gain > 0 else 'more than 0'} is required."
        case Reason.TOO_LARGE | Reason.TOO_SLOW:
            why = f", but {_over_budget(outcome, policy)}."
        case Reason.SLICE_LOST:
            lost = min((change for change in outcome.slices if change.lost), key=lambda change: change.gain)
            why = (
                f", but {lost.gain:+.3f} on the {_counted(lost.groups, unit)} of the slice {lost.name}, where a loss of "
                f"{policy.max_class_drop:g} is allowed."
            )
        case Reason.LABEL_LOST:
            worst = min((change for change in outcome.labels if change.lost), key=lambda change: change.gain)
            why = f", but {worst.gain:+.3f} on the label {worst.name!r}, where a loss of {policy.max_class_drop:g} is allowed."
        case Reason.PART_LOST:
            part = next(part for part in outcome.parts if part.guard is Guard.LOST)
            why = (
                f", but {part.gain:+.3f} on the {_counted(part.groups, unit)} of {part.name}, where a loss of "
                f"{policy.max_drop:g} is allowed."
            )
        case Reason.LOSS_POSSIBLE:
            part = next(part for part in outcome.parts if part.guard is Guard.UNKNOWN)
            why = (
                f", but a loss of more than {policy.max_drop:g} on the {_counted(part.groups, unit)} of {part.name} "
                f"({part.gain:+.3f}) cannot be excluded."
            )
        case Reason.NOT_SURE:
            why = f". {_what_is_missing(outcome, policy, unit)}"
        case _:
            why = f", at least {outcome.lower_bound:+.3f}. {_chance(outcome)}"
    return why


def _over_budget(outcome: Outcome | FirstOutcome, policy: GateSettings) -> str:
    assert outcome.cost is not None
    if outcome.reason is Reason.TOO_LARGE:
        return f"it has {outcome.cost.megabytes:,.1f} MB, and {policy.max_megabytes:g} are allowed (gate.max_megabytes)"
    return (
        f"one answer takes {outcome.cost.latency_ms:,.1f} ms, and {policy.max_latency_ms:g} are allowed (gate.max_latency_ms)"
    )


def _what_is_missing(outcome: Outcome, policy: GateSettings, unit: str) -> str:
    least = least_differing(outcome.allowed)
    if outcome.comparison.differing < least:
        return f"At least {least} {unit}s must differ in match {outcome.number}."
    return f"{_chance(outcome)} If the gain is real, about {needed(outcome, policy):,} {unit}s in all would show it."


def _chance(outcome: Outcome) -> str:
    return (
        f"Chance alone does this in {_odds(outcome.comparison.p)}; 1 of {1 / outcome.allowed:,.0f} is allowed "
        f"(match {outcome.number} on this holdout)."
    )


def _odds(p: float) -> str:
    if p > 0.2:
        return f"{p:.0%} of all matches"
    return f"1 of {1 / p:,.0f} matches" if p >= 1e-6 else "fewer than 1 of 1,000,000 matches"


def _too_few(groups: int, policy: GateSettings, unit: str) -> str:
    return f"a holdout needs {_counted(policy.min_rows, unit)} that differ (gate.min_rows); this one has {groups:,}."


def _counted(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"
