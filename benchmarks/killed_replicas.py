"""Measure what killed replicas cost: one of two is killed (SIGKILL) under load, ten times."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.service import MODEL, Service
from services.demo.traffic import Exchange, Traffic, failed, latency_ms

CONCURRENCY = 8
STEADY_SECONDS = 15.0
KILLS = 10


def measure(service: Service) -> str:
    """Measure, and return a section of the results."""
    version = service.first_version()
    kills = []
    with Traffic(service.url, service.texts(), CONCURRENCY) as traffic:
        time.sleep(3.0)
        began = time.perf_counter()
        time.sleep(STEADY_SECONDS)
        steady_until = time.perf_counter()
        for _ in range(KILLS):
            victim = _serving(service, version)[0]["pid"]
            killed = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            while victim in [state["pid"] for state in _serving(service, version)]:
                time.sleep(0.1)
            kills.append((killed, time.perf_counter()))
            time.sleep(3.0)
    everything = traffic.exchanges
    steady = [it for it in everything if it.sent > began and it.answered < steady_until]
    during = [it for it in everything if any(it.answered > killed and it.sent < back for killed, back in kills)]
    backs = [back - killed for killed, back in kills]
    return (
        "## Replicas killed under load\n\n"
        f"2 replicas, {CONCURRENCY} clients without a pause; one replica is killed (SIGKILL) with its requests in flight,\n"
        f"{KILLS} times, each time once both serve again.\n\n"
        "| | requests | failed | p50 | p99 | slowest |\n|---|---|---|---|---|---|\n"
        f"{_row(f'steady ({STEADY_SECONDS:.0f} s)', steady)}\n{_row('from a kill until two replicas serve', during)}\n\n"
        f"All requests of the run: {len(everything):,}, failed: {failed(everything)}{_failures(everything, kills)}.\n"
        f"Two replicas served again after {min(backs):.1f} to {max(backs):.1f} s.\n"
    )


def _failures(exchanges: list[Exchange], kills: Sequence[tuple[float, float]]) -> str:
    """Return, for each failed request, its status (0: no answer) and when it was sent and ended after the last kill."""
    told = []
    for it in exchanges:
        if it.status != 200:
            last = max((killed for killed, _ in kills if killed <= it.answered), default=it.sent)
            told.append(
                f"status {it.status}, sent at {it.sent - last:+.3f} s from a kill, ended at {it.answered - last:+.3f} s"
            )
    return f" ({'; '.join(told)})" if told else ""


def _serving(service: Service, version: int) -> list[dict[str, Any]]:
    """Return the states of both replicas, once both serve ``version``."""
    while True:
        states: list[dict[str, Any]] = service.client.get(f"/api/models/{MODEL}")["replicas"]
        if [state["version"] for state in states] == [version, version]:
            return states
        time.sleep(0.1)


def _row(name: str, exchanges: list[Exchange]) -> str:
    p50, p99 = latency_ms(exchanges, 0.5), latency_ms(exchanges, 0.99)
    slowest = latency_ms(exchanges, 1.0)
    return f"| {name} | {len(exchanges):,} | {failed(exchanges)} | {p50:.1f} ms | {p99:.1f} ms | {slowest:.0f} ms |"
