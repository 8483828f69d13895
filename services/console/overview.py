"""The first page: what serves, how well, what is going on, and what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.config.model_settings import ModelSettings
from baton.keys import Scope
from baton.store.records import Decision, HistoryEntry, Run
from services.console.charts import Chart, Point, line_chart
from services.console.gate import HOME, ROOT
from services.console.language import Translate, translator
from services.console.pages import Pages, see, visit_of
from services.control.audit import progress
from services.control.live_cache import LiveQualityCache

VERSIONS_DRAWN = 20
"""Number of newest versions in the chart of a model."""

FIRST_PAGES = ((Scope.OPERATE, "versions"), (Scope.PREDICT, "playground"), (Scope.LABEL, "review"))
"""The page of a model that a key with a scope sees first."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the first page shows of one model."""

    settings: ModelSettings
    model: Mapping[str, Any]
    """As `ControlPlane.describe` returns it."""
    chart: Chart | None
    run: Run | None
    waiting_feedback: int
    retraining: str
    """Why a trigger would or would not start a run now."""
    audit_waiting: int
    decisions: Sequence[Decision]
    """Those that wait to be carried out."""
    newest: HistoryEntry | None


def overview_routes(pages: Pages) -> list[Route]:
    """Return the routes of the first page, and of a model's path, which leads to what the visitor may see of it."""

    async def overview(request: Request) -> Response:
        visit = visit_of(request)
        models = pages.visible(visit)
        if not visit.may(Scope.OPERATE):
            return see(f"{ROOT}/models/{models[0].name}") if models else pages.render(request, "overview.html", cards=[])
        translate = translator(visit.language)
        cards = await asyncio.gather(*(_card(pages, settings, translate) for settings in models))
        return pages.render(request, "overview.html", cards=cards)

    async def model(request: Request) -> Response:
        settings, visit = pages.settings(request), visit_of(request)
        first = next((page for scope, page in FIRST_PAGES if visit.may(scope, settings.name)), None)
        if first is None:
            return pages.render(request, "error.html", 403, title="forbidden", problem="this key sees no page of this model")
        return see(f"{ROOT}/models/{settings.name}/{first}")

    return [
        Route(HOME, overview, methods=["GET"]),
        Route(f"{ROOT}/models/{{model}}", model, methods=["GET"]),
    ]


async def _card(pages: Pages, settings: ModelSettings, translate: Translate) -> Card:
    described = await pages.control.describe(settings)
    return await asyncio.to_thread(_read, pages, settings, described, translate)


def _read(pages: Pages, settings: ModelSettings, described: Mapping[str, Any], translate: Translate) -> Card:
    registry, name = pages.control.registry, settings.name
    situation, choice = pages.control.retrainer.assess(settings)
    batches = progress(registry, settings)["batches"]
    return Card(
        settings=settings,
        model=described,
        chart=version_chart(pages, settings, translate),
        run=registry.runs.get(described["active_run"]) if described["active_run"] else None,
        waiting_feedback=situation.new_examples,
        retraining=choice.text,
        audit_waiting=sum(it["texts"] - it["labelled"] - it["undecidable"] - it["deleted"] for it in batches),
        decisions=[decision for decision in registry.pending_decisions() if decision.model == name],
        newest=next(iter(registry.history.list(name, limit=1)), None),
    )


def version_chart(pages: Pages, settings: ModelSettings, translate: Translate, *, width: int = 360) -> Chart | None:
    """Return held-out and live F1 over the newest versions, with those marked that became champion."""
    registry, name = pages.control.registry, settings.name
    versions = [it for it in registry.versions.list(name, limit=VERSIONS_DRAWN) if it.metrics.get("f1") is not None]
    moves, live = registry.moves(name), _live(pages.control.live, settings)
    held_out = [
        Point(
            x=version.number,
            y=version.metrics["f1"],
            mark=version.number in moves,
            title=f"v{version.number}: F1 {version.metrics['f1']:.3f}"
            + (f", {translate('promoted')}" if version.number in moves else ""),
        )
        for version in reversed(versions)
    ]
    numbers = {version.number for version in versions}
    corrected = [
        Point(x=number, y=f1, title=f"v{number}: {translate('live F1')} {f1:.3f}") for number, f1 in live if number in numbers
    ]
    series = [(translate("held-out F1"), "held-out", held_out), (translate("live F1"), "live", corrected)]
    return line_chart(series, x_prefix="v", width=width)


def _live(cache: LiveQualityCache, settings: ModelSettings) -> list[tuple[int, float]]:
    return sorted((live.version, live.f1) for live in cache.newest(settings))
