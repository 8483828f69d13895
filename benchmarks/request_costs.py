"""Measure what a request pays for the check of its API key, for metrics and for traces, in this process, without HTTP and Ray.

``python -m benchmarks.request_costs`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from baton.config.traces_settings import TracesSettings
from baton.keys import Scope
from baton.store.registry import Registry
from benchmarks.__main__ import RESULTS, head_of, write
from services.keyring import Keyring
from services.replica.batching import Prediction, Steps
from services.replica.response import Response
from services.replica.spans import RequestSpan
from services.replica.telemetry import Telemetry
from services.tracing import Tracer

KEYS = 200
"""Number of other keys in the registry."""

CALLS, REPEATS = 20_000, 7

TRACED = 400
"""Requests that are traced, all of them: their 2,000 spans are fewer than the queue holds, so that none is lost."""

COLLECTOR = """
import http.server
class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_costs", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
        section = measure(Path(home))
    write(arguments.out, section, head_of("benchmarks.request_costs", "", model=None))
    print(section)


def measure(home: Path) -> str:
    """Measure, and return a section of the results."""
    registry = Registry(f"sqlite:///{home}/baton.db")
    registry.migrate()
    registry.declare_model("m")
    for number in range(KEYS):
        registry.keys.create(f"other {number}", [Scope.PREDICT])
    _, token = registry.keys.create("mine", [Scope.PREDICT], models=["m"], rate=1e6)
    keyring = Keyring(registry.keys, required=True)
    keyring.refresh()
    header = f"Bearer {token}".encode()
    telemetry = Telemetry("m", "r", exported=False)
    prediction = Prediction(outputs=[], version=1, queue_ms=0.1, inference_ms=2.0)
    rows = {
        f"check of its API key (one of {KEYS + 1}, with a rate)": _microseconds(
            lambda: keyring.admit(header, Scope.PREDICT, "m")
        ),
        "being counted: requests by status, three histograms": _microseconds(
            lambda: telemetry.count_prediction(prediction, 0.003)
        ),
    }
    rows |= _traces()
    registry.close()
    lines = "\n".join(f"| {what} | {took:.1f} µs |" for what, took in rows.items())
    return (
        "## What a request pays\n\n"
        f"One call, without HTTP and Ray; the best of {REPEATS} times {CALLS:,} calls. Traces: processor time of the process,\n"
        f"with the thread that sends to a collector.\n\n| for | time |\n|---|---|\n{lines}\n"
    )


def _traces() -> dict[str, float]:
    """Return what traces cost: processor time of the whole process, with the thread that sends to a collector."""
    with subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout is not None
        url = f"http://127.0.0.1:{collector.stdout.readline().strip()}"
        found = {}
        for sample in (0.0, 0.01, 1.0):
            tracer = Tracer(TracesSettings(endpoint=url, sample=sample), {})
            calls = TRACED if sample == 1 else CALLS * REPEATS
            began = time.process_time()
            for _ in range(calls):
                _request(tracer)
            tracer.close()
            found[f"traces, {sample:.0%} of the requests"] = 1e6 * (time.process_time() - began) / calls
        collector.terminate()
    return found


def _request(tracer: Tracer) -> None:
    """What a replica does for the trace of a request."""
    caller = tracer.choose("")
    if caller is not None:
        now = time.perf_counter()
        span = RequestSpan(tracer, caller, model="m", method="POST", path="/models/m")
        steps = Steps(queued_at=now, started_at=now, ended_at=(now, now, now), inputs=1)
        span.prediction = Prediction(outputs=[None], version=1, queue_ms=0.1, inference_ms=2.0, steps=steps)
        span.end(Response(version=1, body=b""))


def _microseconds(call: Callable[[], object]) -> float:
    return 1e6 * min(timeit.repeat(call, number=CALLS, repeat=REPEATS)) / CALLS


if __name__ == "__main__":
    main()
