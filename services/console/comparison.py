"""Two versions side by side: what they scored, what they cost, what they were made of, and in what these differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.store.records import PAGE, Decision, ModelVersion
from baton.store.registry import Registry
from services.console.gate import ROOT
from services.console.language import Words
from services.console.pages import Pages, number_of

Json = Mapping[str, Any]
Interval = tuple[float, float]

OFFERED = 2 * PAGE
"""Number of newest versions that the two lists offer; the address names any."""

UNTOLD = (
    *("hash", "uri", "quarantined", "conflicts", "sources", "counts", "senders", "remarks", "labels", "classes", "created_at"),
    *("previous", "marks_hash", "corrections_hash"),
)
"""Facts about a data set that its own page shows."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two versions."""

    version: ModelVersion
    metrics: Json
    """On the holdout that both were evaluated on; without one, on its own."""
    interval: Interval | None
    """Of the F1, as the gate computed it on that holdout; None if it did not."""


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """F1 of one label in both versions; None for a version without the label."""

    name: str
    first: float | None
    second: float | None
    rows: int
    """Rows of the holdout with this label."""

    @property
    def gain(self) -> float | None:
        """How much better the second version is."""
        return None if self.first is None or self.second is None else self.second - self.first


def comparison_routes(pages: Pages) -> list[Route]:
    """Return the routes of comparisons."""
    registry = pages.control.registry

    def compare(request: Request) -> Response:
        settings = pages.settings(request)
        name = settings.name
        offered = [it.number for it in registry.versions.list(name, limit=OFFERED)]
        wanted = {key: number_of(text, key) for key in ("a", "b") if (text := request.query_params.get(key))}
        second = wanted.get("b", offered[0] if offered else None)
        first = wanted.get("a", _beside(registry, name, second, offered))
        found = None if first is None or second is None else sides(registry, name, (first, second))
        return pages.render(
            request,
            "compare.html",
            model=settings,
            tab="versions",
            offered=sorted({*offered, *wanted.values()}, reverse=True),
            chosen=(first, second),
            sides=found and found[0],
            same_holdout=bool(found and found[1]),
            labels=label_changes(*found[0]) if found else [],
            differences=list(differences(*found[0])) if found else [],
            champion=registry.champion(name).version,
            figures=FIGURES,
        )

    return [Route(f"{ROOT}/models/{{model}}/compare", compare, methods=["GET"])]


FIGURES: Sequence[tuple[Words, Sequence[str], str, bool]] = (
    (Words("Accuracy"), ("accuracy",), "{:.3f}", True),
    (Words("Calibration error (ECE)"), ("confidence", "ece"), "{:.3f}", False),
    (Words("Size, MB"), ("megabytes",), "{:,.1f}", False),
    (Words("One answer, ms"), ("latency_ms",), "{:,.1f}", False),
)
"""Numbers of the metrics: name, place, form, and whether more is better."""


def _beside(registry: Registry, model: str, second: int | None, offered: Sequence[int]) -> int | None:
    """Return what to compare a version with: the champion, or if it is the champion the version before it."""
    champion = registry.champion(model).version
    if champion is not None and champion != second:
        return champion
    return next((number for number in offered if second is not None and number < second), None)


def sides(registry: Registry, model: str, numbers: tuple[int, int]) -> tuple[tuple[Side, Side], bool]:
    """Return both versions with their scores, and whether these are on the same holdout. Raises ``NotFound``."""
    versions = [registry.versions.get(model, number) for number in numbers]
    pair = registry.evaluations.newest_pair(model, numbers)
    decisions = registry.newest_gate_decisions(model, numbers)

    def side(place: int) -> Side:
        version = versions[place]
        own = decisions.get(version.number)
        holdout = pair[place].holdout_hash if pair else (own.numbers.get("holdout_hash") if own else None)
        return Side(
            version=version,
            metrics={**version.metrics, **pair[place].metrics} if pair else version.metrics,
            interval=_interval(list(decisions.values()), version.number, holdout),
        )

    return (side(0), side(1)), pair is not None


def _interval(decisions: Sequence[Decision], version: int, holdout: str | None) -> Interval | None:
    """Return the interval of a version's F1 that one of the decisions has, as the candidate's or as the champion's."""
    for decision in decisions:
        key = {decision.candidate: "f1_interval", decision.champion: "champion_f1_interval"}.get(version)
        if key and decision.numbers.get("holdout_hash") == holdout and (found := decision.numbers.get(key)):
            low, high = found
            return float(low), float(high)
    return None


def label_changes(first: Side, second: Side) -> list[LabelChange]:
    """Return the F1 of each label in both versions, the largest loss first, and those that only one has at the end."""
    before, after = (side.metrics.get("per_class", {}) for side in (first, second))
    found = [
        LabelChange(
            name=name,
            first=before[name]["f1"] if name in before else None,
            second=after[name]["f1"] if name in after else None,
            rows=int((after.get(name) or before[name])["support"]),
        )
        for name in before | after
    ]
    return sorted(found, key=lambda change: (change.gain is None, change.gain or 0.0, change.name))


def differences(first: Side, second: Side) -> Iterator[tuple[str, str, str]]:
    """Yield in what the making of two versions differs: the name of a setting or a fact, and its value in each."""
    before, after = (_facts(side.version.lineage) for side in (first, second))
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield name, _told(before.get(name)), _told(after.get(name))


def _facts(lineage: Json) -> dict[str, Any]:
    """Return what is comparable of a lineage, with names such as those of the settings in ``baton.yaml``."""
    dataset = {name: value for name, value in lineage.get("dataset", {}).items() if name not in UNTOLD}
    top = {name: lineage.get(name) for name in ("base_model", "engine", "parent", "best_epoch", "code_version")}
    return {**top, **dict(_flat("training", lineage.get("training", {}))), **dict(_flat("dataset", dataset))}


def _flat(prefix: str, values: Json) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", value


def _told(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
