"""Where HAProxy sends requests when a replica dies, or lives without a version."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from services.demo.traffic import Traffic, failed
from tests.cluster.conftest import TEXT, Service
from tests.support.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

WINDOW = 100
"""Requests that must be answered while everything is as the test wants it."""


@contextmanager
def out_of_reach(service: Service, model: str, version: int) -> Iterator[None]:
    """No replica can load ``version`` inside the ``with`` block; those that have it keep it."""
    directory = Path(service.registry.versions.get(model, version).uri)
    away = directory.rename(directory.with_name(f"{directory.name}.away"))
    try:
        yield
    finally:
        away.rename(directory)


def kill_a_replica(service: Service, model: str) -> int:
    victim: int = service.replicas(model)[0]["pid"]
    [process] = [process for process in service.processes(f"ServeReplica:model-{model}") if process.pid == victim]
    process.kill()
    return victim


def versions(service: Service, model: str, *, without: int) -> set[int | None]:
    """What the replicas of a model serve, once the process ``without`` is replaced; empty until then."""
    states = service.replicas(model)
    complete = len(states) == service.settings(model).serving.replicas and without not in [state["pid"] for state in states]
    return {state["version"] for state in states} if complete else set()


def servers(service: Service, model: str) -> list[str]:
    """What HAProxy thinks of the replicas of a model, Serve's own proxy left out: UP or DOWN."""
    statistics = httpx.get(f"http://127.0.0.1:{service.instance.ports['haproxy_stats']}/stats;csv").text.removeprefix("# ")
    rows = [row for row in csv.DictReader(statistics.splitlines()) if row["pxname"] == f"http-model-{model}"]
    return sorted(row["status"] for row in rows if row["svname"] != "BACKEND" and row["bck"] != "1")


def test_a_dead_replica_and_one_that_returns_without_a_version_cost_no_prediction(steady: Service) -> None:
    steady.force("steady", 2)
    steady.await_replicas("steady", 2)
    with Traffic(f"{steady.url}/models/steady", [TEXT], concurrency=8) as traffic, out_of_reach(steady, "steady", 2):
        until(lambda: len(traffic.exchanges) > WINDOW, 60, "the traffic flows")
        victim = kill_a_replica(steady, "steady")
        until(lambda: versions(steady, "steady", without=victim) == {2, None}, 60, "a replica without a version")
        until(lambda: servers(steady, "steady") == ["DOWN", "UP"], 60, "HAProxy leaves it out")
        seen = len(traffic.exchanges)
        until(lambda: len(traffic.exchanges) > seen + WINDOW, 60, "the other one serves")
    assert failed(traffic.exchanges) == 0
    steady.await_replicas("steady", 2)
    until(lambda: servers(steady, "steady") == ["UP", "UP"], 60, "HAProxy uses both again")


def test_a_lone_replica_without_a_version_says_why(runs: Service) -> None:
    champion = runs.registry.champion("runs").version
    assert champion is not None
    runs.await_replicas("runs", champion)
    with out_of_reach(runs, "runs", champion):
        victim = kill_a_replica(runs, "runs")
        until(lambda: versions(runs, "runs", without=victim) == {None}, 60, "a replica without a version")
        until(lambda: servers(runs, "runs") == ["DOWN"], 60, "HAProxy notices")
        answer = runs.predict("runs")
        assert answer.status_code == 503
        assert "has no baton.json" in answer.json()["error"]
    runs.await_replicas("runs", champion)
    assert runs.predict("runs").status_code == 200
