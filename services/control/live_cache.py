"""Cache of live quality for a few seconds: each value costs a query and a scoring, and several routes and loops need it."""

from __future__ import annotations

import threading
import time

from baton.config.model_settings import ModelSettings
from baton.quality.live import LiveQuality, live_quality
from baton.store.records import ModelVersion
from baton.store.registry import Registry

MAX_AGE_SECONDS = 5.0
"""Maximum age of a cached value: about the pause between two checks of the retraining triggers, its most frequent user."""

DRAWN_SECONDS = 30.0
"""Maximum age of what `LiveQualityCache.recent` returns."""

VERSIONS = 10
"""Number of versions whose live quality is listed: the newest ones that have answered requests."""


class LiveQualityCache:
    """Caches the live quality of versions. Thread-safe; concurrent callers may both compute the same value."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._cached: dict[tuple[str, int], tuple[float, LiveQuality | None]] = {}
        """By model and version: when it was computed (`time.monotonic`), and the value."""
        self._drawn: dict[str, tuple[float, list[LiveQuality]]] = {}
        """By model: the same for `recent`."""

    def get(self, settings: ModelSettings, version: ModelVersion) -> LiveQuality | None:
        """Return the live quality of one version, at most `MAX_AGE_SECONDS` old; None if none of its answers was corrected."""
        key, now = (settings.name, version.number), time.monotonic()
        with self._lock:
            if key in self._cached:
                computed_at, live = self._cached[key]
                if now - computed_at < MAX_AGE_SECONDS:
                    return live
        live = live_quality(self._registry, settings, version, settings.retrain.window)
        with self._lock:
            self._cached = {other: entry for other, entry in self._cached.items() if now - entry[0] < MAX_AGE_SECONDS}
            self._cached[key] = (now, live)
        return live

    def recent(self, settings: ModelSettings) -> list[LiveQuality]:
        """Return `newest`, at most `DRAWN_SECONDS` old: for charts, in which nobody waits for the newest correction."""
        now = time.monotonic()
        with self._lock:
            computed_at, found = self._drawn.get(settings.name, (now - DRAWN_SECONDS, []))
        if now - computed_at >= DRAWN_SECONDS:
            found = self.newest(settings)
            with self._lock:
                self._drawn[settings.name] = (now, found)
        return found

    def newest(self, settings: ModelSettings, limit: int = VERSIONS) -> list[LiveQuality]:
        """Return the live quality of the newest ``limit`` versions that have answered requests, newest first.

        Versions without corrected answers are left out.
        """
        numbers = self._registry.predictions.answered_versions(settings.name, limit)
        qualities = [self.get(settings, self._registry.versions.get(settings.name, number)) for number in numbers]
        return [live for live in qualities if live is not None]
