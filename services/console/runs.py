"""Runs: the list, and one run while it goes on: progress, learning curve, log. Start and cancel."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from baton.errors import BatonError, InvalidInput, NotFound
from baton.store.records import LARGEST_INTEGER, LONGEST_ID, PAGE, Run, RunEvent
from baton.wording import counted
from services.console.charts import Chart, Point, line_chart
from services.console.gate import ROOT
from services.console.language import Words
from services.console.pages import Pages, see
from services.control.api.runs import event_stream

LOG_LINES = 200
"""Number of last lines of a run's log that are shown."""

COUNTERS = (("step", "steps"), ("done", "total"), ("trial", "trials"))
"""Keys of a run's progress that move the bar: the number that is done, and the total. The first that is present counts."""

MOST_POINTS = 200
"""Number of points of a curve: more would only make the page heavier."""

STREAM_SECONDS = 30.0
"""How long one stream of events lasts. The browser then asks again, so that a session that has ended gets no more of them."""

DONE: Mapping[str, Words] = {"cancelled": Words("The run was cancelled."), "started": Words("The run has begun.")}


def run_routes(pages: Pages) -> list[Route]:
    """Return the routes of runs."""
    control = pages.control
    registry = control.registry

    def of_model(request: Request) -> Run:
        run = registry.runs.get(request.path_params["run_id"])
        if run.model != request.path_params["model"]:
            raise NotFound(f"{request.path_params['model']} has no run {run.id!r}")
        return run

    async def list_runs(request: Request) -> Response:
        settings = pages.settings(request)
        problem, status, entered = None, 200, ""
        if request.method == "POST":
            form = await pages.form(request)
            entered, key = form.get("set", ""), form.get("once", "")
            try:
                if not key or len(key) > LONGEST_ID:
                    raise InvalidInput("once: an id of this form is expected")
                run = await control.start_run(settings.name, entered.split(), key)
                return see(f"{ROOT}/models/{settings.name}/runs/{run.id}?done=started")
            except BatonError as error:
                problem, status = str(error), error.status
        before = request.query_params.get("before") or None
        found = await asyncio.to_thread(registry.runs.list, settings.name, limit=PAGE, before=before)
        ids = [run.decision_id for run in found if run.decision_id is not None]
        return pages.render(
            request,
            "runs.html",
            status,
            model=settings,
            tab="runs",
            runs=found,
            verdicts=await asyncio.to_thread(registry.verdicts, ids),
            next=found[-1].id if len(found) == PAGE else None,
            active=any(not run.state.final for run in found),
            seconds=seconds,
            problem=problem,
            entered=entered,
            once=secrets.token_hex(16),
        )

    async def get_run(request: Request) -> Response:
        settings = pages.settings(request)
        run = await asyncio.to_thread(of_model, request)
        events = await asyncio.to_thread(registry.runs.events, run.id)
        decision = None if run.decision_id is None else await asyncio.to_thread(registry.decision, run.decision_id)
        return pages.render(
            request,
            "run.html",
            model=settings,
            tab="runs",
            run=run,
            decision=decision,
            seconds=seconds(run),
            share=share_done(run.progress),
            f1=curve(events, "f1"),
            loss=curve(events, "loss"),
            last_event=events[-1].id if events else 0,
            log=await control.run_log(run.id, LOG_LINES),
            findings=[
                in_a_line(one) for one in (await asyncio.to_thread(registry.runs.data_report, run.id) or {}).get("findings", ())
            ],
            done=DONE.get(request.query_params.get("done", "")),
        )

    async def stream(request: Request) -> Response:
        run = await asyncio.to_thread(of_model, request)
        after = max(event_id(request.headers.get("last-event-id")), event_id(request.query_params.get("after")))
        events = opened(event_stream(registry, run.id, after, STREAM_SECONDS))
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def cancel(request: Request) -> Response:
        await pages.form(request)
        run = await asyncio.to_thread(of_model, request)
        await control.cancel_run(run.id)
        return see(f"{ROOT}/models/{run.model}/runs/{run.id}?done=cancelled")

    path = f"{ROOT}/models/{{model}}/runs"
    return [
        Route(path, list_runs, methods=["GET", "POST"]),
        Route(f"{path}/{{run_id}}", get_run, methods=["GET"]),
        Route(f"{path}/{{run_id}}/events", stream, methods=["GET"]),
        Route(f"{path}/{{run_id}}/cancel", cancel, methods=["POST"]),
    ]


def share_done(progress: Mapping[str, Any]) -> float | None:
    """Return how much of its stage a run has done, from 0 to 1; None if that is not known."""
    for done, total in COUNTERS:
        if progress.get(done) is not None and progress.get(total):
            return min(1.0, float(progress[done]) / float(progress[total]))
    return None


def in_a_line(finding: Mapping[str, Any]) -> str:
    """Return a finding of a run's report about its data, with its first example."""
    rows = f"{counted(finding['rows'], 'row')}: " if finding["rows"] else ""
    example = f" ({finding['examples'][0]})" if finding["examples"] else ""
    return f"{finding['level']}: {rows}{finding['what']}{example}"


async def opened(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield a comment and then ``events``: a browser waits for the first bytes before it says that the stream is open."""
    yield ":\n\n"
    async for event in events:
        yield event


def event_id(text: str | None) -> int:
    """Return the id of the last event that a browser has; 0 for anything else."""
    return min(int(text[:10]), LARGEST_INTEGER) if text and text.isascii() and text.isdigit() else 0


def seconds(run: Run) -> float | None:
    """Return how long a run took, or takes so far; None before it starts."""
    if run.started_at is None:
        return None
    return ((run.finished_at or datetime.now(UTC)) - run.started_at).total_seconds()


def curve(events: Sequence[RunEvent], name: str) -> Chart | None:
    """Return a chart of one number of a run's progress over its steps; None if it has none."""
    found: dict[float, float] = {}
    for event in events:
        if event.data.get(name) is not None and event.data.get("step") is not None:
            found[float(event.data["step"])] = float(event.data[name])
    steps = sorted(found)
    stride = -(-len(steps) // MOST_POINTS) or 1
    points = [Point(x=step, y=found[step], title=f"{step:g}: {found[step]:.3f}") for step in reversed(steps[::-1][::stride])]
    return line_chart([(name, name, points)], width=480, height=150)
