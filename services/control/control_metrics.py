"""Metrics of the control plane at ``GET /metrics``: values from the registry, read at scrape time, and counts of this process.

If the database does not respond, only the values from it are missing: the scrape succeeds, and ``baton_registry_up`` is 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from baton.config.model_settings import ModelSettings
from baton.errors import BatonError
from baton.store.history import FINAL_STATES
from baton.store.records import ReplicaState, RolloutState, Verdict
from services import metrics
from services.control.api.protocol import ControlPlane

RESULTS = ("accepted", "duplicate", "rejected")
"""Values of the label ``result`` of the feedback counter."""

LIVE_VERSIONS = 3
"""Number of newest versions of a model whose live F1 is exported, in addition to the champion's."""

LABELS_EXPORTED = 50
"""Maximum number of labels whose live F1 is exported: those with the most corrections. It bounds the number of series."""

RUNS_SEEN = 5
"""Number of recent runs in which the newest one that started and ended is searched. At most one of them is active; those that
were cancelled before they started are skipped."""

States = Mapping[str, Sequence[ReplicaState]]
"""States of the replicas, by model."""


class ControlMetrics:
    """Renders the metrics of one control plane, and counts feedback."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        definition = metrics.FEEDBACK
        self._feedback = Counter(definition.name, definition.help, definition.labels, registry=None)

    def count_feedback(self, model: str, accepted: int = 0, duplicates: int = 0, rejected: int = 0) -> None:
        """Add the results of one feedback request to the counts of ``model``."""
        for result, count in zip(RESULTS, (accepted, duplicates, rejected), strict=True):
            self._feedback.labels(model, result).inc(count)

    async def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        models = self._control.config.models
        for settings in models:
            self.count_feedback(settings.name)  # begins at 0 before the first request
        answers = await asyncio.gather(*(self._control.rollouts.states(settings.name) for settings in models))
        states = {settings.name: answer for settings, answer in zip(models, answers, strict=True)}
        scrape = _Scrape(self._control, states, self._feedback)
        return await asyncio.to_thread(generate_latest, scrape)


class _Scrape(Collector):
    """Collects the metrics of one scrape."""

    def __init__(self, control: ControlPlane, states: States, feedback: Counter) -> None:
        self._control, self._states, self._feedback = control, states, feedback

    def collect(self) -> Iterator[Metric]:
        """Yield all families that have a value."""
        samples = _Samples()
        for settings in self._control.config.models:
            _add_configured(samples, settings)
            samples.add(metrics.REPLICAS, len(self._states[settings.name]), settings.name)
        stored = _Samples()
        try:
            self._read(stored)
        except BatonError:
            samples.add(metrics.REGISTRY_UP, 0)
        else:
            samples.add(metrics.REGISTRY_UP, 1)
            yield from stored.families()
        yield from samples.families()
        yield from self._feedback.collect()

    def _read(self, samples: _Samples) -> None:
        """Add all values that come from the database."""
        registry = self._control.registry
        verdicts, ended = registry.history.count_verdicts(), registry.history.count_ended_runs()
        rollouts = registry.rollouts.count_ended()
        for settings in self._control.config.models:
            name = settings.name
            for verdict in Verdict:
                samples.add(metrics.GATE_VERDICTS, verdicts.get((name, verdict), 0), name, verdict)
            for state in FINAL_STATES:
                samples.add(metrics.RUNS, ended.get((name, state), 0), name, state)
            for outcome in (state for state in RolloutState if state.final):
                samples.add(metrics.ROLLOUTS, rollouts.get((name, outcome), 0), name, outcome)
            self._read_champion(samples, settings)
            self._read_runs(samples, settings)
            situation = self._control.retrainer.recent_situation(settings)
            samples.add(metrics.FEEDBACK_WAITING, situation.new_examples, name)
            for drift in situation.drift:
                samples.add(metrics.DRIFT_PSI, drift.psi, name, drift.feature)
                samples.add(metrics.DRIFT_ALARM, drift.alarm, name, drift.feature)

    def _read_champion(self, samples: _Samples, settings: ModelSettings) -> None:
        registry, name = self._control.registry, settings.name
        states = self._states[name]
        champion = registry.champion_version(name)
        agreeing = sum(champion is not None and state.version == champion.number for state in states)
        samples.add(metrics.REPLICAS_AGREEING, agreeing, name)
        lives = {live.version: live for live in self._control.live.newest(settings, LIVE_VERSIONS)}
        if champion is not None:
            samples.add(metrics.CHAMPION_VERSION, champion.number, name)
            if champion.metrics.get("f1") is not None:
                samples.add(metrics.CHAMPION_F1, champion.metrics["f1"], name)
            for promotion in registry.promotions(name, limit=1):
                samples.add(metrics.LAST_PROMOTION, promotion.created_at.timestamp(), name)
            live = self._control.live.get(settings, champion)
            if live is not None:
                lives[live.version] = live
                samples.add(metrics.CHAMPION_LIVE_F1, live.f1, name)
                by_support = sorted(live.per_class.items(), key=lambda item: -item[1]["support"])
                for label, scores in by_support[:LABELS_EXPORTED]:
                    samples.add(metrics.CHAMPION_LABEL_LIVE_F1, scores["f1"], name, label)
            samples.add(metrics.CHAMPION_CORRECTIONS, live.corrections if live else 0, name)
        for version, live in lives.items():
            samples.add(metrics.LIVE_F1, live.f1, name, str(version))

    def _read_runs(self, samples: _Samples, settings: ModelSettings) -> None:
        runs = self._control.registry.runs.list(settings.name, limit=RUNS_SEEN)
        active = [run for run in runs if not run.state.final]
        elapsed = (datetime.now(UTC) - active[0].created_at).total_seconds() if active else 0.0
        samples.add(metrics.RUN_IN_PROGRESS, len(active), settings.name)
        samples.add(metrics.RUN_ELAPSED, elapsed, settings.name)
        for run in runs:
            if run.started_at is not None and run.finished_at is not None:
                samples.add(metrics.LAST_RUN_SECONDS, (run.finished_at - run.started_at).total_seconds(), settings.name)
                return


def _add_configured(samples: _Samples, settings: ModelSettings) -> None:
    """Add the values that come from the configuration."""
    samples.add(metrics.REPLICAS_WANTED, settings.serving.replicas, settings.name)
    samples.add(metrics.LIVE_F1_FLOOR, settings.retrain.live_f1_below or settings.gate.min_f1, settings.name)


class _Samples:
    """Values collected so far, by metric."""

    def __init__(self) -> None:
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(self, metric: metrics.Metric, value: float, *labels: str) -> None:
        """Add one value. ``labels``: the values of the metric's labels, in the order of its definition."""
        assert len(labels) == len(metric.labels), (metric.name, labels)
        family = self._families.get(metric.name)
        if family is None:
            family_cls = CounterMetricFamily if metric.type is metrics.MetricType.COUNTER else GaugeMetricFamily
            family = self._families[metric.name] = family_cls(metric.name, metric.help, labels=metric.labels)
        family.add_metric(labels, value)

    def families(self) -> Iterator[Metric]:
        """Yield one family for each metric that has a value."""
        yield from self._families.values()


def add_metrics(api: FastAPI, control_metrics: ControlMetrics) -> None:
    """Add ``GET /metrics`` to ``api``."""

    @api.get("/metrics", tags=["health"], response_class=Response)
    async def get_metrics() -> Response:
        """Return metrics of champions, live quality, runs, feedback and replicas. Ray's agent exports those of requests."""
        return Response(await control_metrics.render(), media_type=CONTENT_TYPE_LATEST)
