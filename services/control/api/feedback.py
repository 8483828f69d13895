"""Routes of feedback and live quality: take corrections, list them, and report F1 on corrected answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, InvalidInput, OverQuota
from baton.keys import Key, Scope
from baton.store.records import PAGE
from services.control.api.feedback_body import REQUEST_BODY, read_batches
from services.control.api.guard import key_of
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Before, Limit
from services.control.control_metrics import ControlMetrics
from services.control.corrections import Intake
from services.control.label_counts import LabelCounts


def add_feedback(api: FastAPI, control: ControlPlane, metrics: ControlMetrics) -> None:
    """Add the routes of feedback and of live quality."""
    registry, label_counts = control.registry, LabelCounts(control.registry)

    @api.post("/api/models/{model}/feedback", tags=["feedback"], openapi_extra={"requestBody": REQUEST_BODY})
    async def post_feedback(model: str, request: Request) -> JSONResponse:
        """Take corrections: one JSON object, a list of them, or JSON Lines (application/x-ndjson) of any length.

        A correction has the fields of a row of the model's task. It may have an `id` of the client's own: the same id counts
        once, and with another answer it takes the place of the one before. It may have the `answer_id` of the answer that
        it corrects (its header `x-answer-id`), with `position` if that request had a list of inputs; the inputs may then be
        left out. A `request_id` does as well, if no other request had it. Accepted corrections
        are on disk before the answer is sent. Answers 422 if no item could be used, and 429, with the report of what is
        stored, if the key has sent too many (`feedback.max_per_day`).
        """
        settings = control.config.model(model)
        intake = intake_of(control, settings, key_of(request.scope))
        try:
            async for batch in read_batches(request, settings.serving.max_body_bytes):
                await intake.take(batch)
        except OverQuota as error:
            return problem(error.status, error.title, str(error), dict(error.headers), **intake.report())
        finally:  # when the connection breaks, the batches before it are in the database and must be counted
            metrics.count_feedback(model, intake.accepted, intake.duplicates, intake.rejected)
        if intake.all_rejected:
            return problem(InvalidInput.status, InvalidInput.title, intake.rejection(), **intake.report())
        return JSONResponse(intake.report())

    @api.get("/api/models/{model}/feedback", tags=["feedback"])
    def get_feedback(model: str, limit: Limit = PAGE, before: Before = None) -> dict[str, Any]:
        """List corrections, newest first, with counts: all, since the last data set, by label, and by version that answered."""
        settings = control.config.model(model)
        newest = registry.datasets.latest(model)
        found = registry.feedback.newest(model, limit, before)
        return {
            "total": registry.feedback.count_after(model, 0),
            "since_last_dataset": registry.feedback.count_after(model, newest.feedback_until if newest else 0),
            "labels": label_counts.labels(settings),
            "versions": registry.predictions.corrected_by_version(model),
            "items": [{**asdict(item), "received_at": item.received_at.isoformat()} for item in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    @api.get("/api/models/{model}/live", tags=["feedback"])
    def get_live(model: str) -> dict[str, Any]:
        """Return F1 on corrected answers, in all and by label, of each version that has corrected answers."""
        settings = control.config.model(model)
        lives = [asdict(live) for live in control.live.newest(settings)]
        return {"items": lives, "window": settings.retrain.window}


def intake_of(control: ControlPlane, settings: ModelSettings, key: Key | None) -> Intake:
    """Return what takes the corrections of a request with ``key``. Raises ``Conflict`` if the model takes none."""
    if not settings.feedback.accept:
        raise Conflict(f"{settings.name} takes no feedback (feedback.accept: false)")
    sender, actor = (key.id, key.name) if key else (None, None)
    labels = key is None or key.allows(Scope.LABEL)
    return Intake(settings, control.registry, sender=sender, actor=actor, labels=labels)
