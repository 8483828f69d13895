"""Measure drift alarms: false alarms in traffic like the holdout, and the delay of an alarm after the domain changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.online.scenario import SEED, Scenario
from benchmarks.service import MODEL, OneModelService

CLEAN = 5000
"""Requests with texts like the holdout's. Each request has one text."""

OTHER = 500
"""Maximum number of requests with texts of another domain."""

CHECK_EVERY = 25
"""Requests between two checks for an alarm."""


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """The result of the benchmark."""

    checks: int
    """Checks during traffic like the holdout."""
    false_alarms: int
    """How many of them found an alarm."""
    after: int | None
    """Requests with texts of the other domain until the first alarm; None without an alarm."""
    features: Sequence[str]
    """The features that raised it."""


def measure(scenario: Scenario, home: Path, strangers: Sequence[str]) -> Alarms:
    """Send traffic like the holdout, then ``strangers``, texts of another domain, until a feature drifts."""
    known = [row["text"] for row in scenario.stream if row["label"] in scenario.first]
    random.Random(SEED).shuffle(known)
    model = scenario.model("full", 10**6)
    with OneModelService(home, {**model, "retrain": {"on_drift": True}}) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        checks = [_drifted_features(service, known, start) for start in range(0, CLEAN, CHECK_EVERY)]
        after, features = None, []
        for start in range(0, OTHER, CHECK_EVERY):
            features = _drifted_features(service, strangers, start)
            if features:
                after = start + CHECK_EVERY
                break
    return Alarms(checks=len(checks), false_alarms=sum(map(bool, checks)), after=after, features=features)


def _drifted_features(service: OneModelService, texts: Sequence[str], start: int) -> list[str]:
    """Send the next texts, and return the features that have drifted. The prediction log lags by a second."""
    with httpx.Client(timeout=30) as client:
        for index in range(start, start + CHECK_EVERY):
            client.post(service.url, json={"inputs": texts[index % len(texts)]}).raise_for_status()
    state = service.client.get(f"/api/models/{MODEL}/retrain")
    return [drift["feature"] for drift in state["drift"] if drift["drifted"]]
