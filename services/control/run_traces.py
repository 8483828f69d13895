"""A trace for each run of this cluster: the run, and its stages as its events tell them. Sent when the run has ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from baton.store.records import Run, RunEvent, RunState
from baton.store.registry import Registry
from services.tracing import NOBODY, Span, Tracer, caller_of


class RunTraces:
    """Sends the traces of runs that end while this process lives. Blocks: call it from a thread."""

    def __init__(self, registry: Registry, tracer: Tracer) -> None:
        self._registry, self._tracer = registry, tracer
        self._active: frozenset[str] = frozenset()

    def look(self, active: Sequence[Run], owner: str) -> None:
        """Send the traces of runs that were active when this was called last, and are not among ``active`` any more.

        ``owner``: the cluster whose runs are traced here.
        """
        ids = frozenset(run.id for run in active if run.owner == owner)
        ended, self._active = self._active - ids, ids
        for run_id in sorted(ended):
            run, events = self._registry.runs.get(run_id), self._registry.runs.events(run_id)
            sent = next((str(event.data["traceparent"]) for event in events if "traceparent" in event.data), "")
            self._tracer.send(span_of(run, events), caller_of(sent) or NOBODY)


def span_of(run: Run, events: Sequence[RunEvent]) -> Span:
    """Return the span of a run that has ended, with its stages as parts. ``events``: its progress, oldest first."""
    assert run.finished_at is not None
    stages: list[tuple[str, datetime]] = [("queued", run.created_at)]
    if run.started_at is not None:
        stages.append(("preparing", run.started_at))
    for event in events:
        stage = str(event.data.get("stage", stages[-1][0]))
        if stage not in (stages[-1][0], "queued", *RunState):
            stages.append((stage, event.at))
    ends = [*(begin for _, begin in stages[1:]), run.finished_at]
    facts: dict[str, str | int | float | bool] = {"baton.model": run.model, "baton.run": run.id, "baton.state": run.state.value}
    if run.version is not None:
        facts["baton.version"] = run.version
    return Span(
        name=f"run {run.model}",
        begin=run.created_at.timestamp(),
        end=run.finished_at.timestamp(),
        attributes=facts,
        parts=[
            Span(name=name, begin=begin.timestamp(), end=end.timestamp())
            for (name, begin), end in zip(stages, ends, strict=True)
        ],
        error="failed" if run.state is RunState.FAILED else None,  # the reason may quote data
    )
