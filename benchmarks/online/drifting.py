"""Drift alarms: none in clean traffic, one soon after the domain changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.online.scene import SEED, Scene
from benchmarks.service import MODEL, Running

CLEAN = 5000
OTHER = 500
LOOK_EVERY = 25
"""Requests, of one text each."""


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """``clean``: looks at which an alarm stood, of ``looks``, while texts like the holdout's were answered. ``after``: requests
    with texts of the other domain until the first alarm (None: none), and the ``features`` that raised it.
    """

    looks: int
    clean: int
    after: int | None
    features: Sequence[str]


def measure(scene: Scene, home: Path, strangers: Sequence[str]) -> Alarms:
    """``strangers``: texts of another domain."""
    known = [row["text"] for row in scene.stream if row["label"] in scene.first]
    random.Random(SEED).shuffle(known)
    model = scene.model("full", 10**6)
    with Running(home, {**model, "retrain": {"on_drift": True}}) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        looks = [_look(service, known, start) for start in range(0, CLEAN, LOOK_EVERY)]
        after, features = None, []
        for start in range(0, OTHER, LOOK_EVERY):
            features = _look(service, strangers, start)
            if features:
                after = start + LOOK_EVERY
                break
    return Alarms(looks=len(looks), clean=sum(map(bool, looks)), after=after, features=features)


def _look(service: Running, texts: Sequence[str], start: int) -> list[str]:
    """Have the next texts answered, and look which features have drifted. The log is a second behind."""
    with httpx.Client(timeout=30) as client:
        for place in range(start, start + LOOK_EVERY):
            client.post(service.url, json={"inputs": texts[place % len(texts)]}).raise_for_status()
    state = service.client.get(f"/api/models/{MODEL}/retrain")
    return [drift["feature"] for drift in state["drift"] if drift["drifted"]]
