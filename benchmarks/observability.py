"""What metrics and access logs cost: a model served with them and, beside it on the same cluster, without, in turn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from baton.config import load_config
from benchmarks.service import MODEL, Service
from services import cluster, inference, supervisor
from services.inference import ModelReplica
from services.names import DEPLOYMENT, application, route
from services.telemetry import Telemetry

QUIET = "quiet"
"""Serve's name for the model without metrics and access log; it is the same model."""

CONCURRENCIES = (8, 64)
SECONDS, ROUNDS = 5, 8
LUA = """
local texts = {%s}
local count = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  count = count + 1
  return wrk.format(nil, nil, nil, texts[count %% #texts + 1])
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %%f %%d %%d\\n", summary.requests / summary.duration * 1e6, summary.requests,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


class Load(NamedTuple):
    """Requests a second, and CPU milliseconds of the replicas for one of them."""

    rate: float
    cpu_ms: float


class Silent(Telemetry):
    """Counts nothing and tells nobody."""

    def answered(self, *_: Any) -> None: ...

    def failed(self, *_: Any) -> None: ...

    def ran(self, *_: Any) -> None: ...

    def start(self, *_: Any) -> None: ...


class Quiet(ModelReplica):
    """The replica without its metrics."""

    def __init__(self, *arguments: Any) -> None:
        inference.Telemetry = Silent  # type: ignore[attr-defined]  # in this replica's process only
        super().__init__(*arguments)


def measure(service: Service, rounds: int = ROUNDS) -> str:
    """One section of the results."""
    service.first_version()
    bodies = [json.dumps({"inputs": text, "parameters": {"top_k": 5}}) for text in service.texts()]
    script = service.home / "observability.lua"
    script.write_text(LUA % ", ".join(f"[==[{body}]==]" for body in bodies))
    seen: dict[tuple[int, str], list[Load]] = {}
    with _beside(service) as instance:
        for number in range(-1, rounds):  # the first round warms up
            for concurrency in CONCURRENCIES:
                ways = (MODEL, QUIET) if number % 2 else (QUIET, MODEL)
                for way in ways:
                    load = _load(service, instance, script, concurrency, way)
                    if number >= 0:
                        seen.setdefault((concurrency, way), []).append(load)
    rows = [_row(concurrency, seen[concurrency, MODEL], seen[concurrency, QUIET]) for concurrency in CONCURRENCIES]
    return (
        "## Metrics and access logs\n\n"
        f"Two replicas with metrics and access log and two without, on one cluster; `wrk -t1 -cN -d{SECONDS}s`, one text a\n"
        f"request, both in turn, who begins alternating; medians of {rounds} rounds. Ratios, with / without, are of the two\n"
        "loads of one round. CPU is the replicas' own, all threads, of one request: unlike the rate it hardly depends on what\n"
        "else runs on the machine.\n\n"
        "| concurrency | requests/s with | without | ratio (quartiles) | CPU with | without | ratio (quartiles) |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _row(concurrency: int, with_them: list[Load], without: list[Load]) -> str:
    pairs = list(zip(with_them, without, strict=True))
    rate = _quartiles([one.rate / other.rate for one, other in pairs])
    cpu = _quartiles([one.cpu_ms / other.cpu_ms for one, other in pairs])
    rates = [f"{statistics.median(load.rate for load in loads):.0f}" for loads in (with_them, without)]
    times = [f"{statistics.median(load.cpu_ms for load in loads):.3f} ms" for loads in (with_them, without)]
    return f"| {concurrency} | {rates[0]} | {rates[1]} | {rate} | {times[0]} | {times[1]} | {cpu} |"


def _quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


@contextlib.contextmanager
def _beside(service: Service) -> Iterator[cluster.Instance]:
    """The quiet replicas on the cluster of ``service``, while the block runs."""
    from ray import cloudpickle, serve

    config = load_config(service.file, {})
    instance = cluster.State(service.file.parent / ".baton").read()
    assert instance is not None
    settings = config.model(MODEL)
    os.environ.update(cluster.environment(instance))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not import from here
    supervisor.join(config, instance.address)
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=settings.serving.replicas,
        max_ongoing_requests=8192,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )(serve.ingress()(Quiet))
    try:
        bound = deployment.bind(settings.model_dump(mode="json"), config.database, config.storage)
        serve.run(bound, name=application(QUIET), route_prefix=route(QUIET))
        url = f"{service.client.url}{route(QUIET)}/health"
        while httpx.get(url).status_code != 200:  # until the proxy knows it
            time.sleep(0.1)
        yield instance
    finally:
        serve.delete(application(QUIET))
        supervisor.leave()


def _load(service: Service, instance: cluster.Instance, script: Path, concurrency: int, way: str) -> Load:
    title = f"ray::ServeReplica:{application(way)}:{DEPLOYMENT}"
    replicas = [process for process in cluster.processes(instance.id) if title in " ".join(process.cmdline())]
    assert len(replicas) == 2, (way, replicas)
    url = f"{service.client.url}{route(way)}"
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{SECONDS}s", "--timeout", "30s", "-s", str(script), url]
    before = _cpu_seconds(replicas)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    spent = _cpu_seconds(replicas) - before
    found = re.search(r"RESULT (\S+) (\d+) (\d+)", done.stdout)
    if found is None or int(found[3]):
        raise RuntimeError(f"wrk reports errors:\n{done.stdout}")
    return Load(rate=float(found[1]), cpu_ms=1000 * spent / int(found[2]))


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
