"""From the 200th correction to the new version answering requests, for each way to tune."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.online.scene import Scene
from benchmarks.service import MODEL, Running

CORRECTIONS = 200
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Seconds from the answer to the last correction until the new version answered, of that in training; F1 before, after."""

    tune: str
    seconds: float
    training: float
    f1_before: float
    f1_after: float


def measure(scene: Scene, home: Path, tune: str) -> Delay:
    """One champion, 200 corrections, one new version. Any gain lets it take over: what is measured is the time, and so few
    corrections seldom show a gain for sure.
    """
    with Running(home, {**scene.model(tune, CORRECTIONS), "gate": {"min_f1": 0.1, "confidence": 0.5}}) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        items = [{"id": str(number), **row} for number, row in enumerate(scene.stream[:CORRECTIONS])]
        service.client.post(f"/api/models/{MODEL}/feedback", items)
        began = time.perf_counter()
        version = run["version"]
        while version == run["version"]:
            newest = service.newest_run()
            verdict = (newest.get("decision") or {}).get("verdict", "promote")
            if newest["state"] in ("failed", "cancelled") or verdict != "promote":
                raise RuntimeError(f"no new version takes over: {newest}")
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise RuntimeError(f"no new version answered within {PATIENCE_SECONDS:.0f} s: {newest}")
            time.sleep(0.1)
            answer = httpx.post(service.url, json={"inputs": scene.test[0]["text"]}, timeout=30)
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
