"""The review: the audit's texts, one at a time, for people who label with the keyboard.

As everywhere in the audit, the model's answer is not shown: whoever sees it tends to agree with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.config.model_settings import ModelSettings
from baton.errors import BatonError
from baton.store.records import LARGEST_INTEGER
from services.console.gate import ROOT
from services.console.pages import Form, Pages, number_of, see, visit_of
from services.console.playground import answer_of, kinds_of
from services.control import audit

KEYS = "1234567890qwertzuiopadfghjklcvbn"
"""Keys of the first labels. Left out are those of other buttons: s skips, x says that there is no right answer."""


def review_routes(pages: Pages) -> list[Route]:
    """Return the routes of the review."""
    registry = pages.control.registry

    def next_page(request: Request, settings: ModelSettings, after: int, problem: str | None, status: int) -> Response:
        found = registry.audit.waiting(settings.name, limit=1, after=after)
        champion = registry.champion_version(settings.name)
        labels = [] if champion is None else list(champion.lineage.get("labels", ()))
        batches = audit.progress(registry, settings)["batches"]
        return pages.render(
            request,
            "review.html",
            status,
            model=settings,
            tab="review",
            item=found[0] if found else None,
            labels=kinds_of(labels) if settings.task == "ner" else labels,
            keys=KEYS,
            after=after,
            waiting=sum(it["texts"] - it["labelled"] - it["undecidable"] - it["deleted"] for it in batches),
            batch=next((it for it in batches if not it["judges"]), None),
            share=settings.feedback.audit,
            problem=problem,
            last=request.query_params.get("last", ""),
        )

    async def show(request: Request) -> Response:
        settings = pages.settings(request)
        after = _after(request.query_params)
        if request.method == "GET":
            return await asyncio.to_thread(next_page, request, settings, after, None, 200)
        form, key = await pages.form(request), visit_of(request).key
        item = number_of(form.get("id", ""), "id")
        here = f"{ROOT}/models/{settings.name}/review"
        if "skip" in form:
            return see(f"{here}?after={item}")
        try:
            stored = await asyncio.to_thread(registry.audit.get, settings.name, item)
            label = _label(settings, stored.input, form)
            report = await asyncio.to_thread(
                audit.take_labels, registry, settings, [{"id": item, **label}], key.id if key else None
            )
        except BatonError as error:
            return await asyncio.to_thread(next_page, request, settings, item - 1, str(error), error.status)
        if report["rejected"]:
            return await asyncio.to_thread(next_page, request, settings, item - 1, report["errors"][0]["error"], 422)
        return see(f"{here}?after={after}&last={item}")

    return [Route(f"{ROOT}/models/{{model}}/review", show, methods=["GET", "POST"])]


def _label(settings: ModelSettings, inputs: Mapping[str, Any], form: Form) -> dict[str, Any]:
    if "undecidable" in form:
        return {"undecidable": True}
    return answer_of(settings, {name: str(value) for name, value in inputs.items() if value is not None}, form)


def _after(query: Mapping[str, str]) -> int:
    """Return the id after which the next text is looked for; 0 unless one was skipped."""
    told = query.get("after", "")
    return min(int(told[:10]), LARGEST_INTEGER) if told.isascii() and told.isdigit() else 0
