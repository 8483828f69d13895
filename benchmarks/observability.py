"""Measure the cost of metrics and access logs: a model served with both, with metrics only, and twice with neither, in turn.

Two processes that run the same code differ by a few percent for as long as they live. Therefore all replicas are started
several times, and the second model without both shows how large a difference is noise.
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
from services.host import cluster, processes, serve_driver
from services.host.instance import Instance, StateDirectory
from services.names import DEPLOYMENT, application, route

LOGGED, COUNTED, WITHOUT, WITHOUT_AGAIN = "logged", "counted", "quiet", "again"
"""Names of the Serve applications: metrics and access log, metrics only, and twice neither."""

VARIANTS = {LOGGED: "both", COUNTED: "metrics", WITHOUT: "neither", WITHOUT_AGAIN: "neither, again"}

CONCURRENCIES = (8, 64)
SECONDS, ROUNDS, STARTS = 3, 3, 6


class Cost(NamedTuple):
    """The cost of one measurement."""

    rate: float
    """Requests per second."""
    cpu_ms: float
    """CPU milliseconds of the replicas per request."""


def measure(service: Service) -> str:
    """Measure, and return a section of the results."""
    service.first_version()
    script = wrk.write_script(service.home / "observability.lua", service.texts())
    starts = [_one_start(service, script, list(VARIANTS)[:: 1 if start % 2 else -1]) for start in range(STARTS)]
    logs = load_config(service.file, os.environ).logging.format  # BATON_LOGGING_FORMAT=json measures the other one
    rows = [_row(concurrency, variant, starts) for concurrency in CONCURRENCIES for variant in VARIANTS]
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
"""The cost of each round, by concurrency and variant."""


def _one_start(service: Service, script: Path, variants: Sequence[str]) -> Rounds:
    """Start the model in all ``variants``, in their order, and send load to each in turn."""
    seen: Rounds = {}
    with _served(service, variants) as instance:
        for number in range(-1, ROUNDS):  # the first round warms up
            for concurrency in CONCURRENCIES:
                for variant in variants[:: 1 if number % 2 else -1]:
                    cost = _cost(service, instance, script, concurrency, variant)
                    if number >= 0:
                        seen.setdefault((concurrency, variant), []).append(cost)
    return seen


def _row(concurrency: int, variant: str, starts: Sequence[Rounds]) -> str:
    rates, times, rate_ratios, time_ratios = [], [], [], []
    for start in starts:
        pairs = list(zip(start[concurrency, variant], start[concurrency, WITHOUT], strict=True))
        rates.append(statistics.median(one.rate for one, _ in pairs))
        times.append(statistics.median(one.cpu_ms for one, _ in pairs))
        rate_ratios.append(statistics.median(one.rate / other.rate for one, other in pairs))
        time_ratios.append(statistics.median(one.cpu_ms / other.cpu_ms for one, other in pairs))
    return (
        f"| {concurrency} | {VARIANTS[variant]} | {statistics.median(rates):.0f} | {_quartiles(rate_ratios)} "
        f"| {statistics.median(times):.3f} ms | {_quartiles(time_ratios)} |"
    )


def _quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


@contextlib.contextmanager
def _served(service: Service, variants: Sequence[str]) -> Iterator[Instance]:
    """Serve the model in all ``variants`` on the cluster of ``service`` while the block runs."""
    config = load_config(service.file, os.environ)
    instance = StateDirectory(service.file.parent / ".baton").read()
    assert instance is not None
    settings = config.model(MODEL)
    # Set before Ray is imported, because Ray chooses its own address then. Restored afterwards, because `baton down` stops
    # every process whose environment has the mark of the cluster.
    with mock.patch.dict(os.environ, cluster.environment(instance)):
        from ray import cloudpickle, serve

        from benchmarks import replica_without_metrics
        from services.app import serve_logging
        from services.replica.replica import ModelReplica

        cloudpickle.register_pickle_by_value(replica_without_metrics)  # Ray's workers cannot import it
        serve_driver.join(config, instance.address)
        arguments = settings.model_dump(mode="json"), config.database, config.storage
        try:
            for name in variants:
                replica = replica_without_metrics.ReplicaWithoutMetrics if name in (WITHOUT, WITHOUT_AGAIN) else ModelReplica
                deployment = serve.deployment(
                    name=DEPLOYMENT,
                    num_replicas=settings.serving.replicas,
                    max_ongoing_requests=8192,
                    ray_actor_options={"num_cpus": 0},
                    logging_config={**serve_logging(config.logging), "enable_access_log": name == LOGGED},
                )(serve.ingress()(replica))
                serve.run(deployment.bind(*arguments), name=application(name), route_prefix=route(name))
                while (
                    httpx.get(f"{service.client.url}{route(name)}/health").status_code != 200
                ):  # until the proxy knows the route
                    time.sleep(0.1)
            yield instance
        finally:
            with ThreadPoolExecutor(len(variants)) as pool:  # each drains for half a minute
                list(pool.map(serve.delete, map(application, variants)))
            serve_driver.leave()


def _cost(service: Service, instance: Instance, script: Path, concurrency: int, variant: str) -> Cost:
    title = f"ray::ServeReplica:{application(variant)}:{DEPLOYMENT}"
    replicas = [process for process in processes.find(instance.id) if title in " ".join(process.cmdline())]
    assert len(replicas) == 2, (variant, replicas)
    before = _cpu_seconds(replicas)
    load = wrk.load(script, f"{service.client.url}{route(variant)}", concurrency, SECONDS)
    spent = _cpu_seconds(replicas) - before
    return Cost(rate=load.rate, cpu_ms=1000 * spent / load.requests)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
