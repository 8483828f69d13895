"""The versions that a replica has in memory: loads them, keeps those that may be needed soon, and tidies the node's cache.

Knows neither requests nor which version serves: `services.replica.replica` says what to keep.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass

from baton.artifacts.storage import Storage
from baton.artifacts.version_cache import VersionCache
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, Conflict
from baton.predict.predictor import Predictor
from baton.quality.confidence import abstain_below
from baton.store.registry import Registry

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What is known of a version in memory."""

    labels: tuple[str, ...]
    """Labels of the model's outputs, in order; empty if the task has none."""
    sha256: str
    """SHA-256 of its manifest, which has those of all its files."""
    abstain_below: float | None
    """Score below which its answers are too unsure to act on; None if it is not known, or nobody wants to know."""


class Versions:
    """Loaded versions of one model. Lives on the replica's event loop; `load` blocks, and may be called from any thread."""

    def __init__(self, settings: ModelSettings, registry: Registry, storage: Storage) -> None:
        self._settings, self._registry, self._storage = settings, registry, storage
        self._cache = VersionCache()
        self._loaded: dict[int, Predictor] = {}
        self._megabytes: dict[int, float] = {}
        self._facts: dict[int, VersionFacts] = {}
        self._loading: dict[int, asyncio.Task[Predictor]] = {}

    @property
    def loaded(self) -> tuple[int, ...]:
        """Numbers of the versions in memory, in ascending order."""
        return tuple(sorted(self._loaded))

    def __getitem__(self, version: int) -> Predictor:
        """Return a version that is in memory. Raises ``KeyError`` for any other."""
        return self._loaded[version]

    def __contains__(self, version: int) -> bool:
        return version in self._loaded

    def facts(self, version: int) -> VersionFacts | None:
        """Return what is known of a version; None unless it is or was in memory."""
        return self._facts.get(version)

    def fits(self, version: int) -> bool:
        """Return whether a version is small enough to stay in memory after another one has replaced it.

        Blocks on the storage if it is not in memory. Raises as `load`.
        """
        if version not in self._megabytes:
            stored = self._registry.versions.get(self._settings.name, version)
            return self._storage.manifest(stored).megabytes <= self._settings.serving.warm_megabytes
        return self._megabytes[version] <= self._settings.serving.warm_megabytes

    async def get(self, version: int) -> Predictor:
        """Return a version; load it in a thread unless it is in memory. All who want the same one wait for the same thread.

        Raises as `load`. A version that never finishes loading does not keep others from being loaded.
        """
        if version in self._loaded:
            return self._loaded[version]
        return await asyncio.shield(self.begin(version))

    def begin(self, version: int) -> asyncio.Task[Predictor]:
        """Begin to load a version, unless somebody has, and return the task."""
        if version not in self._loading:
            task = self._loading[version] = asyncio.create_task(asyncio.to_thread(self.load, version))
            task.add_done_callback(lambda done: self._end(version, done))
        return self._loading[version]

    def _end(self, version: int, done: asyncio.Task[Predictor]) -> None:
        del self._loading[version]
        if not done.cancelled() and (error := done.exception()) is not None:  # also if nobody waits for it
            logger.warning("%s: v%d cannot be loaded: %s", self._settings.name, version, error)

    def load(self, version: int) -> Predictor:
        """Download, verify, load, warm and self-check a version.

        Raises:
            Conflict: it has another task than the model.
            CorruptVersion, RegistryError, StorageError: it cannot be loaded, or not now.
        """
        name = self._settings.name
        began = time.perf_counter()
        cache = self._cache.directory if self._storage.local else self._cache.open()
        stored = self._registry.versions.get(name, version)
        directory, manifest = self._storage.fetch(stored, cache)
        if manifest.task != self._settings.task:
            raise Conflict(
                f"v{version} has the task {manifest.task}, but {name} is declared with {self._settings.task}; train a version "
                "of that task, or declare the old one"
            )
        predictor = Predictor.load(directory, manifest, self._settings.serving)
        predictor.warm()
        predictor.check(manifest.probes)
        self._megabytes[version] = manifest.megabytes
        self._facts[version] = VersionFacts(
            labels=predictor.task.labels,
            sha256=stored.manifest_sha256,
            abstain_below=abstain_below(self._settings.serving, manifest.metrics),
        )
        self._loaded[version] = predictor
        logger.info("%s: v%d prepared in %.2f s", name, version, time.perf_counter() - began)
        return predictor

    def keep(self, needed: Collection[int]) -> None:
        """Drop all versions but those ``needed``."""
        for version in set(self._loaded) - set(needed):
            del self._loaded[version], self._megabytes[version]  # not its facts: a request may still be answered by it

    def tidy_cache(self, needed: Collection[int]) -> None:
        """Remove downloaded versions but those ``needed``. Blocks; never raises."""
        if self._storage.local:
            return
        name = self._settings.name
        try:
            removed = self._cache.tidy(name, set(needed))
            if removed:
                logger.info("%s: removed from this node's cache: %s", name, ", ".join(removed))
        except (BatonError, OSError) as error:
            logger.warning("%s: the cache of versions cannot be tidied: %s", name, error)
