"""The HTTP side of one replica, as raw ASGI: it admits requests, reads their bodies, and answers them in their dialect.

A framework would cost more time per request than a small model does. `services.replica.endpoints` has the paths. Knows nothing
of the hand-over between versions: `services.replica.replica` builds it and decides which version serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import to_json

from baton.config.model_settings import ModelSettings
from baton.errors import (
    BatonError,
    DeadlineExceeded,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    UnsupportedMediaType,
)
from baton.keys import Scope as KeyScope
from baton.store.records import ReplicaState
from baton.tasks import task_type
from services.asgi import Receive, Scope, Send, header
from services.bodies import timely
from services.keyring import Keyring
from services.log_sampling import new_answer_id
from services.names import REFUSED, ROOM
from services.open_inference import repository_index, server_metadata
from services.replica.batching import TIMED, Batcher
from services.replica.cors import Cors
from services.replica.endpoints import Action, Endpoint, Endpoints
from services.replica.info import info
from services.replica.prediction_log import PredictionLog
from services.replica.protocols import huggingface, inference_v2
from services.replica.protocols.dialect import Answer, Dialect, Message, ModelFacts
from services.replica.request_body import read_body
from services.replica.response import NO_CONTENT, Headers, Response, send_response
from services.replica.routing import Router
from services.replica.spans import RequestSpan
from services.replica.telemetry import Telemetry
from services.replica.versions import VersionFacts
from services.tracing import Tracer

logger = logging.getLogger("ray.serve")

NOT_READY_STATUS = 503

MAX_DIGITS = 12
"""Digits of a number in a header that are read: Python refuses to read thousands of them."""

MOST_REFUSED = 10_000
"""Maximum of refusals that one request may tell of: as many as HAProxy makes in a third of a second."""

LONGEST_PATIENCE_MS = 3_600_000
"""Milliseconds of ``x-request-timeout-ms``: an hour, after which HAProxy ends a request anyway."""


class _Asked(NamedTuple):
    """What a request is for."""

    path: str
    endpoint: Endpoint | None
    version: str
    """The number of the version that must answer; empty for no matter which."""
    span: RequestSpan | None
    """None: it is not traced."""


class ReplicaHttp:
    """Answers the HTTP requests of one replica.

    API keys are checked here, not only in front, because a replica's own port can be reached from the network.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        state: Callable[[], ReplicaState],
        facts: Callable[[int], VersionFacts | None],
        batcher: Batcher,
        router: Router,
        keyring: Keyring,
        prediction_log: PredictionLog,
        telemetry: Telemetry,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._model = ModelFacts(name=settings.name, task_cls=task_type(settings.task), max_inputs=settings.serving.max_inputs)
        self._task = settings.make_task(())
        self._state, self._facts = state, facts
        self._batcher, self._router = batcher, router
        self._keyring = keyring
        self._log = prediction_log
        self._telemetry = telemetry
        self._tracer = tracer
        self._endpoints = Endpoints(settings.name)
        self._cors = Cors(settings.serving.cors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Every answer, error or not, is a `Response` and is sent here."""
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        endpoint, version = self._endpoints.find(path)
        predicts = endpoint is not None and endpoint.action is Action.PREDICT
        span = None
        if predicts:
            self._note_refusals(scope)
            span = self._trace(scope)
        try:
            response = await self._respond(scope, receive, _Asked(path, endpoint, version, span))
        except Exception as error:
            response = self._failed(scope, endpoint, error)
        added = self._cors.headers(scope)
        if predicts and (room := self._batcher.room) is not None:
            added = (*added, (ROOM.encode(), b"%d" % room))
        if added:
            response = replace(response, headers=(*response.headers, *added))
        try:
            await send_response(response, send, head=scope["method"] == "HEAD")
        finally:
            if span is not None:
                span.end(response)

    def _trace(self, scope: Scope) -> RequestSpan | None:
        """Begin the spans of a request; None if it is not traced."""
        if self._tracer is None:
            return None
        caller = self._tracer.choose(header(scope, b"traceparent").decode("latin-1"))
        if caller is None:
            return None
        return RequestSpan(self._tracer, caller, model=self._settings.name, method=scope["method"], path=scope["path"])

    async def _respond(self, scope: Scope, receive: Receive, asked: _Asked) -> Response:
        endpoint, version = asked.endpoint, asked.version
        preflight = self._cors.preflight(scope)  # which browsers send without the key
        if preflight is not None:
            return Response(status=NO_CONTENT, headers=preflight, body=b"")
        if endpoint is None or not endpoint.open:
            self._keyring.admit(header(scope, b"authorization"), KeyScope.PREDICT, self._settings.name)
        if endpoint is None:
            raise self._not_found(asked.path)
        if scope["method"] not in endpoint.methods:
            raise MethodNotAllowed(f"{scope['method']} is not allowed here; use {endpoint.method}")
        if scope["method"] == "OPTIONS":
            return Response(status=NO_CONTENT, headers=(_allow(endpoint),), body=b"")
        if version and version not in map(str, self._router.versions):
            runs = ", ".join(map(str, self._router.versions)) or "none"
            raise NotFound(f"version {version!r} of {self._settings.name} does not run here; those that do: {runs}")
        if endpoint.action is Action.PREDICT:
            return await self._predict(scope, receive, endpoint.dialect, version, asked.span)
        if endpoint.action is Action.INDEX:
            return self._index(await read_body(scope, timely(receive), self._settings.serving.max_body_bytes))
        return self._describe(scope, endpoint.action)

    async def _predict(
        self, scope: Scope, receive: Receive, dialect: Dialect, version: str, span: RequestSpan | None
    ) -> Response:
        began = time.perf_counter()
        content_type = header(scope, b"content-type").partition(b";")[0].strip().lower()
        if content_type and content_type not in dialect.content_types:
            allowed = b", ".join(dialect.content_types).decode()
            raise UnsupportedMediaType(f"content type {content_type.decode('latin-1')!r}; allowed: {allowed}")
        body = await read_body(scope, timely(receive), self._settings.serving.max_body_bytes)
        call = dialect.read(Message(body=body, header=partial(header, scope)), self._model)
        task, chosen = self._task, call.options[0]
        explained = task.wants_explanation(chosen)
        if explained:
            self._check_explained(len(call.inputs))
        if self._batcher.version is None:
            raise NotReady(self._reason_not_ready())
        request_id = header(scope, b"x-request-id").decode("latin-1")
        answer_id = new_answer_id(request_id)
        patience = _patience_ms(scope)
        try:
            seconds = None if patience is None else max(patience / 1000 - (time.perf_counter() - began), 0.0)
            TIMED.set(span is not None)
            async with contextlib.nullcontext() if seconds is None else asyncio.timeout(seconds):
                prediction = await self._router.answer(
                    call.inputs,
                    call.options,
                    answer_id=answer_id,
                    key=header(scope, b"x-baton-key").decode("latin-1") or request_id,
                    version=version or header(scope, b"x-baton-version").decode("latin-1"),
                    seconds=seconds,
                    heavy=explained or task.copies(chosen) > task.copies(task.Options()),
                )
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {patience} ms, as x-request-timeout-ms demands") from None
        if span is not None:
            span.prediction = prediction
        self._log.add(
            answer_id,
            prediction.version,
            inputs=call.inputs,
            options=call.options,
            outputs=prediction.outputs,
            request_id=request_id,
        )
        facts = self._facts(prediction.version)
        rendered = call.render(
            Answer(
                outputs=prediction.outputs,
                version=prediction.version,
                labels=facts.labels if facts else (),
                request_id=request_id,
            )
        )
        response = Response(
            version=prediction.version,  # not the batcher's: a newer version may have taken over while this one ran
            headers=(
                (b"x-answer-id", answer_id.encode()),
                (b"x-queue-ms", b"%.2f" % prediction.queue_ms),
                (b"x-inference-ms", b"%.2f" % prediction.inference_ms),
                *self._abstentions(prediction.outputs, call.options, facts),
                *rendered.headers,
            ),
            body=rendered.body,
            content_type=rendered.content_type,
        )
        self._telemetry.count_prediction(prediction, time.perf_counter() - began)
        return response

    def _check_explained(self, inputs: int) -> None:
        most = self._settings.serving.max_explained
        if not most:
            raise InvalidInput(f"parameters.explain: {self._settings.name} explains no answers (serving.max_explained: 0)")
        if inputs > most:
            raise InvalidInput(f"parameters.explain: {inputs} inputs; at most {most} are explained in one request")

    def _abstentions(self, outputs: Sequence[Any], options: Sequence[Any], facts: VersionFacts | None) -> Headers:
        """Return the header that lists the inputs whose answers are too unsure to act on, by their positions from 0."""
        if facts is None or facts.abstain_below is None:
            return ()
        task, least = self._task, facts.abstain_below
        unsure = [
            index
            for index, (output, choice) in enumerate(zip(outputs, options, strict=True))
            if min(task.confidences(output, choice), default=least) < least
        ]
        self._telemetry.count_abstentions(len(unsure))
        return ((b"x-abstain", ",".join(map(str, unsure)).encode()),) if unsure else ()

    def _note_refusals(self, scope: Scope) -> None:
        """Count what the proxy refused since the last request that it let through, because there was no room.

        Whoever reaches this replica's own port can send the header, too.
        """
        refused = header(scope, REFUSED.encode())
        if refused.isdigit() and len(refused) <= MAX_DIGITS:
            count = min(int(refused), MOST_REFUSED)
            self._telemetry.count_error(self._batcher.version, Overloaded.status, Overloaded.title, count)
            self._batcher.note_refusals()

    def _failed(self, scope: Scope, endpoint: Endpoint | None, error: Exception) -> Response:
        """Return the answer to a request that raised ``error``, and count it.

        An unexpected error is logged, and the answer names only its type: its message may quote data or code.
        """
        if not isinstance(error, BatonError):
            request_id = header(scope, b"x-request-id").decode("latin-1")
            logger.error("%s: request %s failed", self._settings.name, request_id, exc_info=error)
            error = BatonError(f"internal error ({type(error).__name__})")
        if endpoint is None or endpoint.counted:
            self._telemetry.count_error(self._batcher.version, error.status, error.title)
        dialect = huggingface.DIALECT if endpoint is None else endpoint.dialect
        allow = (_allow(endpoint),) if endpoint is not None and isinstance(error, MethodNotAllowed) else ()
        return Response(
            status=dialect.status(error),
            version=self._batcher.version,
            headers=(*((name.encode(), value.encode()) for name, value in error.headers.items()), *allow),
            body=dialect.render_error(error),
        )

    def _describe(self, scope: Scope, action: Action) -> Response:
        """Return the answer of a path that takes no body."""
        version = self._batcher.version
        match action:
            case Action.HEALTH:
                if version is None:
                    raise NotReady(
                        self._keyring.reason_if_authorised(header(scope, b"authorization"), self._reason_not_ready())
                    )
                return self._answer({"status": "ok", "version": version})
            case Action.LIVE:
                return self._answer({"live": True})
            case Action.READY:
                named = {"name": self._settings.name} if "/models/" in _below_root(scope) else {}
                return self._answer({**named, "ready": version is not None}, NOT_READY_STATUS if version is None else 200)
            case Action.SERVER:
                return self._answer(server_metadata())
            case Action.MODEL:
                return self._answer(inference_v2.model_metadata(self._model, self._router.versions))
            case _:
                return self._answer(info(self._settings, self._state(), self._facts(version) if version else None))

    def _index(self, body: bytes) -> Response:
        version = self._batcher.version
        reason = self._reason_not_ready() if version is None else ""
        return self._answer(repository_index(body, {self._settings.name: (version, reason)}))

    def _answer(self, content: Any, status: int = 200) -> Response:
        return Response(status=status, version=self._batcher.version, body=to_json(content))

    def _not_found(self, path: str) -> NotFound:
        return NotFound(
            f"no path {path!r} here; POST the model's own URL, or GET /health or /info below it. Other dialects have /predict, "
            f"/v2/models/{self._settings.name}/infer and /v1/models/{self._settings.name}:predict (docs/protocols.md)"
        )

    def _reason_not_ready(self) -> str:
        name = self._settings.name
        error = self._state().error
        if error is not None:
            return f"{name}: {error}"
        return f"{name} has no champion yet; train one: baton train {name} --wait"


def _patience_ms(scope: Scope) -> int | None:
    """Return for how many milliseconds the caller waits; None without a limit. Raises ``InvalidInput``."""
    sent = header(scope, b"x-request-timeout-ms")
    if not sent:
        return None
    if not sent.isdigit() or len(sent) > MAX_DIGITS or not 1 <= int(sent) <= LONGEST_PATIENCE_MS:
        value = sent[:MAX_DIGITS].decode("latin-1")
        raise InvalidInput(f"x-request-timeout-ms: {value!r}; allowed: whole numbers from 1 to {LONGEST_PATIENCE_MS}")
    return int(sent)


def _below_root(scope: Scope) -> str:
    below: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return below


def _allow(endpoint: Endpoint) -> tuple[bytes, bytes]:
    return b"allow", ", ".join(endpoint.methods).encode()
