"""Traces of requests: a real collector gets the spans of those that are chosen, and nobody waits for it."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.traces_settings import TracesSettings
from services.tracing import NOBODY, Tracer, caller_of
from tests.support.database import migrated_registry
from tests.support.programs.collector import collecting
from tests.support.replica import force, publish, served
from tests.support.tiny import save_classifier

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TEXT = "a secret text about my invoice"


@pytest.fixture
def ask(tiny_base: Path, tmp_path: Path) -> Any:
    """Send requests to a replica with a champion, which ends afterwards. Return the answers."""
    url, storage = f"sqlite:///{tmp_path}/baton.db", Storage(str(tmp_path / "storage"))
    registry = migrated_registry(url)
    registry.declare_model("m")
    labels = ("billing", "bug")
    publish(registry, storage, "m", save_classifier(tiny_base, labels, tmp_path / "model"), labels)
    force(registry, "m", 1)
    settings = {"name": "m", "task": "classification", "serving": {"precision": "fp32", "device": "cpu"}}

    def send(traces: TracesSettings | None, *requests: dict[str, Any], **serving: Any) -> list[Any]:
        loaded = ModelSettings.model_validate({**settings, "serving": {**settings["serving"], **serving}})

        async def main() -> list[Any]:
            options = {"traces": traces and traces.model_dump()}
            async with asyncio.timeout(120), served(loaded, url, storage, **options) as (_, client):
                return [await client.post("", **request) for request in requests]

        return asyncio.run(main())

    return send


def request(text: str | list[str] = TEXT, traceparent: str = "", **headers: str) -> dict[str, Any]:
    return {"json": {"inputs": text}, "headers": {**({"traceparent": traceparent} if traceparent else {}), **headers}}


def test_the_steps_of_a_request_are_parts_of_its_span_and_that_is_a_part_of_the_callers(ask):
    with collecting() as (collector, url):
        [answer] = ask(TracesSettings(endpoint=f"{url}/", sample=0), request([TEXT, "two"], f"00-{TRACE}-{SPAN}-01"))
    assert answer.status_code == 200
    server = collector.named("POST /models/m")
    assert (server.trace, server.parent, server.of_server, server.failed) == (TRACE, SPAN, True, False)
    assert server.facts == {
        "http.request.method": "POST",
        "url.path": "/models/m/",
        "http.response.status_code": 200,
        "baton.model": "m",
        "baton.version": 1,
        "baton.inputs": 2,
    }
    assert server.resource["service.name"] == "baton"
    assert server.resource["service.instance.id"] == "r1"
    parts = [span for span in collector.spans if span is not server]
    assert sorted(part.name for part in parts) == ["decode", "forward", "queue", "tokenize"]
    assert {(part.trace, part.parent) for part in parts} == {(TRACE, server.id)}
    edges = [collector.named(name) for name in ("queue", "tokenize", "forward", "decode")]
    assert all(first.end == second.begin for first, second in itertools.pairwise(edges))
    assert server.begin <= edges[0].begin <= edges[-1].end <= server.end
    assert (edges[2].facts["baton.batch.inputs"], edges[2].facts["baton.passes"]) == (2, 1)
    assert TEXT not in str(collector.spans)


def test_a_long_request_has_as_many_passes_as_it_took(ask):
    with collecting() as (collector, url):
        texts = ["one two three four five"] * 30
        [answer] = ask(TracesSettings(endpoint=url, sample=1), request(texts), max_batch_tokens=64)
    assert answer.status_code == 200
    assert collector.named("forward").facts["baton.passes"] > 2


def test_callers_decide_for_their_requests_and_others_are_drawn(ask):
    with collecting() as (collector, url):
        asked = [
            request(),
            request("x", f"00-{TRACE}-{SPAN}-00"),
            request("x", "nonsense"),
            request("x", f"00-{TRACE}-{SPAN}-01"),
        ]
        ask(TracesSettings(endpoint=url, sample=0), *asked)
        assert [span.trace for span in collector.spans if span.of_server] == [TRACE]
        collector.spans.clear()
        ask(TracesSettings(endpoint=url, sample=1), *asked)
    traces = [span.trace for span in collector.spans if span.of_server]
    assert len(traces) == 3
    assert traces.count(TRACE) == 1
    assert all(span.parent == "" for span in collector.spans if span.of_server and span.trace != TRACE)


def test_what_is_refused_has_a_span_without_parts(ask):
    with collecting() as (collector, url):
        [answer] = ask(TracesSettings(endpoint=url, sample=1), request(""))
    [span] = collector.spans
    assert span.facts["http.response.status_code"] == answer.status_code == 422
    assert not span.failed, "it is the caller's fault"


def test_an_answer_from_the_cache_has_no_steps(ask):
    with collecting() as (collector, url):
        ask(TracesSettings(endpoint=url, sample=1), request(), request(), cache=10)
    assert [span.name for span in collector.spans].count("POST /models/m") == 2
    assert [span.name for span in collector.spans].count("forward") == 1


def test_a_collector_that_is_not_there_changes_no_answer_and_is_not_waited_for_long(ask, caplog):
    began = time.monotonic()
    [answer] = ask(TracesSettings(endpoint="http://127.0.0.1:9", sample=1), request())
    assert answer.status_code == 200
    assert time.monotonic() - began < 60
    assert "127.0.0.1:9" not in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
    ],
)
def test_a_malformed_header_is_like_none(header):
    assert caller_of(header) is None


def test_later_versions_of_the_header_are_read_as_far_as_they_are_known():
    caller = caller_of(f"cc-{TRACE}-{SPAN}-03-more")
    assert caller is not None
    assert (f"{caller.trace_id:032x}", f"{caller.span_id:016x}", caller.sampled) == (TRACE, SPAN, True)


def test_a_share_is_drawn_of_requests_that_begin_a_trace():
    with collecting() as (_, url):
        tracer = Tracer(TracesSettings(endpoint=url, sample=0.25), {})
        chosen = [tracer.choose("") for _ in range(4000)]
        tracer.close()
    assert set(chosen) == {None, NOBODY}
    assert 800 < len([one for one in chosen if one is NOBODY]) < 1200


def test_nothing_of_opentelemetry_is_loaded_unless_something_is_traced():
    code = (
        "import sys, services.tracing, services.replica.spans; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
