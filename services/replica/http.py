"""The HTTP paths of one replica, as raw ASGI: predictions at the model's own URL, ``/health`` and ``/info`` below it.

A framework would cost more time per request than a small model does. Knows nothing of the hand-over between versions:
`services.replica.replica` builds it and decides which version serves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json

from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, BodyTooLarge, MethodNotAllowed, NotFound, NotReady, UnsupportedMediaType
from baton.keys import Scope as KeyScope
from baton.store.records import ReplicaState
from baton.tasks import task_type
from services.asgi import Receive, Scope, Send
from services.bodies import timely
from services.keyring import Keyring
from services.names import HEALTH
from services.replica.batching import Batcher
from services.replica.prediction_log import PredictionLog
from services.replica.protocols import huggingface
from services.replica.response import Response, send_response
from services.replica.routing import Router
from services.replica.telemetry import Telemetry

logger = logging.getLogger("ray.serve")

INFO = "/info"
"""Path below the model's URL that answers with the model's limits and the replica's state."""

PROBES = (HEALTH, INFO)
"""Paths below the model's URL for health checks and service discovery; their errors are not counted as the model's."""


class ReplicaHttp:
    """Answers the HTTP requests of one replica.

    API keys are checked here, not only in front, because a replica's own port can be reached from the network.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        state: Callable[[], ReplicaState],
        batcher: Batcher,
        router: Router,
        keyring: Keyring,
        prediction_log: PredictionLog,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._task_cls = task_type(settings.task)
        self._state = state
        self._batcher, self._router = batcher, router
        self._keyring = keyring
        self._log = prediction_log
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Every answer, error or not, is a `Response` and is sent here."""
        try:
            response = await self._respond(scope, receive)
        except Exception as error:
            response = self._failed(scope, error)
        await send_response(response, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        if path != HEALTH:
            self._keyring.admit(_header(scope, b"authorization"), KeyScope.PREDICT, self._settings.name)
        if path == "":
            _require_method(scope, "POST")
            return await self._predict(scope, receive)
        if path == HEALTH:
            _require_method(scope, "GET")
            return self._health(scope)
        if path == INFO:
            _require_method(scope, "GET")
            return Response(body=to_json(self._info()))
        raise NotFound(f"no path {path!r} here; POST the model's own URL, or GET /health or /info below it")

    async def _predict(self, scope: Scope, receive: Receive) -> Response:
        began = time.perf_counter()
        content_type = _header(scope, b"content-type").partition(b";")[0].strip().lower()
        if content_type not in (b"application/json", b""):
            raise UnsupportedMediaType(f"content type {content_type.decode('latin-1')!r}; allowed: application/json")
        serving = self._settings.serving
        body = await _read_body(scope, timely(receive), serving.max_body_bytes)
        request = huggingface.parse(body, self._task_cls, serving.max_inputs)
        if self._batcher.version is None:
            raise NotReady(self._reason_not_ready())
        request_id = _header(scope, b"x-request-id").decode("latin-1")
        prediction = await self._router.answer(
            request.inputs,
            request.options,
            request_id=request_id,
            key=_header(scope, b"x-baton-key").decode("latin-1") or request_id,
            version=_header(scope, b"x-baton-version").decode("latin-1"),
        )
        self._log.add(request_id, prediction.version, request.inputs, request.options, prediction.outputs)
        response = Response(
            version=prediction.version,  # not the batcher's: a newer version may have taken over while this one ran
            headers=((b"x-queue-ms", b"%.2f" % prediction.queue_ms), (b"x-inference-ms", b"%.2f" % prediction.inference_ms)),
            body=huggingface.render(prediction.outputs, self._task_cls, request.single),
        )
        self._telemetry.count_prediction(prediction, time.perf_counter() - began)
        return response

    def _failed(self, scope: Scope, error: Exception) -> Response:
        """Return the answer to a request that raised ``error``, and count it.

        An unexpected error is logged, and the answer names only its type: its message may quote data or code.
        """
        if not isinstance(error, BatonError):
            request_id = _header(scope, b"x-request-id").decode("latin-1")
            logger.error("%s: request %s failed", self._settings.name, request_id, exc_info=error)
            error = BatonError(f"internal error ({type(error).__name__})")
        if not scope["path"].endswith(PROBES):
            self._telemetry.count_error(self._batcher.version, error.status, error.title)
        return Response(
            status=error.status,
            version=self._batcher.version,
            headers=tuple((name.encode(), value.encode()) for name, value in error.headers.items()),
            body=huggingface.render_error(error),
        )

    def _health(self, scope: Scope) -> Response:
        version = self._batcher.version
        if version is None:
            reason = self._keyring.reason_if_authorised(_header(scope, b"authorization"), self._reason_not_ready())
            raise NotReady(reason)
        return Response(body=to_json({"status": "ok", "version": version}))

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
            **asdict(self._state()),
        }

    def _reason_not_ready(self) -> str:
        name = self._settings.name
        error = self._state().error
        if error is not None:
            return f"{name}: {error}"
        return f"{name} has no champion yet; train one: baton train {name} --wait"


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


def _require_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise MethodNotAllowed(f"{scope['method']} is not allowed here; use {method}")


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the request's body. Raise ``BodyTooLarge`` as soon as it is known to exceed ``limit`` bytes."""
    announced = _header(scope, b"content-length")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge(f"the body has {int(announced):,} bytes; at most {limit:,} are allowed (serving.max_body_bytes)")
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"the body has more than {limit:,} bytes, the maximum (serving.max_body_bytes)")
        if not message.get("more_body", False):
            return bytes(body)
