"""The whole loop with nobody in between: an application streams and corrects, the system retrains and swaps by itself."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baton.artifacts.storage import Storage
from baton.config.file import load_config
from baton.predict.predictor import Predictor
from baton.store.registry import Registry
from baton.tasks.classification import TextExample, TextInput
from benchmarks.online.application import Application
from benchmarks.online.scene import Scene
from benchmarks.service import MODEL, Running

AFTER_EXAMPLES = 400
PER_SECOND = 12.0
"""Slow enough that most versions take over while the application still asks: a run takes minutes beside its traffic."""

EVALUATED_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Step:
    """One version: when it took over (seconds into the traffic; None: after it), and how good it is, as shares of 1.

    ``f1`` and ``first_f1``: macro-F1 on the test rows of all intents, and on those of the first champion's. ``live_f1`` and
    ``corrections``: as Baton reports them. ``answered`` and ``right``: the application's requests that it answered.
    """

    version: int
    at: float | None
    f1: float
    first_f1: float
    live_f1: float | None
    corrections: int
    answered: int
    right: float | None
    train_rows: int


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened. ``refused``: versions that the gate turned down; ``failed`` counts requests and corrections."""

    steps: Sequence[Step]
    refused: int
    requests: int
    failed: int
    failed_corrections: int
    corrections: int
    seconds: float
    p50_ms: float
    p99_ms: float
    running: Sequence[tuple[float, float]]
    """(seconds, share right) of the application's requests, in windows of 300."""


def tell(scene: Scene, home: Path, tune: str = "full") -> Story:
    """Run the story once."""
    with Running(home, scene.model(tune, AFTER_EXAMPLES)) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        feedback = f"{service.client.url}/api/models/{MODEL}/feedback"
        with Application(service.url, feedback, scene.stream, per_second=PER_SECOND) as application:
            while not application.finished():
                time.sleep(1.0)
            seconds = application.exchanges[-1].at
            while _more_to_come(service):
                time.sleep(1.0)
        live = {item["version"]: item for item in service.client.get(f"/api/models/{MODEL}/live")["items"]}
        history = service.client.get(f"/api/models/{MODEL}/history", limit=500)["items"]
        steps = _steps(service, scene, application, live)
    latencies = np.array([exchange.latency for exchange in application.exchanges]) * 1000
    return Story(
        steps=steps,
        refused=sum(entry["what"] in ("refused", "inconclusive") for entry in history),
        requests=len(application.exchanges),
        failed=sum(exchange.status != 200 for exchange in application.exchanges),
        failed_corrections=application.failed_corrections,
        corrections=application.corrections,
        seconds=seconds,
        p50_ms=float(np.quantile(latencies, 0.5)),
        p99_ms=float(np.quantile(latencies, 0.99)),
        running=_windows(application),
    )


def _more_to_come(service: Running) -> bool:
    """Whether a run is active or about to start by itself, or a winner about to take over."""
    state, model = service.client.get(f"/api/models/{MODEL}/retrain"), service.client.get(f"/api/models/{MODEL}")
    decision = service.newest_run().get("decision") or {}
    waits = decision.get("verdict") == "promote" and decision["candidate"] != model["champion"]
    return bool(state["active_run"] or state["starts"] or model["rolling_out"] or waits)


def _windows(application: Application, size: int = 300) -> list[tuple[float, float]]:
    exchanges = application.exchanges
    parts = [exchanges[start : start + size] for start in range(0, len(exchanges) - size + 1, size)]
    return [(part[-1].at, float(np.mean([exchange.right for exchange in part]))) for part in parts]


def _steps(service: Running, scene: Scene, application: Application, live: dict[int, dict[str, Any]]) -> list[Step]:
    """Every champion, oldest first, scored here on the whole test set."""
    config = load_config(service.file, {})
    registry, storage = Registry(config.database), Storage(config.storage)
    steps = []
    for promotion in reversed(registry.promotions(MODEL, limit=500)):
        mine = [exchange for exchange in application.exchanges if exchange.version == promotion.version]
        directory, manifest = storage.fetch(registry.version(MODEL, promotion.version), service.home / "cache")
        predictor = Predictor.load(directory, manifest, config.model(MODEL).serving, threads=2)
        told = live.get(promotion.version)
        steps.append(
            Step(
                version=promotion.version,
                at=min((exchange.at for exchange in mine), default=None),
                f1=_f1(predictor, scene.test, scene.labels),
                first_f1=_f1(predictor, [row for row in scene.test if row["label"] in scene.first], scene.first),
                live_f1=told["f1"] if told else None,
                corrections=told["corrections"] if told else 0,
                answered=len(mine),
                right=float(np.mean([exchange.right for exchange in mine])) if mine else None,
                train_rows=int(registry.version(MODEL, promotion.version).lineage["dataset"]["train_rows"]),
            )
        )
    return steps


def _f1(predictor: Predictor, rows: Sequence[dict[str, Any]], labels: Collection[str]) -> float:
    """Macro-F1 over exactly ``labels``: the metric's own mean takes in all that are predicted, and a model that knows more
    labels than the rows have would lose by that alone.
    """
    outputs: list[Any] = []
    for start in range(0, len(rows), EVALUATED_AT_ONCE):
        outputs += predictor.predict([TextInput(text=row["text"]) for row in rows[start : start + EVALUATED_AT_ONCE]])
    examples = [TextExample(text=row["text"], label=row["label"]) for row in rows]
    classes = predictor.task.score(outputs, examples).metrics["per_class"]
    return float(np.mean([classes[label]["f1"] for label in labels]))
