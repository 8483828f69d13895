"""One replica of one model: raw ASGI in front of the batcher, and the hand-over between versions.

`prepare` loads a version beside the serving one; `commit` swaps one reference. A slow poll repairs what a lost commit
left behind. Knows no other replica.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from ray import serve

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import (
    BatonError,
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    NotReady,
    RegistryError,
    StorageError,
    UnsupportedMediaType,
)
from baton.keys import Scope as KeyScope
from baton.predict.predictor import Predictor
from baton.store.records import Champion
from baton.store.registry import Registry
from baton.tasks import task_type
from services.asgi import Receive, Scope, Send
from services.keyring import Keyring
from services.names import HEALTH
from services.replica.batching import Batcher
from services.replica.prediction_log import PredictionLog
from services.replica.protocols import huggingface
from services.replica.telemetry import Telemetry

Headers = list[tuple[bytes, bytes]]

PROBES = ("/health", "/info")
"""Paths that are asked by machines, below the model's own."""

logger = logging.getLogger("ray.serve")


class ModelReplica:
    """The deployment class. ``settings`` is the model's `ModelSettings` as plain values; ``replica_id`` its name outside Serve.
    ``keys_required``: whether requests need an API key, which is checked here because anybody may reach a replica's own port.

    A replica that cannot load the champion still starts: it answers 503 with the reason and keeps trying.
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
        """``texts``: whether logs may quote requests."""
        if not texts:
            logs.conceal_texts()
        self._settings = ModelSettings.model_validate(settings)
        self._task = task_type(self._settings.task)
        self._registry = Registry(database)
        self._keyring = Keyring(self._registry.keys, required=keys_required)
        self._storage = Storage(storage)
        self._cache = Path(tempfile.gettempdir()) / "baton-versions"
        self._id = replica_id or serve.get_replica_context().replica_id.unique_id
        self._telemetry = Telemetry(self._settings.name, self._id, exported=replica_id is None)
        serving = self._settings.serving
        self._batcher = Batcher(
            max_batch_tokens=serving.max_batch_tokens,
            max_queue=serving.max_queue,
            estimate=self._settings.make_task(()).tokens,
            on_batch=self._telemetry.count_batch,
        )
        logs.state(logger, lambda: {"model": self._settings.name, "version": self._batcher.version})
        self._log = PredictionLog(
            self._settings.name, self._settings.make_task(()), self._settings.feedback, self._registry.feedback
        )
        self._champion = Champion(version=None, sequence=-1)
        self._prepared: dict[int, Predictor] = {}
        self._changing = asyncio.Lock()
        self._engine = ""
        self._problem: str | None = None
        self._polls: list[asyncio.Task[None]] = []
        try:
            self._adopt(self._registry.champion(self._settings.name))
        except BatonError as error:
            self._problem = str(error)
            logger.error("%s: not serving: %s", self._settings.name, error)
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"
            logger.exception("%s: not serving", self._settings.name)

    def __serve_build_asgi_app__(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Ray Serve's hook for an ASGI application that is built in the replica."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await self._asgi(scope, receive, send)

        return application  # uvicorn takes a bound method for an ASGI 2 application

    # --- hand-over, called by the control plane over a Serve handle --------------------------------------------------

    async def prepare(self, version: int) -> dict[str, Any]:
        """Download, verify, load, warm and self-check ``version`` beside the one that serves.

        Returns the replica's state; its ``error`` is None when the version is ready for `commit`, and ``unavailable`` says
        whether what keeps it from being so is an outage.
        """
        async with self._changing:
            try:
                if version not in (self._batcher.version, *self._prepared):
                    self._prepared = {version: await asyncio.to_thread(self._load, version)}
                return self._state(None)
            except (RegistryError, StorageError) as error:
                return {**self._state(str(error)), "unavailable": True}
            except BatonError as error:
                return self._state(str(error))
            except Exception as error:
                logger.exception("%s: preparing v%d failed", self._settings.name, version)
                return self._state(f"{type(error).__name__}: {error}")

    async def commit(self, version: int, sequence: int) -> dict[str, Any]:
        """Serve ``version`` from the next batch on. An older move than the one already made is ignored."""
        champion = Champion(version=version, sequence=sequence)
        if sequence > self._champion.sequence and (version in self._prepared or version == self._batcher.version):
            self._take_over(champion)
        elif sequence > self._champion.sequence:
            await self._follow(champion)
        return self._state(self._problem)

    async def state(self) -> dict[str, Any]:
        """Which version this replica serves, and what keeps it from the right one."""
        return self._state(self._problem)

    def _state(self, error: str | None) -> dict[str, Any]:
        return {
            "replica": self._id,
            "pid": os.getpid(),
            "version": self._batcher.version,
            "sequence": self._champion.sequence,
            "prepared": sorted(self._prepared),
            "engine": self._engine,
            "unlogged": self._log.dropped,
            "error": error,
            "unavailable": False,
        }

    def _load(self, version: int) -> Predictor:
        name = self._settings.name
        began = time.perf_counter()
        directory, manifest = self._storage.fetch(self._registry.version(name, version), self._cache)
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
            self._telemetry.took_over(self._batcher.version, champion.version)
            self._batcher.serve(champion.version, predictor)
            self._engine = predictor.engine.description
        self._champion, self._problem = champion, None
        logger.info("%s: v%d serves (move %d)", self._settings.name, champion.version, champion.sequence)

    def _adopt(self, champion: Champion) -> None:
        """Load and serve at start, when there is no traffic to protect."""
        if champion.version is None:
            self._champion = champion
            return
        self._prepared = {champion.version: self._load(champion.version)}
        self._take_over(champion)

    async def _follow(self, champion: Champion) -> None:
        """Catch up with the registry's pointer."""
        assert champion.version is not None
        state = await self.prepare(champion.version)
        if state["error"] is not None:
            self._problem = state["error"]
            logger.error("%s: cannot follow to v%d: %s", self._settings.name, champion.version, self._problem)
        elif champion.sequence > self._champion.sequence:
            self._take_over(champion)

    async def _catch_up(self) -> None:
        """Follow the registry's pointer if it is ahead of this replica; keep serving whatever goes wrong."""
        try:
            champion = await asyncio.to_thread(self._registry.champion, self._settings.name)
            if champion.version is not None and champion.sequence > self._champion.sequence:
                await self._follow(champion)
        except BatonError as error:  # a lost database
            logger.warning("%s: the registry does not answer: %s", self._settings.name, error)
        except Exception:
            logger.exception("%s: following the registry failed", self._settings.name)

    async def _keep_following(self) -> None:
        while True:
            await asyncio.sleep(self._settings.serving.poll_seconds)
            await self._catch_up()

    # --- HTTP --------------------------------------------------------------------------------------------------------

    async def _asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        request_id = _header(scope, b"x-request-id")  # Serve's middleware sets it where the client did not, and answers it
        headers: Headers = [(b"content-type", b"application/json")]
        try:
            status, body = 200, await self._respond(scope, receive, headers)
        except BatonError as error:
            status, body = error.status, huggingface.render_error(error)
            self._count(scope, status, error.title)
            headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
        except Exception as error:
            logger.exception("%s: request %s failed", self._settings.name, request_id.decode("latin-1"))
            self._count(scope, 500, BatonError.title)
            status, body = 500, huggingface.render_error(BatonError(f"internal error ({type(error).__name__})"))
        if status != 200 and self._batcher.version is not None:
            headers.append((b"x-model-version", b"%d" % self._batcher.version))
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _count(self, scope: Scope, status: int, kind: str) -> None:
        """Count an error, unless only a probe met it."""
        if not scope["path"].endswith(PROBES):
            self._telemetry.failed(self._batcher.version, status, kind)

    async def _respond(self, scope: Scope, receive: Receive, headers: Headers) -> bytes:
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        if path != HEALTH:
            self._keyring.admit(_header(scope, b"authorization"), KeyScope.PREDICT, self._settings.name)
        if path == "":
            _require(scope, "POST")
            return await self._predict(scope, receive, headers)
        if path == HEALTH:
            _require(scope, "GET")
            if self._batcher.version is None:
                raise NotReady(self._keyring.reason_if_authorised(_header(scope, b"authorization"), self._why_not_ready()))
            return to_json({"status": "ok", "version": self._batcher.version})
        if path == "/info":
            _require(scope, "GET")
            return to_json(self._info())
        raise NotFound(f"no path {path!r} here; POST the model's own URL, or GET /health or /info below it")

    async def _predict(self, scope: Scope, receive: Receive, headers: Headers) -> bytes:
        began = time.perf_counter()
        content_type = _header(scope, b"content-type").partition(b";")[0].strip().lower()
        if content_type not in (b"application/json", b""):
            raise UnsupportedMediaType(f"content type {content_type.decode('latin-1')!r}; allowed: application/json")
        serving = self._settings.serving
        body = await _read(scope, receive, serving.max_body_bytes)
        request = huggingface.parse(body, self._task, serving.max_inputs)
        if self._batcher.version is None:
            raise NotReady(self._why_not_ready())
        answer = await self._batcher.submit(request.inputs, request.options)
        headers += [
            (b"x-model-version", b"%d" % answer.version),
            (b"x-queue-ms", b"%.2f" % answer.queue_ms),
            (b"x-inference-ms", b"%.2f" % answer.inference_ms),
        ]
        request_id = _header(scope, b"x-request-id").decode("latin-1")
        self._log.add(request_id, answer.version, request.inputs, request.options, answer.outputs)
        body = huggingface.render(answer.outputs, self._task, request.single)
        self._telemetry.answered(answer, time.perf_counter() - began)
        return body

    def _why_not_ready(self) -> str:
        name = self._settings.name
        if self._problem is not None:
            return f"{name}: {self._problem}"
        return f"{name} has no champion yet; train one: baton train {name} --wait"

    def _info(self) -> dict[str, Any]:
        serving = self._settings.serving
        return {
            "model": self._settings.name,
            "task": self._settings.task,
            "base_model": self._settings.base_model,
            "max_input_length": self._settings.max_length,
            "max_batch_tokens": serving.max_batch_tokens,
            "max_client_batch_size": serving.max_inputs,
            "max_body_bytes": serving.max_body_bytes,
            **self._state(self._problem),
        }

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._catch_up()  # the pointer may have moved while this replica was loading; it is not routed to yet
                await self._keyring.try_refresh()
                keys = self._keyring.refresh_forever(
                    self._settings.serving.poll_seconds
                )  # apart: a version may load for minutes
                self._polls = [asyncio.create_task(self._keep_following()), asyncio.create_task(keys)]
                self._telemetry.start(self._batcher)
                await send({"type": "lifespan.startup.complete"})
            else:
                for poll in self._polls:
                    poll.cancel()
                self._telemetry.close()
                await self._batcher.close()
                await self._log.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


def _require(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise MethodNotAllowed(f"{scope['method']} is not allowed here; use {method}")


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body. Raises ``BodyTooLarge`` as soon as it is known to exceed ``limit`` bytes."""
    announced = _header(scope, b"content-length")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge(f"the body has {int(announced):,} bytes; at most {limit:,} are allowed (serving.max_body_bytes)")
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"the body has more than {limit:,} bytes, the most that is allowed (serving.max_body_bytes)")
        if not message.get("more_body", False):
            return bytes(body)
