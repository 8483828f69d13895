"""One replica of one model: the deployment class, and the hand-over between versions.

`prepare` loads a version beside the one that serves; `commit` swaps one reference. A slow poll of the registry makes up for a
lost commit. Requests are answered in `services.replica.http`. Knows no other replica.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ray import serve

from baton import logs
from baton.artifacts.storage import Storage
from baton.artifacts.version_cache import VersionCache
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, Conflict, RegistryError, StorageError
from baton.predict.predictor import Predictor
from baton.store.records import Champion, ReplicaState
from baton.store.registry import Registry
from services.asgi import Receive, Scope, Send
from services.keyring import Keyring
from services.replica.audit_draw import AuditDraw
from services.replica.batching import Batcher
from services.replica.http import ReplicaHttp
from services.replica.prediction_log import PredictionLog
from services.replica.telemetry import Telemetry

logger = logging.getLogger("ray.serve")


class ModelReplica:
    """The deployment class: serves the model's champion and changes the version without losing a request.

    A replica that cannot load the champion still starts. It answers 503 with the reason, and retries at every poll.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        database: str,
        storage: str,
        replica_id: str | None = None,
        *,
        keys_required: bool = False,
        texts: bool = False,
    ) -> None:
        """Load the champion and start to serve it.

        Args:
            settings: The model's `ModelSettings` as plain values.
            database: URL of the registry's database.
            storage: URL of the artifact storage.
            replica_id: Given only outside Ray Serve, which otherwise assigns one.
            keys_required: Whether requests need an API key.
            texts: Whether logs may quote requests.
        """
        if not texts:
            logs.conceal_texts()
        self._settings = ModelSettings.model_validate(settings)
        self._registry = Registry(database)
        self._keyring = Keyring(self._registry.keys, required=keys_required)
        self._storage = Storage(storage)
        self._cache = VersionCache()
        self._id = replica_id or serve.get_replica_context().replica_id.unique_id
        self._telemetry = Telemetry(self._settings.name, self._id, exported=replica_id is None)
        serving = self._settings.serving
        self._batcher = Batcher(
            max_batch_tokens=serving.max_batch_tokens,
            max_queue=serving.max_queue,
            estimate=self._settings.make_task(()).estimate_tokens,
            on_batch=self._telemetry.count_batch,
        )
        logs.add_facts(logger, lambda: {"model": self._settings.name, "version": self._batcher.version})
        self._log = PredictionLog(
            self._settings.name,
            self._settings.make_task(()),
            self._settings.feedback,
            self._registry.feedback,
            AuditDraw(self._settings, self._registry.audit),
        )
        self._http = ReplicaHttp(
            self._settings,
            state=self._state,
            batcher=self._batcher,
            keyring=self._keyring,
            prediction_log=self._log,
            telemetry=self._telemetry,
        )
        self._champion = Champion(version=None, sequence=-1)
        self._prepared: dict[int, Predictor] = {}
        self._wanted: int | None = None
        """The version that `prepare` was last asked for."""
        self._loading: dict[int, asyncio.Task[Predictor]] = {}
        self._engine = ""
        self._error: str | None = None
        self._polls: list[asyncio.Task[None]] = []
        try:
            self._load_at_start(self._registry.champion(self._settings.name))
        except BatonError as error:
            self._error = str(error)
            logger.error("%s: no version is served, the champion cannot be loaded: %s", self._settings.name, error)
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"
            logger.exception("%s: no version is served, loading the champion failed", self._settings.name)

    def __serve_build_asgi_app__(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Return the ASGI application of this replica; Ray Serve's hook for applications that are built in the replica."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self._lifespan(receive, send)
            else:
                await self._http(scope, receive, send)

        return application  # uvicorn takes a bound method for an ASGI 2 application

    # --- hand-over, called by the control plane over a Serve handle --------------------------------------------------

    async def prepare(self, version: int, only: str | None = None) -> ReplicaState:
        """Download, verify, load, warm and self-check ``version`` beside the one that serves.

        In the returned state, ``error`` is None if the version is ready for `commit`. Otherwise ``unavailable`` tells an outage
        of the database or the storage from a fault of the version. ``only``: the replica that is meant; None: every one.

        A version that never finishes loading does not keep others from being prepared.
        """
        if only not in (None, self._id):
            return self._report(None)
        self._wanted = version
        try:
            if version not in (self._batcher.version, *self._prepared):
                predictor = await asyncio.shield(self._loading_of(version))
                if self._wanted != version:
                    return self._report(f"v{self._wanted} was asked for while v{version} was loaded")
                self._prepared = {version: predictor}
            return self._report(None)
        except (RegistryError, StorageError) as error:
            return self._report(str(error), unavailable=True)
        except BatonError as error:
            return self._report(str(error))
        except Exception as error:
            logger.exception("%s: preparing v%d failed", self._settings.name, version)
            return self._report(f"{type(error).__name__}: {error}")

    async def commit(self, version: int, sequence: int) -> ReplicaState:
        """Serve ``version`` from the next batch on, unless this replica has already followed this move or a later one."""
        champion = Champion(version=version, sequence=sequence)
        if sequence > self._champion.sequence and (version in self._prepared or version == self._batcher.version):
            self._take_over(champion)
        elif sequence > self._champion.sequence:
            await self._follow(champion)
        return self._state()

    async def state(self) -> ReplicaState:
        """Return which version this replica serves, and what keeps it from serving the champion."""
        return self._state()

    def _state(self) -> ReplicaState:
        return self._report(self._error)

    def _report(self, error: str | None, *, unavailable: bool = False) -> ReplicaState:
        return ReplicaState(
            replica=self._id,
            pid=os.getpid(),
            version=self._batcher.version,
            sequence=self._champion.sequence,
            prepared=tuple(sorted(self._prepared)),
            engine=self._engine,
            unlogged=self._log.dropped,
            error=error,
            unavailable=unavailable,
        )

    def _loading_of(self, version: int) -> asyncio.Task[Predictor]:
        """Return the task that loads a version. All who want the same version wait for the same task."""
        if version not in self._loading:
            task = self._loading[version] = asyncio.create_task(asyncio.to_thread(self._load, version))
            task.add_done_callback(lambda _: self._loading.pop(version))
        return self._loading[version]

    def _load(self, version: int) -> Predictor:
        name = self._settings.name
        began = time.perf_counter()
        cache = self._cache.directory if self._storage.local else self._cache.open()
        directory, manifest = self._storage.fetch(self._registry.versions.get(name, version), cache)
        if manifest.task != self._settings.task:
            raise Conflict(
                f"v{version} has the task {manifest.task}, but {name} is declared with {self._settings.task}; train a version "
                "of that task, or declare the old one"
            )
        predictor = Predictor.load(directory, manifest, self._settings.serving)
        predictor.warm()
        predictor.check(manifest.probes)
        logger.info("%s: v%d prepared in %.2f s", name, version, time.perf_counter() - began)
        return predictor

    def _take_over(self, champion: Champion) -> None:
        assert champion.version is not None
        predictor = self._prepared.pop(champion.version, None)
        if predictor is not None:
            predictor.work = self._telemetry.work
            self._telemetry.count_takeover(self._batcher.version, champion.version)
            self._batcher.serve(champion.version, predictor)
            self._engine = predictor.engine.description
        self._champion, self._error = champion, None
        logger.info("%s: v%d serves (move %d)", self._settings.name, champion.version, champion.sequence)

    def _load_at_start(self, champion: Champion) -> None:
        """Load and serve ``champion`` in this thread: at start there is no traffic to protect."""
        if champion.version is None:
            self._champion = champion
            return
        self._prepared = {champion.version: self._load(champion.version)}
        self._take_over(champion)

    async def _follow(self, champion: Champion) -> None:
        """Prepare and serve ``champion``. If it cannot be prepared, keep the version that serves and report the reason."""
        assert champion.version is not None
        state = await self.prepare(champion.version)
        if state.error is not None:
            self._error = state.error
            logger.error("%s: the champion v%d cannot be served: %s", self._settings.name, champion.version, state.error)
        elif champion.sequence > self._champion.sequence:
            self._take_over(champion)

    async def _follow_registry(self) -> None:
        """Serve the registry's champion if this replica has not followed the newest move. Never raises: serving goes on."""
        try:
            champion = await asyncio.to_thread(self._registry.champion, self._settings.name)
            if champion.version is not None and champion.sequence > self._champion.sequence:
                await self._follow(champion)
        except BatonError as error:  # for example, the database is down
            logger.warning("%s: the champion cannot be read from the registry: %s", self._settings.name, error)
        except Exception:
            logger.exception("%s: following the registry failed", self._settings.name)

    async def _follow_registry_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.serving.poll_seconds)
            await self._follow_registry()
            if not self._storage.local:
                await asyncio.to_thread(self._tidy_cache)

    def _tidy_cache(self) -> None:
        """Remove downloaded versions but those that serve, are prepared, or were served before. Never raises."""
        name = self._settings.name
        try:
            previous = self._registry.previous_champion(name)
            needed = [self._batcher.version, previous, *self._prepared]
            removed = self._cache.tidy(name, {number for number in needed if number is not None})
            if removed:
                logger.info("%s: removed from this node's cache: %s", name, ", ".join(removed))
        except (BatonError, OSError) as error:
            logger.warning("%s: the cache of versions cannot be tidied: %s", name, error)

    # --- start and end -----------------------------------------------------------------------------------------------

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> None:
        await self._follow_registry()  # the pointer may have moved while the constructor loaded; no request is routed here yet
        await self._keyring.try_refresh()
        self._polls = [  # two tasks: loading a version may take minutes, and revoked keys must not stay valid for that long
            asyncio.create_task(self._follow_registry_forever()),
            asyncio.create_task(self._keyring.refresh_forever(self._settings.serving.poll_seconds)),
        ]
        self._telemetry.start(self._batcher)

    async def _stop(self) -> None:
        for poll in self._polls:
            poll.cancel()
        self._telemetry.close()
        await self._batcher.close()
        await self._log.close()
