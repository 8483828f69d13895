"""Measure the time from the 200th correction to the first answer of the new version, for each value of ``training.tune``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.online.scenario import Scenario
from benchmarks.service import MODEL, OneModelService

CORRECTIONS = 200
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Delay:
    """The measurement for one value of ``training.tune``."""

    tune: str
    seconds: float
    """Seconds from the answer to the last correction until the new version answered a request."""
    training: float
    """Seconds of them in the stage training."""
    f1_before: float
    """Holdout F1 of the first version."""
    f1_after: float
    """Holdout F1 of the new version."""


def measure(scenario: Scenario, home: Path, tune: str) -> Delay:
    """Train a champion, send 200 corrections, and wait until a new version answers.

    Any gain is enough for the gate, because only the time is measured, and so few corrections seldom give a significant gain.
    """
    with OneModelService(home, {**scenario.model(tune, CORRECTIONS), "gate": {"min_f1": 0.1, "confidence": 0.5}}) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        items = [{"id": str(number), **row} for number, row in enumerate(scenario.stream[:CORRECTIONS])]
        service.client.post(f"/api/models/{MODEL}/feedback", items)
        began = time.perf_counter()
        version = run["version"]
        while version == run["version"]:
            newest = service.newest_run()
            verdict = (newest.get("decision") or {}).get("verdict", "promote")
            if newest["state"] in ("failed", "cancelled") or verdict != "promote":
                raise RuntimeError(f"no new version takes over: {newest}")
            if time.perf_counter() - began > TIMEOUT_SECONDS:
                raise RuntimeError(f"no new version answered within {TIMEOUT_SECONDS:.0f} s: {newest}")
            time.sleep(0.1)
            answer = httpx.post(service.url, json={"inputs": scenario.test[0]["text"]}, timeout=30)
            version = int(answer.raise_for_status().headers["x-model-version"])
        seconds = time.perf_counter() - began
        decision = service.newest_run()["decision"]
        lineage = service.client.get(f"/api/models/{MODEL}/versions/{version}")["lineage"]
    return Delay(
        tune=tune,
        seconds=seconds,
        training=lineage["seconds"]["training"],
        f1_before=decision["numbers"]["champion_f1"],
        f1_after=decision["numbers"]["f1"],
    )
