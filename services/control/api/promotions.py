"""Routes that move the champion: promote, roll back, and the list of moves; and those that read why the gate decided so."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import Field

from baton.artifacts.storage import Storage
from baton.errors import NotFound
from baton.store.records import LARGEST_INTEGER, PAGE
from services.control.api.bodies import LONGEST_REASON, Body, Page, to_json_values
from services.control.api.guard import actor_of
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Before, Limit
from services.report.page import page, policy
from services.report.words import Language

PAGE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Headers of a page for browsers: it runs no script, asks no address, and stands in no other page."""


class PromotionRequest(Body):
    """Which version should become champion."""

    version: int = Field(ge=1, le=LARGEST_INTEGER)
    force: bool = Field(False, description="Bypass the gate. Needs a reason, which stays in the history.")
    reason: str | None = Field(None, max_length=LONGEST_REASON)


class RollbackRequest(Body):
    """Which champion should return."""

    version: int | None = Field(None, ge=1, le=LARGEST_INTEGER, description="An earlier champion; by default the previous one.")
    reason: str = Field("rolled back by an operator", max_length=LONGEST_REASON)


class Rejection(Body):
    """Why a version must not serve."""

    reason: str = Field(max_length=LONGEST_REASON)


def add_promotions(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes of promotions and rollbacks."""
    registry = control.registry

    @api.post("/api/models/{model}/promotions", tags=["promotions"])
    async def promote(request: Request, model: str, body: PromotionRequest) -> JSONResponse:
        """Ask the gate, and swap if it agrees.

        Answers with the Decision: 200 if the version is champion now, 409 if the gate refused it.
        """
        control.config.model(model)
        by = actor_of(request.scope)
        decision, promotion = await control.promote(model, body.version, force=body.force, reason=body.reason, by=by)
        if promotion is None:
            return problem(409, "refused by the gate", decision.sentence, decision=to_json_values(decision))
        return JSONResponse({"decision": to_json_values(decision), "promotion": to_json_values(promotion)})

    @api.post("/api/models/{model}/versions/{number}/rejection", tags=["promotions"])
    async def reject(
        request: Request, model: str, number: Annotated[int, Path(ge=1, le=LARGEST_INTEGER)], body: Rejection
    ) -> dict[str, Any]:
        """Keep a version out of service: end its roll-out, and let nothing but force promote it.

        Answers with the reason of the version's first rejection, which counts, and the mode of the roll-out that ended.
        """
        control.config.model(model)
        ended = await control.rollouts.reject(model, number, body.reason, by=actor_of(request.scope))
        reason = await asyncio.to_thread(registry.history.rejection, model, number)
        return {"model": model, "version": number, "reason": reason, "ended": None if ended is None else ended.mode}

    @api.get("/api/models/{model}/promotions", tags=["promotions"])
    def list_promotions(model: str, limit: Limit = PAGE, before: Before = None) -> Page:
        """List the moves of the champion pointer, newest first."""
        control.config.model(model)
        found = registry.promotions(model, limit=limit, before=before)
        return Page(
            items=[to_json_values(promotion) for promotion in found], next=found[-1].id if len(found) == limit else None
        )

    @api.post("/api/models/{model}/rollback", tags=["promotions"])
    async def rollback(request: Request, model: str, body: RollbackRequest | None = None) -> dict[str, Any]:
        """Put the previous champion, or an earlier one, back in service."""
        control.config.model(model)
        wanted = body or RollbackRequest()
        by = actor_of(request.scope)
        decision, promotion = await control.rollouts.rollback(model, wanted.version, wanted.reason, by=by)
        return {"decision": to_json_values(decision), "promotion": to_json_values(promotion)}


def add_decisions(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes that read decisions and their reports."""
    registry = control.registry
    storage = Storage(control.config.storage)

    @api.get("/api/decisions/{number}", tags=["promotions"])
    def get_decision(number: Annotated[int, Path(ge=1, le=LARGEST_INTEGER)]) -> dict[str, Any]:
        """Return one decision: verdict, sentence, policy, and every number that it rests on."""
        found = registry.decision(number)
        control.config.model(found.model)
        return to_json_values(found)

    @api.get("/api/models/{model}/versions/{number}/report", tags=["promotions"])
    def get_report(model: str, number: Annotated[int, Path(ge=1, le=LARGEST_INTEGER)]) -> dict[str, Any]:
        """Return the newest decision of the gate on a version, and its report.

        The report has F1 and gain by part, slice and label, the confusions that changed most, and the most changed answers.
        """
        return read_report(model, number)

    @api.get("/api/models/{model}/versions/{number}/report.html", tags=["promotions"], response_class=HTMLResponse)
    def get_report_page(
        model: str, number: Annotated[int, Path(ge=1, le=LARGEST_INTEGER)], language: Language = "en"
    ) -> HTMLResponse:
        """Return the same report as one HTML page, which needs nothing else: to read, to print, to send."""
        headers = {**PAGE_HEADERS, "content-security-policy": f"{policy()}; frame-ancestors 'none'"}
        return HTMLResponse(page(read_report(model, number), language=language), headers=headers)

    def read_report(model: str, number: int) -> dict[str, Any]:
        control.config.model(model)
        registry.versions.get(model, number)
        found = registry.newest_gate_decision(model, number)
        if found is None:
            raise NotFound(f"the gate has not judged {model} v{number}")
        path = found.numbers.get("report")
        content = None if path is None else storage.read_report(path)
        if content is None:
            why = "none was made with it" if path is None else f"{path} is not in the storage"
            raise NotFound(f"decision {found.id} on {model} v{number} has no report: {why}")
        return {"decision": to_json_values(found), "report": json.loads(content)}
