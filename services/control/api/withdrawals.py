"""Routes that take corrections back: withdraw them by id, by sender or by time, and list what was withdrawn or replaced."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request

from baton.errors import InvalidInput, NotFound
from baton.store.records import LONGEST_ID, PAGE
from baton.validation import short_repr
from services.control.api.guard import key_of
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Before, Limit

ClientId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID, description="The id that the sender chose.")]
SenderId = Annotated[str | None, Query(min_length=1, max_length=12, description="The id of an API key.")]
Time = Annotated[datetime | None, Query(description="A time in ISO 8601, in UTC unless it says otherwise.")]


def add_withdrawals(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes."""
    registry = control.registry

    @api.get("/api/models/{model}/feedback/changes", tags=["feedback"])
    def get_changes(model: str, limit: Limit = PAGE, before: Before = None) -> dict[str, Any]:
        """List corrections that others took the place of, and withdrawn ones, newest first."""
        control.config.model(model)
        found = registry.feedback.changes(model, limit, before)
        items = [{**asdict(item), "happened_at": item.happened_at.isoformat()} for item in found]
        return {"items": items, "next": found[-1].id if len(found) == limit else None}

    @api.delete("/api/models/{model}/feedback/{client_id:path}", tags=["feedback"])
    def withdraw(model: str, client_id: ClientId, request: Request) -> dict[str, int]:
        """Withdraw a correction by the id that its sender chose. Only its sender can, with the same key.

        It is deleted: the next data set does not have it. Data sets and versions that were made before keep it. Answers 404 if
        there is none.
        """
        control.config.model(model)
        key = key_of(request.scope)
        sender, actor = (key.id, key.name) if key else (None, None)
        if not registry.feedback.withdraw(model, [client_id], sender=sender, actor=actor):
            raise NotFound(f"{model} has no correction with id {short_repr(client_id)} that you sent")
        return {"withdrawn": 1}

    @api.delete("/api/models/{model}/feedback", tags=["feedback"])
    def withdraw_all(
        model: str, request: Request, sender: SenderId = None, since: Time = None, until: Time = None
    ) -> dict[str, int]:
        """Withdraw all corrections of an API key (its id), or of a period, or both. They are deleted.

        `GET /api/models/M/feedback` shows the sender and the time of each. Answers with their number, which may be 0.
        """
        control.config.model(model)
        if sender is None and since is None and until is None:
            raise InvalidInput("say which corrections: sender, since, until, or several of them")
        key = key_of(request.scope)
        actor = key.name if key else None
        found = registry.feedback.withdraw_all(model, sender=sender, since=_utc(since), until=_utc(until), actor=actor)
        return {"withdrawn": found}


def _utc(time: datetime | None) -> datetime | None:
    """Return a time with its zone, which is UTC unless it has another."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
