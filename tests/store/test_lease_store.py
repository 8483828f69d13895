"""Leases on real SQLite and real PostgreSQL: one holder at a time, by the clock of the database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from baton.store import lease_store
from baton.store.records import RunState
from baton.store.registry import Registry

LONG = 3600.0
"""Longer than any test."""

OVER = -1.0
"""A lease for this many seconds has ended when it is taken."""


@pytest.fixture
def url(either_url: str) -> str:
    """Every test here runs on both databases."""
    return either_url


def test_a_lease_has_one_holder_until_it_ends(registry):
    assert registry.leases.acquire(["x"], "a", LONG) == {"x"}
    assert registry.leases.acquire(["x"], "b", LONG) == set()
    assert registry.leases.acquire(["x"], "a", OVER) == {"x"}  # renewed, for a time that is over
    assert registry.leases.acquire(["x"], "b", LONG) == {"x"}
    assert registry.leases.acquire(["x"], "a", LONG) == set()


def test_one_call_takes_what_is_free_and_leaves_the_rest(registry):
    registry.leases.acquire(["x"], "a", LONG)
    registry.leases.acquire(["y"], "a", OVER)
    assert registry.leases.acquire(["z", "y", "x"], "b", LONG) == {"y", "z"}
    assert set(registry.leases.expiries(["x", "z", "unknown"])) == {"x", "z"}


def test_each_renewal_moves_the_end(registry):
    def end() -> datetime:
        return registry.leases.expiries(["x"])["x"]

    registry.leases.acquire(["x"], "a", LONG)
    first = end()
    registry.leases.acquire(["x"], "b", LONG)
    assert end() == first
    registry.leases.acquire(["x"], "a", 2 * LONG)
    assert end() - first > timedelta(seconds=LONG)


def test_a_released_lease_is_free_at_once_and_others_stay(registry):
    registry.leases.acquire(["x", "y"], "a", LONG)
    registry.leases.acquire(["z"], "b", LONG)
    registry.leases.release("a")
    assert registry.leases.acquire(["x", "y", "z"], "c", LONG) == {"x", "y"}


def test_a_lease_that_ended_long_ago_is_deleted(registry):
    registry.leases.acquire(["x"], "a", -lease_store.KEPT_SECONDS - 60)
    registry.leases.acquire(["y"], "a", OVER)
    registry.leases.acquire(["z"], "b", LONG)
    assert set(registry.leases.expiries(["x", "y", "z"])) == {"y", "z"}


def test_leases_end_by_the_clock_of_the_database(registry, url):
    """The clocks of two machines differ: no time of a client may be in a statement."""
    sent: list[Any] = []

    @sa.event.listens_for(registry._engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, _statement: str, parameters: Any, *_: object) -> None:
        sent.extend(parameters.values() if isinstance(parameters, dict) else parameters)

    registry.leases.acquire(["x"], "a", LONG)
    registry.leases.acquire(["x"], "b", LONG)
    assert sent
    assert [value for value in sent if isinstance(value, datetime)] == []
    left = registry.leases.expiries(["x"])["x"] - datetime.now(UTC)  # both databases run on this machine
    assert timedelta(seconds=LONG - 300) < left <= timedelta(seconds=LONG + 1)


def test_of_many_that_take_the_same_leases_at_once_exactly_one_gets_each(url):
    """They name them in different orders, and none may wait for another for ever."""
    registries = [Registry(url) for _ in range(8)]
    registries[0].migrate()
    barrier = threading.Barrier(len(registries), timeout=60)
    names = [f"lease {number}" for number in range(10)]

    def take(number: int) -> set[str]:
        barrier.wait()
        return registries[number].leases.acquire(names if number % 2 else names[::-1], f"owner {number}", LONG)

    with ThreadPoolExecutor(len(registries)) as pool:
        taken = list(pool.map(take, range(len(registries))))
    assert sorted(name for held in taken for name in held) == sorted(names)
    for registry in registries:
        registry.close()


def test_a_run_keeps_the_cluster_that_queued_it(registry):
    run = registry.runs.create("m", {}, "key", owner="a")
    assert registry.runs.create("m", {}, "key", owner="b") == run
    registry.runs.start(run.id)
    assert registry.runs.finish(run.id, RunState.SUCCEEDED).owner == "a"
    assert registry.runs.create("m", {}, started=True).owner is None
