"""Measure how long a bad version stays on canary, how many requests it gets, and what its callers notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rollouts import versions
from benchmarks.rollouts.callers import Answer, Callers
from benchmarks.service import MODEL, Service, holdout_of, read_rows

PERCENT = 10.0
CALLERS = 8
CORRECTED = 0.3
"""Share of the answers that callers correct while the wrong version is on trial."""

SPOILT_SHARE = 0.2
"""Share of the requests on which the failing version fails."""

STEADY_SECONDS = 20.0
"""How long the champion is measured alone before a canary begins, and after it."""

AT_MOST_SECONDS = 300.0
"""A canary that is not rolled back by then is given up: the benchmark fails."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """How one bad version fared."""

    name: str
    seconds: float
    """From the first request that it could get to the end of the canary."""
    requests: int
    """All requests in this time."""
    answered: int
    """Those that the bad version answered."""
    instead: int
    """Those that the champion answered instead of it."""
    failed: int
    """Requests without an answer 200, from the start of the load to its end."""
    p99_ms: float
    """Of all requests while the canary ran."""
    p99_before_ms: float
    reason: str


def measure(service: Service, home: Path) -> list[Canary]:
    """Register each bad version, and put it on canary under load, until Baton takes it back."""
    champion = service.trained()
    good = Path(service.client.get(f"/api/models/{MODEL}/versions/{champion}")["uri"].removeprefix("file://"))
    rows = read_rows(holdout_of(service.data))
    spoilt = [{**row, "text": f"{versions.SPOILT} {row['text']}"} for row in rows[: round(SPOILT_SHARE * len(rows))]]
    cases: Mapping[str, tuple[Callable[[Path, Path], Path], Sequence[Mapping[str, Any]], float]] = {
        f"no numbers for {SPOILT_SHARE:.0%} of the texts": (versions.failing, [*spoilt, *rows[len(spoilt) :]], 0.0),
        "ten times the layers": (versions.slow, rows, 0.0),
        f"half of the labels wrong, {CORRECTED:.0%} of the answers corrected": (versions.wrong, rows, CORRECTED),
    }
    found = []
    for number, (name, (make, sent, corrected)) in enumerate(cases.items()):
        version = register(service, make(good, home / f"bad-{number}"))
        with Callers(service.client.url, sent, CALLERS, corrected=corrected) as callers:
            time.sleep(STEADY_SECONDS)
            began = time.monotonic()
            service.client.post(
                f"/api/models/{MODEL}/rollout", {"version": version, "mode": "canary", "percent": PERCENT, "minutes": None}
            )
            while service.client.get(f"/api/models/{MODEL}")["rollout"] is not None:
                if time.monotonic() - began > AT_MOST_SECONDS:
                    raise RuntimeError(f"{name}: v{version} was not taken back in {AT_MOST_SECONDS:.0f} s")
                time.sleep(0.1)
            ended = time.monotonic()
            time.sleep(STEADY_SECONDS)
        rollout = service.client.get(f"/api/models/{MODEL}/rollout")
        measured = rollout["measured"]
        during = [answer for answer in callers.answers if began <= answer.sent < ended]
        found.append(
            Canary(
                name=name,
                seconds=ended - began,
                requests=len(during),
                answered=sum(answer.version == version for answer in callers.answers),
                instead=measured["errors"] + measured["late"],
                failed=sum(answer.status != 200 for answer in callers.answers),
                p99_ms=_p99(during),
                p99_before_ms=_p99([answer for answer in callers.answers if answer.sent < began]),
                reason=rollout["reason"],
            )
        )
    return found


def register(service: Service, directory: Path) -> int:
    """Register a directory, whatever the gate says of it, and return its number as a version."""
    run = service.client.post(f"/api/models/{MODEL}/versions", {"source": str(directory)})
    while run["state"] in ("queued", "running"):
        time.sleep(1.0)
        run = service.client.get(f"/api/runs/{run['id']}")
    if run["version"] is None:
        raise RuntimeError(f"{directory} was not registered: {run['reason']}")
    number: int = run["version"]
    return number


def _p99(answers: Sequence[Answer]) -> float:
    return float(np.quantile([answer.seconds for answer in answers], 0.99)) * 1000
