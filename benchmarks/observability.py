"""What metrics and access logs cost: a model served with both, with metrics only, and twice with neither, in turn.

Two processes that run the same code differ for as long as they live, by a few percent. So all replicas are started anew several
times, and the second model with neither shows what difference is none.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import httpx
import psutil

from baton.config.file import load_config
from benchmarks import wrk
from benchmarks.service import MODEL, Service
from services.host import cluster, supervisor
from services.names import DEPLOYMENT, application, route

LOGGED, COUNTED, QUIET, AGAIN = "logged", "counted", "quiet", "again"
"""Serve's names for the model with metrics and Serve's access log, with metrics only, and with neither, twice."""

WAYS = {LOGGED: "both", COUNTED: "metrics", QUIET: "neither", AGAIN: "neither, again"}

CONCURRENCIES = (8, 64)
SECONDS, ROUNDS, STARTS = 3, 3, 6


class Cost(NamedTuple):
    """Requests a second, and CPU milliseconds of the replicas for one of them."""

    rate: float
    cpu_ms: float


def measure(service: Service) -> str:
    """One section of the results."""
    service.first_version()
    script = wrk.write_script(service.home / "observability.lua", service.texts())
    starts = [_one_start(service, script, list(WAYS)[:: 1 if start % 2 else -1]) for start in range(STARTS)]
    logs = load_config(service.file, os.environ).logging.format  # BATON_LOGGING_FORMAT=json measures the other one
    rows = [_row(concurrency, way, starts) for concurrency in CONCURRENCIES for way in WAYS]
    return (
        f"## Metrics and access logs ({logs})\n\n"
        "Two replicas with metrics and Serve's access log (`logging.requests: true`), two with metrics only, and twice two\n"
        f"with neither; `wrk -t1 -cN -d{SECONDS}s`, one text a request, in turn, forwards and backwards, {ROUNDS} rounds. All\n"
        f"replicas are started {STARTS} times. A ratio is to «neither» of the same round; a start has the median of its\n"
        "rounds; here are the medians and quartiles of the starts. What «neither, again» has is noise. CPU is the replicas'\n"
        "own, all threads, of one request: unlike the rate it hardly depends on what else runs on the machine.\n\n"
        "| concurrency | with | requests/s | ratio (quartiles) | CPU | ratio (quartiles) |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


Rounds = dict[tuple[int, str], list[Cost]]
"""By concurrency and way of `WAYS`: what each round cost."""


def _one_start(service: Service, script: Path, ways: Sequence[str]) -> Rounds:
    """Start the model in all ``ways`` in their order, and load each in turn."""
    seen: Rounds = {}
    with _beside(service, ways) as instance:
        for number in range(-1, ROUNDS):  # the first round warms up
            for concurrency in CONCURRENCIES:
                for way in ways[:: 1 if number % 2 else -1]:
                    cost = _cost(service, instance, script, concurrency, way)
                    if number >= 0:
                        seen.setdefault((concurrency, way), []).append(cost)
    return seen


def _row(concurrency: int, way: str, starts: Sequence[Rounds]) -> str:
    rates, times, rate_ratios, time_ratios = [], [], [], []
    for start in starts:
        pairs = list(zip(start[concurrency, way], start[concurrency, QUIET], strict=True))
        rates.append(statistics.median(one.rate for one, _ in pairs))
        times.append(statistics.median(one.cpu_ms for one, _ in pairs))
        rate_ratios.append(statistics.median(one.rate / other.rate for one, other in pairs))
        time_ratios.append(statistics.median(one.cpu_ms / other.cpu_ms for one, other in pairs))
    return (
        f"| {concurrency} | {WAYS[way]} | {statistics.median(rates):.0f} | {_quartiles(rate_ratios)} "
        f"| {statistics.median(times):.3f} ms | {_quartiles(time_ratios)} |"
    )


def _quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


@contextlib.contextmanager
def _beside(service: Service, ways: Sequence[str]) -> Iterator[cluster.Instance]:
    """The model in all ``ways`` of `WAYS` on the cluster of ``service``, while the block runs."""
    config = load_config(service.file, os.environ)
    instance = cluster.State(service.file.parent / ".baton").read()
    assert instance is not None
    settings = config.model(MODEL)
    # Before Ray is imported, which decides then which address is its own; and taken back, because `baton down` ends every
    # process that carries the marks of the cluster's own.
    with mock.patch.dict(os.environ, cluster.environment(instance)):
        from ray import cloudpickle, serve

        from benchmarks import quiet
        from services.app import serve_logging
        from services.replica.replica import ModelReplica

        cloudpickle.register_pickle_by_value(quiet)  # Ray's workers do not import from here
        supervisor.join(config, instance.address)
        arguments = settings.model_dump(mode="json"), config.database, config.storage
        try:
            for name in ways:
                replica = quiet.Quiet if name in (QUIET, AGAIN) else ModelReplica
                deployment = serve.deployment(
                    name=DEPLOYMENT,
                    num_replicas=settings.serving.replicas,
                    max_ongoing_requests=8192,
                    ray_actor_options={"num_cpus": 0},
                    logging_config={**serve_logging(config.logging), "enable_access_log": name == LOGGED},
                )(serve.ingress()(replica))
                serve.run(deployment.bind(*arguments), name=application(name), route_prefix=route(name))
                while httpx.get(f"{service.client.url}{route(name)}/health").status_code != 200:  # until the proxy knows it
                    time.sleep(0.1)
            yield instance
        finally:
            with ThreadPoolExecutor(len(ways)) as pool:  # each one drains for half a minute
                list(pool.map(serve.delete, map(application, ways)))
            supervisor.leave()


def _cost(service: Service, instance: cluster.Instance, script: Path, concurrency: int, way: str) -> Cost:
    title = f"ray::ServeReplica:{application(way)}:{DEPLOYMENT}"
    replicas = [process for process in cluster.processes(instance.id) if title in " ".join(process.cmdline())]
    assert len(replicas) == 2, (way, replicas)
    before = _cpu_seconds(replicas)
    load = wrk.load(script, f"{service.client.url}{route(way)}", concurrency, SECONDS)
    spent = _cpu_seconds(replicas) - before
    return Cost(rate=load.rate, cpu_ms=1000 * spent / load.requests)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
