"""The trace of a run: sent when it has ended, with its stages, as a part of the request that asked for it."""

from __future__ import annotations

import pytest

from baton.config.traces_settings import TracesSettings
from baton.store.records import RunStage, RunState
from baton.store.registry import Registry
from services.control.run_traces import RunTraces, span_of
from services.tracing import Tracer
from tests.support.database import migrated_registry
from tests.support.programs.collector import collecting

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def registry(tmp_path) -> Registry:
    registry = migrated_registry(f"sqlite:///{tmp_path}/baton.db")
    registry.declare_model("m")
    return registry


def carried_out(registry: Registry, state: RunState = RunState.SUCCEEDED, traceparent: str = "", owner: str = "here") -> str:
    """The id of a run that has ended."""
    run = registry.runs.create("m", {}, owner=owner, traceparent=traceparent)
    registry.runs.start(run.id)
    for stage in (RunStage.PREPARING, RunStage.TRAINING, RunStage.TRAINING, RunStage.EVALUATING):
        registry.runs.report(run.id, stage, {"rows": 7})
    registry.runs.finish(run.id, state, reason="row 3 says «a secret»", version=4)
    return run.id


def test_the_stages_of_a_run_are_parts_of_its_span_and_that_is_a_part_of_the_request(registry):
    with collecting() as (collector, url):
        tracer = Tracer(TracesSettings(endpoint=url, sample=0), {})
        traces = RunTraces(registry, tracer)
        traces.look([], "here")
        run = registry.runs.create("m", {}, owner="here", traceparent=f"00-{TRACE}-{SPAN}-00")
        traces.look(registry.runs.list(active=True), "here")
        registry.runs.finish(run.id, RunState.CANCELLED)
        for _ in range(2):
            traces.look([], "here")
        tracer.close()
    sent = collector.named("run m")
    assert (sent.trace, sent.parent, sent.failed) == (TRACE, SPAN, False)
    assert sent.facts == {"baton.model": "m", "baton.run": run.id, "baton.state": "cancelled"}
    queued = collector.named("queued")
    assert (queued.trace, queued.parent, len(collector.spans)) == (TRACE, sent.id, 2), "each run is sent once"


def test_each_stage_lasts_until_the_next_one(registry):
    run_id = carried_out(registry, RunState.FAILED)
    run = registry.runs.get(run_id)
    span = span_of(run, registry.runs.events(run_id))
    assert [part.name for part in span.parts] == ["queued", "preparing", "training", "evaluating"]
    assert [span.begin, *(part.end for part in span.parts)] == [*(part.begin for part in span.parts), span.end]
    assert span.error == "failed", "the reason may quote data"
    assert "secret" not in str(span)
    assert span.attributes["baton.version"] == 4


def test_runs_of_other_clusters_are_theirs(registry):
    with collecting() as (collector, url):
        tracer = Tracer(TracesSettings(endpoint=url), {})
        traces = RunTraces(registry, tracer)
        run = registry.runs.create("m", {}, owner="elsewhere")
        traces.look(registry.runs.list(active=True), "here")
        registry.runs.finish(run.id, RunState.CANCELLED)
        traces.look([], "here")
        tracer.close()
    assert collector.spans == []
