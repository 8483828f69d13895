"""Measure the whole loop without an operator: an application sends texts and corrections, Baton retrains and swaps."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baton.artifacts.frozen import HOLDOUT, read_splits
from baton.artifacts.storage import Storage
from baton.config.file import load_config
from baton.predict.predictor import Predictor
from baton.store.records import HistoryKind
from baton.store.registry import Registry
from baton.tasks.classification import Classification, TextExample
from baton.tasks.text_classifier import TextInput
from baton.text.normal_form import normalise
from benchmarks.online.application import Application
from benchmarks.online.people import People
from benchmarks.online.scenario import Scenario
from benchmarks.service import MODEL, OneModelService, read_rows

AFTER_EXAMPLES = 400
PER_SECOND = 12.0
"""Low enough that most versions take over while the application still sends: a run takes minutes beside its traffic."""

EVALUATED_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Step:
    """One version that became champion. Scores are between 0 and 1."""

    version: int
    at: float | None
    """When it took over, in seconds from the start of the traffic; None if it took over after the traffic."""
    f1: float
    """Macro-F1 on the test rows of all intents."""
    first_f1: float
    """Macro-F1 on the test rows of the first champion's intents."""
    live_f1: float | None
    """Live F1, as Baton reports it."""
    corrections: int
    """Corrections that live F1 is computed from."""
    answered: int
    """Requests of the application that it answered."""
    right: float | None
    """Share of these answers that were right; None without answers."""
    train_rows: int


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """The result of the benchmark."""

    steps: Sequence[Step]
    """All champions, oldest first."""
    labels: int
    """Labels that people gave to audited texts."""
    judges: int
    """Rows of the last holdout that are audited texts."""
    strangers: int
    """Rows of the last holdout that are neither declared nor drawn by the audit. There should be none."""
    refused: int
    """Versions that the gate did not promote."""
    requests: int
    failed: int
    """Requests that failed."""
    failed_corrections: int
    corrections: int
    """Corrections that were accepted."""
    seconds: float
    """Duration of the traffic."""
    p50_ms: float
    p99_ms: float
    running: Sequence[tuple[float, float]]
    """(seconds, share of right answers) for each 300 requests of the application."""


def measure(scenario: Scenario, home: Path, tune: str = "full") -> StreamResult:
    """Run the traffic once, and wait until no further version is to be expected."""
    with OneModelService(home, scenario.model(tune, AFTER_EXAMPLES)) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        feedback = f"{service.client.url}/api/models/{MODEL}/feedback"
        with (
            People(service.client, scenario.stream) as people,
            Application(service.url, feedback, scenario.stream, per_second=PER_SECOND) as application,
        ):
            while not application.finished():
                time.sleep(1.0)
            seconds = application.exchanges[-1].at
            while _more_to_come(service):
                time.sleep(1.0)
        live = {item["version"]: item for item in service.client.get(f"/api/models/{MODEL}/live")["items"]}
        history = service.client.get(f"/api/models/{MODEL}/history", limit=500)["items"]
        steps = _steps(service, scenario, application, live)
        judges, strangers = _judges(service, scenario)
    latencies = np.array([exchange.latency for exchange in application.exchanges]) * 1000
    return StreamResult(
        steps=steps,
        labels=people.labels,
        judges=judges,
        strangers=strangers,
        refused=sum(entry["what"] in (HistoryKind.REFUSED, HistoryKind.INCONCLUSIVE) for entry in history),
        requests=len(application.exchanges),
        failed=sum(exchange.status != 200 for exchange in application.exchanges),
        failed_corrections=application.failed_corrections,
        corrections=application.corrections,
        seconds=seconds,
        p50_ms=float(np.quantile(latencies, 0.5)),
        p99_ms=float(np.quantile(latencies, 0.99)),
        running=_windows(application),
    )


def _more_to_come(service: OneModelService) -> bool:
    """Return whether a run is active or is about to start automatically, or a version is about to take over."""
    state, model = service.client.get(f"/api/models/{MODEL}/retrain"), service.client.get(f"/api/models/{MODEL}")
    decision = service.newest_run().get("decision") or {}
    waits = decision.get("verdict") == "promote" and decision["candidate"] != model["champion"]
    return bool(state["active_run"] or state["starts"] or model["rollout"] or waits)


def _windows(application: Application, size: int = 300) -> list[tuple[float, float]]:
    exchanges = application.exchanges
    parts = [exchanges[start : start + size] for start in range(0, len(exchanges) - size + 1, size)]
    return [(part[-1].at, float(np.mean([exchange.right for exchange in part]))) for part in parts]


def _judges(service: OneModelService, scenario: Scenario) -> tuple[int, int]:
    """Return how many rows of the newest holdout are audited texts, and how many are neither these nor declared."""
    config = load_config(service.file, {})
    registry, storage = Registry(config.database), Storage(config.storage)
    newest = registry.datasets.latest(MODEL)
    assert newest is not None
    declared = {normalise(row["text"]) for row in read_rows(scenario.holdout)}
    drawn = {normalise(item.input["text"]) for item in registry.audit.items(MODEL)}
    held = {normalise(row.text) for row in read_splits(Classification, storage, newest.uri)[HOLDOUT]}
    return len(held & drawn - declared), len(held - drawn - declared)


def _steps(
    service: OneModelService, scenario: Scenario, application: Application, live: dict[int, dict[str, Any]]
) -> list[Step]:
    """Return all champions, oldest first, evaluated on the whole test set."""
    config = load_config(service.file, {})
    registry, storage = Registry(config.database), Storage(config.storage)
    steps = []
    for promotion in reversed(registry.promotions(MODEL, limit=500)):
        answered = [exchange for exchange in application.exchanges if exchange.version == promotion.version]
        directory, manifest = storage.fetch(registry.versions.get(MODEL, promotion.version), service.home / "cache")
        predictor = Predictor.load(directory, manifest, config.model(MODEL).serving, threads=2)
        live_quality = live.get(promotion.version)
        steps.append(
            Step(
                version=promotion.version,
                at=min((exchange.at for exchange in answered), default=None),
                f1=_f1(predictor, scenario.test, scenario.labels),
                first_f1=_f1(predictor, [row for row in scenario.test if row["label"] in scenario.first], scenario.first),
                live_f1=live_quality["f1"] if live_quality else None,
                corrections=live_quality["corrections"] if live_quality else 0,
                answered=len(answered),
                right=float(np.mean([exchange.right for exchange in answered])) if answered else None,
                train_rows=int(registry.versions.get(MODEL, promotion.version).lineage["dataset"]["train_rows"]),
            )
        )
    return steps


def _f1(predictor: Predictor, rows: Sequence[dict[str, Any]], labels: Collection[str]) -> float:
    """Return macro-F1 over exactly ``labels``.

    The metric's own mean includes all predicted labels. A model that knows more labels than the rows have would score lower
    only because of that.
    """
    outputs: list[Any] = []
    for start in range(0, len(rows), EVALUATED_AT_ONCE):
        outputs += predictor.predict([TextInput(text=row["text"]) for row in rows[start : start + EVALUATED_AT_ONCE]])
    examples = [TextExample(text=row["text"], label=row["label"]) for row in rows]
    classes = predictor.task.score(outputs, examples).metrics["per_class"]
    return float(np.mean([classes[label]["f1"] for label in labels]))
