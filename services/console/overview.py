"""The first page: what serves, how well, what is going on, and what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.config.model_settings import ModelSettings
from baton.keys import Scope
from baton.quality.live import LiveQuality
from baton.store.overview import Glance
from baton.store.records import Decision, ReplicaState
from services.console.charts import Chart, Point, line_chart
from services.console.gate import HOME, ROOT
from services.console.language import Translate, translator
from services.console.pages import Pages, see, visit_of

VERSIONS_DRAWN = 20
"""Number of newest versions in the chart of a model."""

FIRST_PAGES = ((Scope.OPERATE, "versions"), (Scope.PREDICT, "playground"), (Scope.LABEL, "review"))
"""The page of a model that a key with a scope sees first."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the first page shows of one model."""

    settings: ModelSettings
    glance: Glance
    live: LiveQuality | None
    """Of the champion; at most some seconds old, as `retraining`."""
    replicas: Sequence[ReplicaState]
    chart: Chart | None
    retraining: str
    """Why a trigger would or would not start a run now."""
    decisions: Sequence[Decision]
    """Those that wait to be carried out."""


def overview_routes(pages: Pages) -> list[Route]:
    """Return the routes of the first page, and of a model's path, which leads to what the visitor may see of it."""

    async def overview(request: Request) -> Response:
        visit = visit_of(request)
        models = pages.visible(visit)
        if not visit.may(Scope.OPERATE):
            return see(f"{ROOT}/models/{models[0].name}") if models else pages.render(request, "overview.html", cards=[])
        translate = translator(visit.language)
        states = await asyncio.gather(*(pages.control.rollouts.states(settings.name) for settings in models))
        cards = await asyncio.to_thread(_cards, pages, models, states, translate)
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


def _cards(
    pages: Pages, models: Sequence[ModelSettings], states: Sequence[Sequence[ReplicaState]], translate: Translate
) -> list[Card]:
    control = pages.control
    glances = control.registry.overview.read([settings.name for settings in models], VERSIONS_DRAWN)
    pending = control.registry.pending_decisions()
    cards = []
    for settings, replicas in zip(models, states, strict=True):
        glance = glances[settings.name]
        situation, choice = control.retrainer.recent(settings)
        live = {it.version: it.f1 for it in control.live.recent(settings)}
        cards.append(
            Card(
                settings=settings,
                glance=glance,
                live=situation.live,
                replicas=replicas,
                chart=version_chart(glance.scores, glance.promoted, live, translate),
                retraining=choice.text,
                decisions=[decision for decision in pending if decision.model == settings.name],
            )
        )
    return cards


def version_chart(
    held_out: Mapping[int, float],
    promoted: Collection[int],
    live: Mapping[int, float],
    translate: Translate,
    *,
    width: int = 360,
) -> Chart | None:
    """Return held-out and live F1 over versions, with those marked that became champion.

    ``held_out``, ``live``: F1 by the number of the version; live F1 is drawn of versions that have both.
    """
    points = [
        Point(
            x=number,
            y=f1,
            mark=number in promoted,
            title=f"v{number}: F1 {f1:.3f}" + (f", {translate('promoted')}" if number in promoted else ""),
        )
        for number, f1 in sorted(held_out.items())
    ]
    corrected = [
        Point(x=number, y=f1, title=f"v{number}: {translate('live F1')} {f1:.3f}")
        for number, f1 in sorted(live.items())
        if number in held_out
    ]
    series = [(translate("held-out F1"), "held-out", points), (translate("live F1"), "live", corrected)]
    return line_chart(series, x_prefix="v", limit=1.0, width=width)
