"""Reads the body of a feedback request: JSON, or JSON Lines of any length, as batches of items in bounded memory.

Knows neither tasks nor the registry; `services.control.corrections` knows what an item must look like.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from baton.errors import BodyTooLarge, MalformedRequest, UnsupportedMediaType
from baton.store.records import LONGEST_ID
from services.control.corrections import Item
from services.log_sampling import ANSWER_ID

JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")
"""Content types of streamed feedback: one JSON object a line."""

MAX_JSON_BYTES = 8 * 2**20
"""Maximum size of a JSON body, which is read in one piece. A stream of JSON Lines may have any length."""

BATCH = 1000
"""Maximum number of items that are validated and stored together."""

BATCH_BYTES = 4 * 2**20
"""Bytes of lines after which a batch is stored although it has fewer items, so that long lines do not fill the memory."""

CORRECTION = {
    "type": "object",
    "description": "The fields of a row of the model's task, and these:",
    "properties": {
        "id": {"type": "string", "maxLength": LONGEST_ID, "description": "The client's id of the correction. It counts once."},
        "answer_id": {
            "type": "string",
            "pattern": f"^{ANSWER_ID.pattern}$",
            "description": "`x-answer-id` of the answer that is corrected.",
        },
        "request_id": {
            "type": "string",
            "maxLength": LONGEST_ID,
            "description": "`x-request-id` of that answer, if no other request had it.",
        },
        "position": {
            "type": "integer",
            "minimum": 0,
            "default": 0,
            "description": "Index of the corrected input in its request, from 0.",
        },
    },
    "additionalProperties": True,
}
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"anyOf": [CORRECTION, {"type": "array", "items": CORRECTION}]}},
        **{name: {"schema": CORRECTION} for name in JSON_LINES},
    },
}
"""The body in OpenAPI's terms. FastAPI cannot derive it, because the route reads the stream itself."""


async def read_batches(request: Request, max_line_bytes: int) -> AsyncIterator[list[Item]]:
    """Yield the items of ``request`` in batches of at most `BATCH`.

    Raises:
        UnsupportedMediaType: the content type is neither JSON nor one of `JSON_LINES`.
        BodyTooLarge: a JSON body exceeds `MAX_JSON_BYTES`.
        MalformedRequest: a JSON body is not JSON, or neither an object nor a list. (A broken line of JSON Lines is an item with
            a problem: the other lines count.)
    """
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type in JSON_LINES:
        batch: list[Item] = []
        size = 0
        async for item in _read_lines(request, max_line_bytes):
            batch.append(item)
            size += len(item.line or b"")
            if len(batch) == BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
    elif content_type == "application/json":
        items = await _read_json(request)
        for start in range(0, len(items), BATCH):
            yield items[start : start + BATCH]
    else:
        raise UnsupportedMediaType(f"content type {content_type!r}; allowed: application/json, {', '.join(JSON_LINES)}")


async def _read_json(request: Request) -> list[Item]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise BodyTooLarge(
                f"the body has more than {MAX_JSON_BYTES:,} bytes; send it as JSON Lines ({JSON_LINES[0]}), of any length"
            )
    try:
        content: Any = await asyncio.to_thread(from_json, bytes(body))
    except ValueError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict | list):
        raise MalformedRequest("a JSON object or a list of them is expected")
    values = content if isinstance(content, list) else [content]
    return [Item(index=index, value=value) for index, value in enumerate(values)]


async def _read_lines(request: Request, max_bytes: int) -> AsyncIterator[Item]:
    """Yield the lines of a stream, numbered from 0, without blank ones; hold at most one chunk and one line in memory."""
    rest, index, skipping = bytearray(), 0, False
    too_long = f"the line has more than {max_bytes:,} bytes"
    async for chunk in request.stream():
        rest += chunk
        *lines, tail = rest.split(b"\n")
        for line in lines:
            if skipping or len(line) > max_bytes:
                yield Item(index=index, problem=too_long)
            elif line.strip():
                yield Item(index=index, line=bytes(line))
            skipping = False
            index += 1
        rest = bytearray(tail)
        if len(rest) > max_bytes:  # drop what has come of the line, and the rest of it as it comes
            skipping, rest = True, bytearray()
    if skipping:
        yield Item(index=index, problem=too_long)
    elif rest.strip():
        yield Item(index=index, line=bytes(rest))
