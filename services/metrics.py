"""Prometheus metrics of the control plane at ``GET /metrics``. Labels are models, versions in use and results: a bounded set.

What the registry knows is read at scrape time; only what goes through this process is counted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from baton.config import BatonConfig
from baton.registry import Registry
from services.live import LiveQualities

RESULTS = ("accepted", "duplicate", "rejected")

LIVE_VERSIONS = 3
"""Versions of a model whose live F1 is exported, the newest; and the champion."""


class Control(Protocol):
    """What the metrics need of the control plane."""

    config: BatonConfig
    registry: Registry

    @property
    def live(self) -> LiveQualities:
        """Live quality."""
        ...


class Metrics:
    """The metrics of one control plane, in a registry of their own."""

    def __init__(self, control: Control) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Models(control))
        self._feedback = Counter(
            "baton_feedback",
            "Corrections received since the control plane started, by what became of them.",
            ["model", "result"],
            registry=self._registry,
        )
        for model in control.config.models:
            self.count_feedback(model.name)

    def count_feedback(self, model: str, accepted: int = 0, duplicates: int = 0, rejected: int = 0) -> None:
        """Add these corrections to the counts of ``model``."""
        for result, count in zip(RESULTS, (accepted, duplicates, rejected), strict=True):
            self._feedback.labels(model, result).inc(count)

    def render(self) -> bytes:
        """The text that Prometheus reads. Raises ``RegistryError`` when the database does not answer."""
        return generate_latest(self._registry)


class _Models(Collector):
    """Gauges of champions and live quality, read when asked for."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def describe(self) -> list[GaugeMetricFamily]:
        """The gauges without values: registering must not read the database."""
        return list(self._gauges())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        number, f1, live_f1 = gauges = self._gauges()
        for settings in self._control.config.models:
            champion = self._control.registry.champion_version(settings.name)
            lives = {live.version: live for live in self._control.live.newest(settings, LIVE_VERSIONS)}
            if champion is not None:
                number.add_metric([settings.name], champion.number)
                if champion.metrics.get("f1") is not None:
                    f1.add_metric([settings.name], champion.metrics["f1"])
                live = self._control.live.of(settings, champion)
                lives |= {} if live is None else {live.version: live}
            for version, live in lives.items():
                live_f1.add_metric([settings.name, str(version)], live.f1)
        yield from gauges

    def _gauges(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("baton_champion_version", "The version that serves.", labels=["model"]),
            GaugeMetricFamily("baton_champion_f1", "F1 of the champion on its holdout.", labels=["model"]),
            GaugeMetricFamily("baton_live_f1", "F1 on the newest corrected answers.", labels=["model", "version"]),
        )


def add_metrics(api: FastAPI, metrics: Metrics) -> None:
    """Add the route to ``api``."""

    @api.get("/metrics", tags=["health"], response_class=Response)
    def get_metrics() -> Response:
        """Prometheus metrics: feedback, live F1, champions. Ray has its own, of requests and processes."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
