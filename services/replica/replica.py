"""One replica of one model: the deployment class, and the hand-over between versions.

`prepare` loads a version beside the one that serves; `commit` swaps one reference. A slow poll of the registry makes up for a
lost commit. Requests are answered in `services.replica.http`. Knows no other replica.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ray import serve

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.traces_settings import TracesSettings
from baton.errors import BatonError, RegistryError, StorageError
from baton.predict.explaining import passes
from baton.quality.trials import TrialCounts
from baton.store.records import Champion, ReplicaState, Rollout
from baton.store.registry import Registry
from baton.tasks.checks import text_length
from baton.text.masks import masker
from services.asgi import Receive, Scope, Send
from services.keyring import Keyring
from services.log_flushing import flush_forever
from services.replica.answer_cache import AnswerCache
from services.replica.audit_draw import AuditDraw
from services.replica.batching import Batcher
from services.replica.http import ReplicaHttp
from services.replica.prediction_log import PredictionLog
from services.replica.routing import Router
from services.replica.telemetry import Telemetry
from services.replica.trial import Trial
from services.replica.versions import Versions
from services.replica.whole_answers import send_answers_whole
from services.tracing import Tracer

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
        traces: dict[str, Any] | None = None,
    ) -> None:
        """Load the champion and start to serve it.

        Args:
            settings: The model's `ModelSettings` as plain values.
            database: URL of the registry's database.
            storage: URL of the artifact storage.
            replica_id: Given only outside Ray Serve, which otherwise assigns one.
            keys_required: Whether requests need an API key.
            texts: Whether logs may quote requests.
            traces: `TracesSettings` as plain values; None: nothing is traced.
        """
        if not texts:
            logs.conceal_texts()
        self._settings = ModelSettings.model_validate(settings)
        self._registry = Registry(database)
        self._keyring = Keyring(self._registry.keys, required=keys_required)
        self._versions = Versions(self._settings, self._registry, Storage(storage))
        self._id = replica_id or serve.get_replica_context().replica_id.unique_id
        self._telemetry = Telemetry(self._settings.name, self._id, exported=replica_id is None)
        serving, task = self._settings.serving, self._settings.make_task(())
        self._batcher = Batcher(
            max_batch_tokens=serving.max_batch_tokens,
            max_queue=serving.max_queue,
            max_queue_ms=serving.max_queue_ms,
            estimate=task.estimate_tokens,
            passes=partial(passes, task),
            characters=text_length,
            on_batch=self._telemetry.count_batch,
        )
        self._router = Router(self._batcher, AnswerCache(serving.cache))
        self._tracer = None
        if traces is not None:
            self._tracer = Tracer(TracesSettings.model_validate(traces), {"service.instance.id": self._id})
        logs.add_facts(logger, lambda: {"model": self._settings.name, "version": self._batcher.version})
        self._log = PredictionLog(
            self._settings.name,
            self._settings.make_task(()),
            self._settings.feedback,
            self._registry.predictions,
            AuditDraw(self._settings, self._registry.audit),
        )
        self._http = ReplicaHttp(
            self._settings,
            state=self._state,
            facts=self._versions.facts,
            batcher=self._batcher,
            router=self._router,
            keyring=self._keyring,
            prediction_log=self._log,
            telemetry=self._telemetry,
            tracer=self._tracer,
        )
        self._champion = Champion(version=None, sequence=-1)
        self._wanted: int | None = None
        """The version that `prepare` was last asked for."""
        self._next: int | None = None
        """The version that serves next, or last took over."""
        self._previous: int | None = None
        """The version that a rollback would bring back."""
        self._newest_trial = 0
        """The highest id of a roll-out that this replica has seen as a trial, or ended."""
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
        send_answers_whole()

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
            await self._versions.get(version)
            if self._wanted != version:
                return self._report(f"v{self._wanted} was asked for while v{version} was loaded")
            self._forget_others()
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
        if sequence > self._champion.sequence and version in self._versions:
            await self._take_over(champion)
        elif sequence > self._champion.sequence:
            await self._follow(champion)
        return self._state()

    async def try_out(self, rollout: Rollout) -> tuple[str, TrialCounts | None]:
        """Run the trial of ``rollout`` beside the champion, or end it if its state is another.

        Return this replica's id, and what the trial has measured here so far; None while it does not run here: then its version
        is being loaded.
        """
        trial = self._router.trial
        if trial is not None and trial.rollout.id == rollout.id:
            counts = trial.counts()
            if not rollout.state.trial:
                await self._end_trial()
            return self._id, counts
        if not rollout.state.trial:
            self._newest_trial = max(self._newest_trial, rollout.id)
        elif rollout.id > self._newest_trial and rollout.version in self._versions:
            self._newest_trial = rollout.id  # before the wait: two calls must not begin two trials
            await self._end_trial()
            self._begin_trial(rollout)
            return self._id, TrialCounts()
        elif rollout.id > self._newest_trial:
            self._versions.begin(rollout.version)
        return self._id, None

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
            prepared=tuple(version for version in self._versions.loaded if version != self._batcher.version),
            engine=self._engine,
            unlogged=self._log.dropped,
            error=error,
            unavailable=unavailable,
            trial=None if self._router.trial is None else self._router.trial.rollout.version,
        )

    async def _take_over(self, champion: Champion) -> None:
        """Serve ``champion``, which is in memory, from the next batch on. A trial ends: it was about another champion."""
        self._next = champion.version
        await self._end_trial()
        if champion.sequence > self._champion.sequence:  # no later move has come meanwhile
            self._serve(champion)

    def _serve(self, champion: Champion) -> None:
        assert champion.version is not None
        before = self._batcher.version
        if before != champion.version:
            predictor = self._versions[champion.version]
            predictor.work = self._telemetry.work
            self._telemetry.count_takeover(before, champion.version)
            self._batcher.serve(champion.version, predictor)
            self._engine = predictor.engine.description
            self._previous = before
        self._champion, self._error = champion, None
        self._forget_others()
        logger.info("%s: v%d serves (move %d)", self._settings.name, champion.version, champion.sequence)

    def _forget_others(self) -> None:
        """Keep in memory what serves, what is to take over or on trial, and the previous champion if it is small enough."""
        needed = {self._batcher.version, self._wanted, self._next}
        if self._router.trial is not None:
            needed.add(self._router.trial.rollout.version)
        if self._previous is not None and self._previous in self._versions and self._versions.fits(self._previous):
            needed.add(self._previous)
        self._versions.keep({version for version in needed if version is not None})

    def _begin_trial(self, rollout: Rollout) -> None:
        if rollout.version not in self._versions:  # dropped meanwhile: the next look at the registry loads it again
            self._newest_trial = rollout.id - 1
            return
        self._router.trial = Trial(
            rollout,
            self._versions[rollout.version],
            max_batch_tokens=self._settings.serving.max_batch_tokens,
            patience=self._settings.rollout.max_latency_ratio,
            keep=self._log.add_copy,
            mask=masker(self._settings.feedback.redact),
            quotes=self._settings.feedback.log > 0,
        )
        logger.info("%s: v%d is on trial (%s)", self._settings.name, rollout.version, rollout.state)

    async def _end_trial(self) -> None:
        """End the trial, if there is one. Its version leaves the memory, unless it is to take over."""
        trial, self._router.trial = self._router.trial, None
        if trial is None:
            return
        if self._wanted == trial.rollout.version:
            self._wanted = None
        await trial.close()
        logger.info("%s: the trial of v%d is over", self._settings.name, trial.rollout.version)

    def _load_at_start(self, champion: Champion) -> None:
        """Load and serve ``champion`` in this thread: at start there is no traffic to protect."""
        if champion.version is None:
            self._champion = champion
            return
        self._versions.load(champion.version)
        self._serve(champion)

    async def _follow(self, champion: Champion) -> None:
        """Prepare and serve ``champion``. If it cannot be prepared, keep the version that serves and report the reason."""
        assert champion.version is not None
        state = await self.prepare(champion.version)
        if state.error is not None:
            self._error = state.error
            logger.error("%s: the champion v%d cannot be served: %s", self._settings.name, champion.version, state.error)
        elif champion.sequence > self._champion.sequence:
            await self._take_over(champion)

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

    async def _follow_trial(self) -> None:
        """Run the trial that the registry has, if any; end one that it has no more. Never raises, and waits for no version."""
        running = self._router.trial
        try:
            active = await asyncio.to_thread(self._registry.rollouts.active, self._settings.name)
            if active is not None and active.state.trial:
                await self.try_out(active)
            elif self._router.trial is running:  # what has begun during the read is newer than its answer
                await self._end_trial()
        except BatonError as error:
            logger.warning("%s: the trial cannot be followed: %s", self._settings.name, error)
        except Exception:
            logger.exception("%s: following the trial failed", self._settings.name)

    async def _follow_registry_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.serving.poll_seconds)
            await self._follow_registry()
            await self._follow_trial()
            await self._keep_previous()

    async def _keep_previous(self) -> None:
        """Have the previous champion in memory, for a rollback, unless it is too large. Never raises."""
        followed = self._champion
        try:
            previous = await asyncio.to_thread(self._registry.previous_champion, self._settings.name)
            if previous not in (None, self._previous) and await asyncio.to_thread(self._versions.fits, previous):
                await self._versions.get(previous)
            if self._champion is not followed:  # what was read is of before the move
                return
            self._previous = previous
            self._forget_others()
            needed = {version for version in (self._batcher.version, previous, *self._versions.loaded) if version is not None}
            await asyncio.to_thread(self._versions.tidy_cache, needed)
        except BatonError as error:
            if self._champion is followed:
                self._previous = None
            logger.warning("%s: the previous champion is not kept in memory: %s", self._settings.name, error)
        except Exception:
            logger.exception("%s: keeping the previous champion failed", self._settings.name)

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
        self._polls = [  # several tasks: loading a version may take minutes, and revoked keys must not stay valid for that long
            asyncio.create_task(self._follow_registry_forever()),
            asyncio.create_task(self._keyring.refresh_forever(self._settings.serving.poll_seconds)),
            asyncio.create_task(flush_forever()),
        ]
        self._telemetry.start(self._batcher)

    async def _stop(self) -> None:
        for poll in self._polls:
            poll.cancel()
        await self._end_trial()
        self._telemetry.close()
        await self._batcher.close()
        await self._log.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
