"""The versions of a model, and one version: what it scored, what the gate decided, and which of its conditions held."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.artifacts.storage import Storage
from baton.errors import NotFound, StorageError
from baton.store.records import LARGEST_INTEGER, PAGE, Decision, ModelVersion, Verdict
from services.console.gate import ROOT
from services.console.language import Words, translator
from services.console.overview import VERSIONS_DRAWN, version_chart
from services.console.pages import Pages, number_of, visit_of
from services.control.api.bodies import to_json_values
from services.report.page import fragments

Json = Mapping[str, Any]

CONDITIONS: Sequence[tuple[tuple[str, ...], Words]] = (
    (("too large", "too slow"), Words("It costs no more memory and time than the budget allows")),
    (("few rows",), Words("The holdout has enough rows")),
    (("no gain",), Words("Its F1 is higher than the champion's")),
    (("label lost",), Words("No label got clearly worse")),
    (("slice lost",), Words("No slice of the holdout got clearly worse")),
    (("part lost",), Words("No part of the holdout lost too much")),
    (("not sure",), Words("The gain is too large to be chance")),
    (("loss possible",), Words("A loss on a part of the holdout is excluded")),
)
"""Conditions against a champion, in the order in which the gate checks them, each with the reasons of a refusal by it."""

FIRST_CONDITIONS: Sequence[tuple[tuple[str, ...], Words]] = (
    *CONDITIONS[:2],
    (("too low",), Words("Its F1 reaches the minimum")),
    (("bound too low",), Words("Its F1 reaches the minimum with confidence")),
)
"""The same for a version without a champion to beat."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A condition of the gate, and whether it held."""

    text: Words
    state: str
    """``passed``, ``failed``, or ``unknown`` for those after the one that decided."""


def version_routes(pages: Pages) -> list[Route]:
    """Return the routes of versions."""
    registry = pages.control.registry
    storage = Storage(pages.control.config.storage)

    def list_versions(request: Request) -> Response:
        settings, visit = pages.settings(request), visit_of(request)
        name = settings.name
        before = request.query_params.get("before")
        found = registry.versions.list(name, limit=PAGE, before=number_of(before, "before") if before else None)
        decisions = {it.number: registry.newest_gate_decision(name, it.number) for it in found}
        live = {it.version: it for it in pages.control.live.newest(settings)}
        glance = registry.overview.read([name], VERSIONS_DRAWN)[name]
        return pages.render(
            request,
            "versions.html",
            model=settings,
            tab="versions",
            versions=found,
            champion=registry.champion(name).version,
            moves=registry.moves(name),
            rolled_back=registry.rolled_back(name),
            rejections=registry.history.rejections(name),
            decisions=decisions,
            live=live,
            chart=version_chart(
                glance.scores,
                glance.promoted,
                {number: it.f1 for number, it in live.items()},
                translator(visit.language),
                width=720,
            ),
            next=found[-1].number if len(found) == PAGE else None,
        )

    def get_version(request: Request) -> Response:
        settings, name = pages.settings(request), request.path_params["model"]
        number = request.path_params["number"]
        if not 1 <= number <= LARGEST_INTEGER:
            raise NotFound(f"{name} has no version {number}")
        version = registry.versions.get(name, number)
        decision = registry.newest_gate_decision(name, number)
        report = None if decision is None else _report(storage, decision)
        return pages.render(
            request,
            "version.html",
            model=settings,
            tab="versions",
            version=version,
            champion=registry.champion(name).version,
            decision=decision,
            checks=[] if decision is None else checks(decision),
            shown=None if report is None else fragments(report, language=visit_of(request).language),
            labels=_labels(version),
            rejection=registry.history.rejection(name, number),
            champions=registry.past_champions(name),
            previous=registry.previous_champion(name),
        )

    return [
        Route(f"{ROOT}/models/{{model}}/versions", list_versions, methods=["GET"]),
        Route(f"{ROOT}/models/{{model}}/versions/{{number:int}}", get_version, methods=["GET"]),
    ]


def checks(decision: Decision) -> list[Check]:
    """Return the conditions of the gate in the order in which it checks them.

    It decides at the first that does not hold, so that those before it have held, and nothing is said of those after it.
    """
    conditions = CONDITIONS if decision.numbers.get("compared") else FIRST_CONDITIONS
    reason = decision.numbers.get("reason")
    if decision.verdict is Verdict.PROMOTE:
        return [Check(text=text, state="passed") for _, text in conditions]
    failed = next((place for place, (reasons, _) in enumerate(conditions) if reason in reasons), None)
    if failed is None:  # a reason that another version of Baton gave
        return []
    states = ["passed"] * failed + ["failed"] + ["unknown"] * (len(conditions) - failed - 1)
    return [Check(text=text, state=state) for (_, text), state in zip(conditions, states, strict=True)]


def _report(storage: Storage, decision: Decision) -> Json | None:
    path = decision.numbers.get("report")
    try:
        content = None if path is None else storage.read_report(path)
    except StorageError:  # what the database knows is shown nevertheless
        return None
    return None if content is None else {"decision": to_json_values(decision), "report": json.loads(content)}


def _labels(version: ModelVersion) -> list[tuple[str, Json]]:
    """Return the scores of each label, the lowest F1 first."""
    return sorted(version.metrics.get("per_class", {}).items(), key=lambda pair: float(pair[1]["f1"]))
