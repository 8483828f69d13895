"""Routes of feedback and live quality: HTTP bodies → items. The shape of an item is known to `services.control.corrections`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic_core import from_json

from baton.config.file import BatonConfig
from baton.errors import BodyTooLarge, Conflict, InvalidInput, MalformedRequest, UnsupportedMediaType
from baton.store.registry import PAGE, Registry
from services.control.api.problems import problem
from services.control.api.query_params import Before
from services.control.control_metrics import ControlMetrics
from services.control.corrections import Intake, Item
from services.control.label_counts import LabelCounts
from services.control.live_cache import LiveQualityCache

JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")
"""Content types of streamed feedback: one JSON object a line."""

MOST_JSON_BYTES = 8 * 2**20
"""Largest body that is read in one piece. A stream may be of any length."""

BATCH = 1000
"""Items that are validated and stored at once."""

BATCH_BYTES = 4 * 2**20
"""Bytes of lines after which a batch is stored though it has fewer items, so that long lines do not fill the memory."""

CORRECTION = {
    "type": "object",
    "description": "The fields of a row of the model's task, and these.",
    "properties": {
        "id": {"type": "string", "maxLength": 128, "description": "Your own name for it: the same id counts once."},
        "request_id": {"type": "string", "maxLength": 128, "description": "`x-request-id` of the answer that it corrects."},
        "position": {"type": "integer", "minimum": 0, "default": 0, "description": "The index of the input in that request."},
    },
    "additionalProperties": True,
}
BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"anyOf": [CORRECTION, {"type": "array", "items": CORRECTION}]}},
        **{name: {"schema": CORRECTION} for name in JSON_LINES},
    },
}
"""The body as OpenAPI has it: the route reads the stream itself, so that FastAPI cannot know."""


class Control(Protocol):
    """What these routes need of the control plane."""

    config: BatonConfig
    registry: Registry

    @property
    def live(self) -> LiveQualityCache:
        """Live quality."""
        ...


def add_feedback(api: FastAPI, control: Control, metrics: ControlMetrics) -> None:
    """Add the routes to ``api``."""
    registry, tallies = control.registry, LabelCounts(control.registry)

    @api.post("/api/models/{model}/feedback", tags=["feedback"], openapi_extra={"requestBody": BODY})
    async def post_feedback(model: str, request: Request) -> JSONResponse:
        """Corrections: one JSON object, a list of them, or JSON Lines (application/x-ndjson) of any length.

        Each has the fields of a row of the model's task, and may have an `id` of your own (the same id counts once) and the
        `request_id` (and `position`, for a list of inputs) of the answer that it corrects; inputs may then be left out. What is
        accepted is on disk before the answer is sent. 422 when nothing could be used.
        """
        settings = control.config.model(model)
        if not settings.feedback.accept:
            raise Conflict(f"{model} takes no feedback (feedback.accept: false)")
        intake = Intake(settings, registry)
        try:
            async for batch in _batches(request, settings.serving.max_body_bytes):
                await intake.take(batch)
        finally:  # what came before a connection broke is in the database, too
            metrics.count_feedback(model, intake.accepted, intake.duplicates, intake.rejected)
        if intake.useless:
            return problem(InvalidInput.status, InvalidInput.title, intake.complaint(), **intake.report())
        return JSONResponse(intake.report())

    @api.get("/api/models/{model}/feedback", tags=["feedback"])
    def get_feedback(
        model: str,
        limit: Annotated[int, Query(ge=1, le=500, description="Rows in one page.")] = PAGE,
        before: Before = None,
    ) -> dict[str, Any]:
        """Corrections, newest first, and how many there are: in all, since the last data set, with each label, and of each
        version's logged answers.
        """
        settings = control.config.model(model)
        newest = registry.datasets.latest(model)
        found = registry.feedback.newest(model, limit, before)
        return {
            "total": registry.feedback.count_after(model, 0),
            "since_last_dataset": registry.feedback.count_after(model, newest.feedback_until if newest else 0),
            "labels": tallies.labels(settings),
            "versions": registry.feedback.corrected_by_version(model),
            "items": [{**asdict(item), "received_at": item.received_at.isoformat()} for item in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    @api.get("/api/models/{model}/live", tags=["feedback"])
    def get_live(model: str) -> dict[str, Any]:
        """F1 on corrected answers, of each version that has some, with every label's."""
        settings = control.config.model(model)
        lives = [asdict(live) for live in control.live.newest(settings)]
        return {"items": lives, "window": settings.retrain.window}


async def _batches(request: Request, longest_line: int) -> AsyncIterator[list[Item]]:
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type in JSON_LINES:
        batch: list[Item] = []
        size = 0
        async for item in _lines(request, longest_line):
            batch.append(item)
            size += len(item.line or b"")
            if len(batch) == BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
    elif content_type == "application/json":
        items = await _whole(request)
        for start in range(0, len(items), BATCH):
            yield items[start : start + BATCH]
    else:
        raise UnsupportedMediaType(f"content type {content_type!r}; allowed: application/json, {', '.join(JSON_LINES)}")


async def _whole(request: Request) -> list[Item]:
    """The items of a JSON body."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_JSON_BYTES:
            raise BodyTooLarge(
                f"the body has more than {MOST_JSON_BYTES:,} bytes; send it as JSON Lines ({JSON_LINES[0]}), of any length"
            )
    try:
        content = await asyncio.to_thread(from_json, bytes(body))
    except ValueError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict | list):
        raise MalformedRequest("a JSON object or a list of them is expected")
    values = content if isinstance(content, list) else [content]
    return [Item(index=index, value=value) for index, value in enumerate(values)]


async def _lines(request: Request, longest: int) -> AsyncIterator[Item]:
    """The lines of a stream, numbered from 0, blank ones left out; never more in memory than one chunk and one line."""
    rest, index, skipping = bytearray(), 0, False
    async for chunk in request.stream():
        rest += chunk
        *lines, tail = rest.split(b"\n")
        for line in lines:
            if skipping or len(line) > longest:
                yield Item(index=index, problem=f"the line has more than {longest:,} bytes")
            elif line.strip():
                yield Item(index=index, line=bytes(line))
            skipping = False
            index += 1
        rest = bytearray(tail)
        if len(rest) > longest:
            skipping, rest = True, bytearray()
    if skipping:
        yield Item(index=index, problem=f"the line has more than {longest:,} bytes")
    elif rest.strip():
        yield Item(index=index, line=bytes(rest))
