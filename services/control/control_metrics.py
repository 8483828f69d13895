"""The control plane's metrics at ``GET /metrics``: what the registry knows, read at scrape time, and what this process counts.

A database that is away takes only its own metrics with it: the scrape answers, and ``baton_registry_up`` says 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError
from baton.store.counts import FINAL
from baton.store.records import Verdict
from baton.store.registry import Registry
from services import metrics
from services.control.live_cache import LiveQualityCache
from services.control.retrain import Retrainer

RESULTS = ("accepted", "duplicate", "rejected")

LIVE_VERSIONS = 3
"""Versions of a model whose live F1 is exported, the newest; and the champion."""

LABELS_TOLD = 50
"""Labels of a champion whose live F1 is exported, those with the most corrections: series must stay bounded."""

RUNS_SEEN = 5
"""Runs among which the newest ended one is looked for. Of the newer ones at most one is active."""

States = Mapping[str, Sequence[Mapping[str, Any]]]
"""By model, what its replicas say of themselves."""


class Rollouts(Protocol):
    """What the metrics need of the hand-over."""

    async def states(self, model: str) -> list[dict[str, Any]]:
        """What every live replica says of itself."""
        ...


class Control(Protocol):
    """What the metrics need of the control plane."""

    config: BatonConfig
    registry: Registry

    @property
    def live(self) -> LiveQualityCache:
        """Live quality."""
        ...

    @property
    def retrainer(self) -> Retrainer:
        """What looks at drift and at new corrections."""
        ...

    @property
    def rollouts(self) -> Rollouts:
        """The hand-over."""
        ...


class ControlMetrics:
    """The metrics of one control plane."""

    def __init__(self, control: Control) -> None:
        self._control = control
        definition = metrics.FEEDBACK
        self._feedback = Counter(definition.name, definition.help, definition.labels, registry=None)
        for model in control.config.models:
            self.count_feedback(model.name)

    def count_feedback(self, model: str, accepted: int = 0, duplicates: int = 0, rejected: int = 0) -> None:
        """Add these corrections to the counts of ``model``."""
        for result, count in zip(RESULTS, (accepted, duplicates, rejected), strict=True):
            self._feedback.labels(model, result).inc(count)

    async def render(self) -> bytes:
        """The text that Prometheus reads."""
        models = self._control.config.models
        answers = await asyncio.gather(*(self._control.rollouts.states(settings.name) for settings in models))
        states = {settings.name: found for settings, found in zip(models, answers, strict=True)}
        scrape = _Scrape(self._control, states, self._feedback)
        return await asyncio.to_thread(generate_latest, scrape)


class _Scrape(Collector):
    """One answer to one scrape."""

    def __init__(self, control: Control, states: States, feedback: Counter) -> None:
        self._control, self._states, self._feedback = control, states, feedback

    def collect(self) -> Iterator[Metric]:
        """All families that have a value."""
        found = _Samples()
        for settings in self._control.config.models:
            _configured(found, settings)
            found.add(metrics.REPLICAS, len(self._states[settings.name]), settings.name)
        stored = _Samples()
        try:
            self._read(stored)
        except BatonError:
            found.add(metrics.REGISTRY_UP, 0)
        else:
            found.add(metrics.REGISTRY_UP, 1)
            yield from stored.families()
        yield from found.families()
        yield from self._feedback.collect()

    def _read(self, found: _Samples) -> None:
        """Everything that the database knows."""
        registry = self._control.registry
        verdicts, ended = registry.counts.verdicts(), registry.counts.ended_runs()
        for settings in self._control.config.models:
            name = settings.name
            for verdict in Verdict:
                found.add(metrics.GATE_VERDICTS, verdicts.get((name, verdict), 0), name, verdict)
            for state in FINAL:
                found.add(metrics.RUNS, ended.get((name, state), 0), name, state)
            self._read_champion(found, settings)
            self._read_runs(found, settings)
            situation = self._control.retrainer.situation(settings)
            found.add(metrics.FEEDBACK_WAITING, situation.new_examples, name)
            for drift in situation.drift:
                found.add(metrics.DRIFT_PSI, drift.psi, name, drift.feature)
                found.add(metrics.DRIFT_ALARM, drift.alarm, name, drift.feature)

    def _read_champion(self, found: _Samples, settings: ModelSettings) -> None:
        registry, name = self._control.registry, settings.name
        states = self._states[name]
        champion = registry.champion_version(name)
        agreeing = sum(champion is not None and state["version"] == champion.number for state in states)
        found.add(metrics.REPLICAS_AGREEING, agreeing, name)
        lives = {live.version: live for live in self._control.live.newest(settings, LIVE_VERSIONS)}
        if champion is not None:
            found.add(metrics.CHAMPION_VERSION, champion.number, name)
            if champion.metrics.get("f1") is not None:
                found.add(metrics.CHAMPION_F1, champion.metrics["f1"], name)
            for promotion in registry.promotions(name, limit=1):
                found.add(metrics.LAST_PROMOTION, promotion.created_at.timestamp(), name)
            live = self._control.live.of(settings, champion)
            if live is not None:
                lives[live.version] = live
                found.add(metrics.CHAMPION_LIVE_F1, live.f1, name)
                by_support = sorted(live.per_class.items(), key=lambda item: -item[1]["support"])
                for label, scores in by_support[:LABELS_TOLD]:
                    found.add(metrics.CHAMPION_LABEL_LIVE_F1, scores["f1"], name, label)
            found.add(metrics.CHAMPION_CORRECTIONS, live.corrections if live else 0, name)
        for version, live in lives.items():
            found.add(metrics.LIVE_F1, live.f1, name, str(version))

    def _read_runs(self, found: _Samples, settings: ModelSettings) -> None:
        runs = self._control.registry.runs.list(settings.name, limit=RUNS_SEEN)
        active = [run for run in runs if not run.state.final]
        elapsed = (datetime.now(UTC) - active[0].created_at).total_seconds() if active else 0.0
        found.add(metrics.RUN_IN_PROGRESS, len(active), settings.name)
        found.add(metrics.RUN_ELAPSED, elapsed, settings.name)
        for run in runs:
            if run.started_at is not None and run.finished_at is not None:
                found.add(metrics.LAST_RUN_SECONDS, (run.finished_at - run.started_at).total_seconds(), settings.name)
                return


def _configured(found: _Samples, settings: ModelSettings) -> None:
    """What follows from the configuration alone."""
    found.add(metrics.REPLICAS_WANTED, settings.serving.replicas, settings.name)
    found.add(metrics.LIVE_F1_FLOOR, settings.retrain.live_f1_below or settings.gate.min_f1, settings.name)


class _Samples:
    """Values by metric, as they come."""

    def __init__(self) -> None:
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(self, metric: metrics.Metric, value: float, *labels: str) -> None:
        """One value under ``labels``, in the order of the metric's definition."""
        assert len(labels) == len(metric.labels), (metric.name, labels)
        family = self._families.get(metric.name)
        if family is None:
            family_cls = CounterMetricFamily if metric.type is metrics.MetricType.COUNTER else GaugeMetricFamily
            family = self._families[metric.name] = family_cls(metric.name, metric.help, labels=metric.labels)
        family.add_metric(labels, value)

    def families(self) -> Iterator[Metric]:
        """One family for each metric that has a value."""
        yield from self._families.values()


def add_metrics(api: FastAPI, control_metrics: ControlMetrics) -> None:
    """Add the route to ``api``."""

    @api.get("/metrics", tags=["health"], response_class=Response)
    async def get_metrics() -> Response:
        """Prometheus metrics of champions, live quality, runs, feedback and replicas. Ray's agent has those of requests."""
        return Response(await control_metrics.render(), media_type=CONTENT_TYPE_LATEST)
