"""The conditions of the gate, each with what was required, what was measured, and whether it held.

Decides nothing: the decision has the numbers, and docs/gate.md the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.report.numbers import decimals, signed
from services.report.words import Words

Json = Mapping[str, Any]


class State(StrEnum):
    """Whether a condition held."""

    PASSED = "passed"
    FAILED = "failed"
    UNJUDGED = "unjudged"

    @classmethod
    def of(cls, holds: bool) -> State:
        """Return the state of a condition that was judged."""
        return cls.PASSED if holds else cls.FAILED

    @property
    def sign(self) -> str:
        """A sign that can be told apart without colours."""
        return {State.PASSED: "✓", State.FAILED: "✗", State.UNJUDGED: "–"}[self]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition."""

    state: State
    name: str
    required: str
    measured: str


def conditions_of(decision: Json, report: Json, words: Words) -> list[Condition]:
    """Return all conditions of the gate, in the order in which it checks them."""
    numbers, policy = decision["numbers"], decision["policy"]
    found = [*_costs(numbers, policy, words), _size(numbers, policy, words)]
    if not numbers["compared"]:
        return [*found, *_of_a_first_version(numbers, policy, words)]
    few = numbers["groups"] < policy["min_rows"]
    compared = [*_gain(numbers, policy, words), *_guards(numbers, policy, report, words), *_chance(numbers, words)]
    return [*found, *(_unjudged(one, words("why.few")) if few else one for one in compared)]


def counted(count: int, unit: str, words: Words) -> str:
    """Return a number of texts or groups, such as ``n = 300``."""
    return words(f"count.{unit}", count=f"{count:,}")


def _unjudged(condition: Condition, why: str) -> Condition:
    return Condition(state=State.UNJUDGED, name=condition.name, required=condition.required, measured=why)


def _costs(numbers: Json, policy: Json, words: Words) -> Iterator[Condition]:
    cost = numbers.get("cost")
    for name, key, limit, unit in (
        ("condition.size", "megabytes", "max_megabytes", "mb"),
        ("condition.latency", "latency_ms", "max_latency_ms", "ms"),
    ):
        most = policy.get(limit)
        if most is None or cost is None:
            why = words("why.no_limit" if most is None else "why.unmeasured")
            required = "–" if most is None else words(f"at_most.{unit}", value=f"{most:g}")
            yield Condition(state=State.UNJUDGED, name=words(name), required=required, measured=why)
            continue
        yield Condition(
            state=State.of(cost[key] <= most),
            name=words(name),
            required=words(f"at_most.{unit}", value=f"{most:g}"),
            measured=words(unit, value=f"{cost[key]:,.1f}"),
        )


def _size(numbers: Json, policy: Json, words: Words) -> Condition:
    return Condition(
        state=State.of(numbers["groups"] >= policy["min_rows"]),
        name=words("condition.rows"),
        required=words(f"at_least.{numbers['unit']}", value=policy["min_rows"]),
        measured=counted(numbers["groups"], numbers["unit"], words),
    )


def _of_a_first_version(numbers: Json, policy: Json, words: Words) -> Iterator[Condition]:
    few = numbers["groups"] < policy["min_rows"]
    required = words("at_least", value=f"{policy['min_f1']:g}")
    for name, key in (("condition.f1", "f1"), ("condition.bound", "f1_lower_bound")):
        one = Condition(
            state=State.of(numbers[key] >= policy["min_f1"]),
            name=words(name),
            required=required,
            measured=decimals(numbers[key]),
        )
        yield _unjudged(one, words("why.few")) if few else one
    yield Condition(state=State.UNJUDGED, name=words("condition.gain"), required="–", measured=words("why.no_champion"))


def _gain(numbers: Json, policy: Json, words: Words) -> Iterator[Condition]:
    least, gain = policy["min_gain"], numbers["gain"]
    yield Condition(
        state=State.of(gain > 0 and gain >= least),
        name=words("condition.gain"),
        required=words("at_least", value=signed(least)) if least > 0 else words("more_than"),
        measured=signed(gain),
    )


def _guards(numbers: Json, policy: Json, report: Json, words: Words) -> Iterator[Condition]:
    """Yield what may not be paid for a gain: labels, slices and parts of the holdout."""
    slices = [row for row in report["rows"] if "lost" in row]
    judged_labels = [label for label in report["labels"] if label.get("gain") is not None]
    for kind, changes, why in (("label", judged_labels, "why.no_labels"), ("slice", slices, "why.no_slices")):
        worst = [{**one, "name": one[kind], "gain": one["f1"] - one["champion_f1"]} for one in numbers[f"{kind}s"]]
        yield _singles(kind, changes or worst, words(why), policy, words)
    for part in numbers["parts"]:
        gain = signed(part["gain"])
        if part["guard"] == "small":
            measured = words("why.small", gain=gain, groups=counted(part["groups"], numbers["unit"], words))
            state = State.UNJUDGED
        else:
            measured, state = words(f"guard.{part['guard']}", gain=gain), State.of(part["guard"] == "held")
        yield Condition(
            state=state,
            name=words("condition.part", name=words.name("part", part["name"])),
            required=words("loss", value=f"{policy['max_drop']:g}"),
            measured=measured,
        )


def _singles(kind: str, changes: Sequence[Json], why: str, policy: Json, words: Words) -> Condition:
    name, required = words(f"condition.{kind}"), words("loss", value=f"{policy['max_class_drop']:g}")
    if not changes:
        return Condition(state=State.UNJUDGED, name=name, required=required, measured=why)
    lost = [change["name"] for change in changes if change.get("lost", False)]  # reports of before 0.2 do not say
    worst = min(changes, key=_by_gain)
    if lost:
        measured = words("measured.lost", names=listed(lost, words))
    elif worst["gain"] < 0:
        measured = words("measured.worst", gain=signed(worst["gain"]), name=worst["name"])
    else:
        measured = words("measured.none")
    return Condition(state=State.of(not lost), name=name, required=required, measured=measured)


def _by_gain(change: Json) -> float:
    return float(change["gain"])


def _chance(numbers: Json, words: Words) -> Iterator[Condition]:
    p, allowed = numbers["p"], numbers["allowed"]
    if p < 1e-6:
        measured = words("chance.small")
    elif p > allowed and numbers["gain"] > 0 and numbers.get("needed_groups"):
        measured = words("chance.needed", value=f"{p:.3g}", groups=counted(numbers["needed_groups"], numbers["unit"], words))
    else:
        measured = words("chance.p", value=f"{p:.3g}")
    yield Condition(
        state=State.of(p <= allowed),
        name=words("condition.chance"),
        required=words("chance.allowed", value=f"{allowed:.3g}"),
        measured=measured,
    )


def listed(names: Sequence[str], words: Words, most: int = 5) -> str:
    """Return the first names, and the number of the others."""
    more = [words("judges.more", count=len(names) - most)] if len(names) > most else []
    return ", ".join([*map(str, names[:most]), *more])
