"""Routes of the audit: what people are asked to label, and their labels."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body as JsonBody
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from baton.errors import InvalidInput
from baton.store.records import LARGEST_INTEGER, PAGE
from services.control import audit
from services.control.api.guard import key_of
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Limit

After = Annotated[int, Query(ge=0, le=LARGEST_INTEGER, description="`next` of the previous page.")]

MAX_LABELS = 1000
"""Maximum number of labels in one request."""


def add_audit(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes of the audit."""
    registry = control.registry

    @api.get("/api/models/{model}/audit", tags=["audit"])
    def get_audit(model: str, limit: Limit = PAGE, after: After = 0) -> dict[str, Any]:
        """List texts to label, in the order of the draw, without the model's answers, and how far each batch is labelled.

        A secret draw of logged requests. Labels judge versions once a batch of 50 texts is labelled (90% of it).
        """
        settings = control.config.model(model)
        found = registry.audit.waiting(model, limit=limit, after=after)
        return {
            **audit.progress(registry, settings),
            "items": [audit.shown(item) for item in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    @api.post("/api/models/{model}/audit", tags=["audit"])
    def post_audit(model: str, request: Request, body: Annotated[list[Any] | dict[str, Any], JsonBody()]) -> JSONResponse:
        """Label texts of the audit: one object or a list, each with the `id` of a text and its answer.

        The answer has the fields of a row of the model's task, such as `{"id": 12, "label": "refund"}`. `{"id": 12,
        "undecidable": true}` says that a text has no right answer. Answers 422 if no item could be used.
        """
        settings = control.config.model(model)
        items = body if isinstance(body, list) else [body]
        if len(items) > MAX_LABELS:
            raise InvalidInput(f"{len(items):,} labels in one request; at most {MAX_LABELS:,} are allowed")
        key = key_of(request.scope)
        report = audit.take_labels(registry, settings, items, key.id if key else None)
        if items and report["rejected"] == len(items):
            first: str = report["errors"][0]["error"]
            reason = first if len(items) == 1 else f"none of {len(items):,} items can be used; item 0: {first}"
            return problem(InvalidInput.status, InvalidInput.title, reason, **report)
        return JSONResponse(report)
