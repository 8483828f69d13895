"""The versions of a model, and one version: what it scored, what the gate decided, and which of its conditions held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.artifacts.storage import Storage
from baton.errors import NotFound, StorageError
from baton.store.records import LARGEST_INTEGER, PAGE, Decision, ModelVersion
from services.console.gate import ROOT
from services.console.language import translator
from services.console.overview import VERSIONS_DRAWN, version_chart
from services.console.pages import Pages, number_of, visit_of
from services.control.api.bodies import to_json_values
from services.report.conditions import Condition, conditions_of
from services.report.page import fragments
from services.report.words import Language
from services.report.words import Words as ReportWords

Json = Mapping[str, Any]


def version_routes(pages: Pages) -> list[Route]:
    """Return the routes of versions."""
    registry = pages.control.registry
    storage = Storage(pages.control.config.storage)

    def list_versions(request: Request) -> Response:
        settings, visit = pages.settings(request), visit_of(request)
        name = settings.name
        before = request.query_params.get("before")
        found = registry.versions.list(name, limit=PAGE, before=number_of(before, "before") if before else None)
        decisions = registry.newest_gate_decisions(name, [it.number for it in found])
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
            conditions=[] if decision is None or report is not None else conditions(decision, visit_of(request).language),
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


def conditions(decision: Decision, language: Language) -> list[Condition]:
    """Return the conditions of the gate, as the report has them, for a decision whose report cannot be read.

    [] for a decision of another version of Baton, which has other numbers.
    """
    try:
        return conditions_of(to_json_values(decision), {"rows": [], "labels": []}, ReportWords(language))
    except KeyError:
        return []


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
