"""Routes of training runs: start, watch, cancel."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from pydantic import Field

from baton.errors import NotFound, RegistryError
from baton.store.records import LARGEST_INTEGER, LONGEST_ID, PAGE
from baton.store.registry import Registry
from services.control.api.bodies import Body, Page, to_json_values
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Limit

EVENT_SECONDS = 0.5
"""Pause between two looks for new events of a run: short enough for a progress bar, one small query each time."""


class RunRequest(Body):
    """Overrides for one run."""

    set: list[str] = Field(default_factory=list, description="KEY=VALUE overrides, for example training.epochs=5.")


def add_runs(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes of runs."""
    registry = control.registry

    @api.post("/api/models/{model}/runs", status_code=202, tags=["runs"])
    async def start_run(
        model: str,
        body: RunRequest | None = None,
        idempotency_key: Annotated[str | None, Header(max_length=LONGEST_ID)] = None,
        traceparent: Annotated[str, Header(description="W3C Trace Context: the run's trace is a part of the caller's.")] = "",
    ) -> dict[str, Any]:
        """Retrain the model.

        Answers 409 while a run of this model is active. A request with an earlier request's `Idempotency-Key` returns its run.
        """
        control.config.model(model)
        return to_json_values(await control.start_run(model, body.set if body else [], idempotency_key, traceparent))

    @api.get("/api/models/{model}/runs", tags=["runs"])
    def list_runs(model: str, limit: Limit = PAGE, before: str | None = None) -> Page:
        """List runs, newest first, each with the ``verdict`` of the gate once it has one."""
        control.config.model(model)
        found = registry.runs.list(model, limit=limit, before=before)
        verdicts = registry.verdicts([run.decision_id for run in found if run.decision_id is not None])
        items = [{**to_json_values(run), "verdict": verdicts.get(run.decision_id or 0)} for run in found]
        return Page(items=items, next=found[-1].id if len(found) == limit else None)

    @api.get("/api/runs/{run_id}", tags=["runs"])
    def get_run(run_id: str) -> dict[str, Any]:
        """Return one run, with its decision once it has one."""
        run = registry.runs.get(run_id)
        decision = registry.decision(run.decision_id) if run.decision_id is not None else None
        return {**to_json_values(run), "decision": to_json_values(decision) if decision else None}

    @api.get("/api/runs/{run_id}/data", tags=["runs"])
    def run_data(run_id: str) -> dict[str, Any]:
        """Return the report about the data set that a run froze, feedback included: what `baton data` shows of files.

        Answers 404 before the run has frozen it.
        """
        run = registry.runs.get(run_id)
        report = registry.runs.data_report(run_id)
        if report is None:
            raise NotFound(f"run {run_id} has no report about its data: it is {run.state}, and froze none")
        return dict(report)

    @api.get("/api/runs/{run_id}/events", tags=["runs"])
    async def run_events(run_id: str, last_event_id: Annotated[int, Header(ge=0, le=LARGEST_INTEGER)] = 0) -> StreamingResponse:
        """Stream progress as server-sent events until the run ends, from the first event or after `Last-Event-ID`."""
        await asyncio.to_thread(registry.runs.get, run_id)
        return StreamingResponse(event_stream(registry, run_id, last_event_id), media_type="text/event-stream")

    @api.post("/api/runs/{run_id}/cancel", tags=["runs"])
    async def cancel_run(run_id: str) -> dict[str, Any]:
        """Cancel an active run now. Answers 409 if it is over."""
        return to_json_values(await control.cancel_run(run_id))


async def event_stream(registry: Registry, run_id: str, after: int, seconds: float = math.inf) -> AsyncIterator[str]:
    """Yield the progress of a run after one event as server-sent events, until the run ends or ``seconds`` have passed."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        try:
            run = await asyncio.to_thread(registry.runs.get, run_id)
            events = await asyncio.to_thread(registry.runs.events, run_id, after)
        except RegistryError as error:  # an outage of the database does not end the run; the stream resumes with it
            yield f": {str(error).splitlines()[0]}\n\n"
            await asyncio.sleep(EVENT_SECONDS)
            continue
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: progress\ndata: {json.dumps(event.data)}\n\n"
        if run.state.final:
            yield f"event: end\ndata: {json.dumps(to_json_values(run))}\n\n"
            return
        await asyncio.sleep(EVENT_SECONDS)
