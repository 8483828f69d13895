"""The background loops: none waits for what another one waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from baton.errors import NotReady
from baton.store.records import RunState
from services.control.jobs import Jobs
from services.control.silence import Silence
from tests.support.local_control import LocalControl, configured, control_of, decide, loops_of, publish


@pytest.fixture
def control(tmp_path: Path) -> Iterator[LocalControl]:
    """Model m: v1 serves, v2 is better and waits for its roll-out, and a run is active."""
    control = control_of(configured(tmp_path, "m"))
    publish(control.registry, "m", 60)
    control.registry.promote(decide(control.registry, "m", 1), control.registry.champion("m"))
    run = control.registry.runs.create("m", {}, started=True)
    publish(control.registry, "m", 90, run.id)
    control.registry.runs.finish(run.id, RunState.SUCCEEDED, version=2)
    decide(control.registry, "m", 2, of_run=True)
    control.registry.runs.create("m", {}, started=True, owner=control.ownership.cluster)
    yield control
    control.registry.close()


def test_a_job_server_that_never_answers_stops_no_roll_out(control, monkeypatch):
    """Both used to share a loop (review M8)."""
    asked, release = threading.Event(), threading.Event()

    def hang(run: object) -> None:
        asked.set()
        release.wait(60)

    monkeypatch.setattr(control.jobs, "look_after", hang)
    loops = loops_of(control)

    async def roll_out_meanwhile() -> None:
        running = asyncio.create_task(loops.run())
        while control.registry.champion("m").version != 2:  # noqa: ASYNC110  another process might move it
            await asyncio.sleep(0.05)
        release.set()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(roll_out_meanwhile(), 60))
    assert asked.is_set()


class Versions(BaseHTTPRequestHandler):
    """Answers like Ray's job server to a client that asks for its version."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"}')

    def log_message(self, *_: object) -> None: ...


def test_a_job_server_that_went_away_is_an_outage_and_no_bug(control):
    """Its client raises errors of requests, which are no ConnectionError: the API answered 500 (review M8)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Versions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    jobs = Jobs(control.registry, control.jobs._storage, {}, control.ownership, Silence())
    jobs._client = JobSubmissionClient(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    [run] = control.registry.runs.list("m", active=True, limit=1)
    with pytest.raises(NotReady, match="Ray's job server does not answer"):
        jobs.look_after(run)
    with pytest.raises(NotReady, match="does not answer"):
        jobs._submit("job", "run", run.id)
