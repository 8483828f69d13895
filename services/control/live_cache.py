"""Live quality, remembered for a few seconds: it costs a query and a scoring, and many ask for it."""

from __future__ import annotations

import threading
import time

from baton.config.model_settings import ModelSettings
from baton.quality.live import LiveQuality, live_quality
from baton.store.records import ModelVersion
from baton.store.registry import Registry

SECONDS = 5.0
"""How old an answer may be."""

VERSIONS = 10
"""Versions of a model whose live quality is listed, the newest that have answered something."""


class LiveQualityCache:
    """Thread-safe. Two that ask at the same moment may both measure."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, LiveQuality | None]] = {}

    def of(self, settings: ModelSettings, version: ModelVersion) -> LiveQuality | None:
        """The live quality of one version, at most `SECONDS` old; None where none of its answers was corrected."""
        key, now = (settings.name, version.number), time.monotonic()
        with self._lock:
            measured, live = self._known.get(key, (-SECONDS, None))
            if key in self._known and now - measured < SECONDS:
                return live
        live = live_quality(self._registry, settings, version, settings.retrain.window)
        with self._lock:
            self._known = {other: it for other, it in self._known.items() if now - it[0] < SECONDS}
            self._known[key] = (now, live)
        return live

    def newest(self, settings: ModelSettings, limit: int = VERSIONS) -> list[LiveQuality]:
        """The live quality of the newest versions that have answered something, newest first."""
        numbers = self._registry.feedback.answered_versions(settings.name, limit)
        found = [self.of(settings, self._registry.version(settings.name, number)) for number in numbers]
        return [live for live in found if live is not None]
