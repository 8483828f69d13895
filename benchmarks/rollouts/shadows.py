"""Measure what a shadow costs the callers: the same load without and with one, in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rollouts import versions
from benchmarks.rollouts.callers import Answer, Callers
from benchmarks.rollouts.canaries import register
from benchmarks.service import MODEL, Service, holdout_of, read_rows

PERCENT = 20.0
CALLERS = 4
ROUNDS, SECONDS = 3, 15.0
"""How often the load is measured without and with a shadow, and for how long each time."""


@dataclass(frozen=True, kw_only=True)
class Shadows:
    """What callers saw, without and with a shadow."""

    without: Sequence[Answer]
    beside: Sequence[Answer]
    compared: int
    """Copies of requests that the shadow answered, in all rounds."""
    skipped: int
    """Copies that were dropped."""
    failed: int


def measure(service: Service, home: Path) -> Shadows:
    """Serve a version, and let another one run in its shadow in every second phase."""
    champion = service.trained()
    good = Path(service.client.get(f"/api/models/{MODEL}/versions/{champion}")["uri"].removeprefix("file://"))
    other = register(service, versions.wrong(good, home / "other"))
    path = f"/api/models/{MODEL}/rollout"
    without: list[Answer] = []
    beside: list[Answer] = []
    compared = skipped = 0
    with Callers(service.client.url, read_rows(holdout_of(service.data)), CALLERS) as callers:
        time.sleep(5.0)
        for _ in range(ROUNDS):
            without += _phase(callers)
            service.client.post(path, {"version": other, "mode": "shadow", "percent": PERCENT, "minutes": None})
            while (now := service.client.get(path))["state"] != "shadow":
                time.sleep(0.1)
            beside += _phase(callers)
            now = service.client.get(path)
            compared += now["measured"]["compared"]
            skipped += now["measured"]["skipped"]
            service.client.delete(path, {"reason": "the next round"})
    failed = sum(answer.status != 200 for answer in callers.answers)
    return Shadows(without=without, beside=beside, compared=compared, skipped=skipped, failed=failed)


def _phase(callers: Callers) -> list[Answer]:
    began = time.monotonic()
    time.sleep(SECONDS)
    ended = time.monotonic()
    return [answer for answer in callers.answers if began <= answer.sent < ended]


def latencies_ms(answers: Sequence[Answer]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    p50, p99 = np.quantile([answer.seconds for answer in answers], (0.5, 0.99)) * 1000
    return float(p50), float(p99)
