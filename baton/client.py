"""Baton for applications: predictions, and corrections of them. `Client` blocks, `AsyncClient` is its twin for asyncio.

    with Client("http://127.0.0.1:8000") as baton:
        answer = baton.predict("intents", "I was charged twice")
        baton.feedback("intents", id="ticket-4711", request_id=answer.request_id, label="refund_request")

Knows HTTP and nothing of tasks.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from baton.errors import BatonError, InvalidInput, NotReady

BATCH = 500
"""Corrections in one request."""

LABELS_LISTED = 100
"""New labels that a report lists."""

RETRIES = 3
TRY_AGAIN = (429, 503)
"""Statuses that say: not now."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds before a request is sent again, where the service does not say: the first pause, which doubles; and the most."""

TIMEOUT = 60.0
"""Seconds that an answer may take by default."""


Items = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""A correction, or any number of them."""


class ServiceError(BatonError):
    """The service answered with a problem: ``status`` is HTTP's, ``content`` its document."""

    def __init__(self, status: int, content: Mapping[str, Any]) -> None:
        super().__init__(str(content.get("detail") or content.get("error") or f"HTTP status {status}"))
        self.status = status
        self.content = content


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """``outputs``: for a list of inputs a list, else the answer to the one input; in the shapes of docs/tasks.md.

    ``request_id`` names the answer in feedback; of a list, with the ``position`` of the input in it. ``version`` gave it.
    """

    outputs: Any
    request_id: str
    version: int
    queue_ms: float
    inference_ms: float


@dataclass(frozen=True, kw_only=True)
class FeedbackReport:
    """What became of corrections. ``errors``: ``{"item", "error"}`` with the item's place among those sent, from 0; of very
    many not all are listed, but all are counted in ``rejected``. ``new_labels``: the first that the newest data set lacks.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    errors: Sequence[Mapping[str, Any]] = field(default_factory=list)
    new_labels: Sequence[str] = field(default_factory=list)

    def __add__(self, other: FeedbackReport) -> FeedbackReport:
        return FeedbackReport(
            accepted=self.accepted + other.accepted,
            duplicates=self.duplicates + other.duplicates,
            rejected=self.rejected + other.rejected,
            errors=[*self.errors, *other.errors],
            new_labels=sorted({*self.new_labels, *other.new_labels})[:LABELS_LISTED],
        )


def content_id(item: Mapping[str, Any]) -> str:
    """An id made of what a correction says: the same correction sent twice then counts once."""
    content = json.dumps({key: value for key, value in item.items() if key != "id"}, sort_keys=True, ensure_ascii=False)
    return f"content-{hashlib.blake2b(content.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request. ``again``: sending it twice does what sending it once does."""

    method: str
    path: str
    options: Mapping[str, Any]
    again: bool = False
    expected: tuple[int, ...] = ()
    """Statuses beside those of success that are no problem."""

    def settle(self, response: httpx.Response) -> httpx.Response:
        """``response``, or ``ServiceError`` where it is a problem."""
        if response.is_success or response.status_code in self.expected:
            return response
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            content = {"detail": f"HTTP status {response.status_code}: {response.text[:200]}"}
        raise ServiceError(response.status_code, content)

    def pause(self, attempt: int, retries: int, response: httpx.Response | None) -> float | None:
        """Seconds to wait before the next attempt; None where there is none. Without a response the connection broke."""
        if attempt >= retries or not self.again:
            return None
        if response is not None and response.status_code not in TRY_AGAIN:
            return None
        asked = "" if response is None else response.headers.get("retry-after", "")
        return min(float(asked) if asked.isdigit() else FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)


class _Base:
    """What both clients know: how calls are made of arguments, and results of answers."""

    def __init__(self, url: str, retries: int, key: str | None) -> None:
        self.url = url.rstrip("/")
        self._retries = retries
        self._headers = _authorization(key)

    def _gone(self, error: httpx.TransportError) -> NotReady:
        return NotReady(f"Baton does not answer at {self.url} ({error or type(error).__name__}); start it with `baton up`")


class Client(_Base):
    """One service at ``url``. Its connections are closed at the end of a ``with`` block or by `close`. Thread-safe.

    Methods raise ``ServiceError`` for the service's problems and ``NotReady`` when it is not there. What may be sent twice is
    sent again, up to ``retries`` times, when the service is busy (429 and 503, after as long as it asks for) or a connection
    breaks. ``key`` is an API key; it goes with every request.
    """

    def __init__(
        self, url: str, *, timeout: float | httpx.Timeout = TIMEOUT, retries: int = RETRIES, key: str | None = None
    ) -> None:
        super().__init__(url, retries, key)
        self._http = httpx.Client(base_url=self.url, timeout=timeout, headers=self._headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def predict(self, model: str, inputs: Any, *, request_id: str | None = None, **parameters: Any) -> Prediction:
        """The model's answer to one input or a list of them; ``parameters`` are the task's (``top_k=3``)."""
        return _prediction(inputs, self.send(_asked(model, inputs, request_id, parameters)))

    def feedback(self, model: str, items: Items = (), /, **item: Any) -> FeedbackReport:
        """Send corrections, any number of them, `BATCH` at a time, or the one that the keywords say.

        What the report counts is on disk. A batch is sent again after a failure only if all of its items have an ``id``:
        without, they would count twice. An error on the way leaves what went before it accepted.
        """
        report = FeedbackReport()
        for place, batch in _batches(items, item):
            report += _report(place, self.send(_told(model, batch)))
        return report

    def send(self, call: Call) -> httpx.Response:
        """The answer to any call, sent again where it may be."""
        attempt = 0
        while True:
            response = None
            try:
                response = self._http.request(call.method, call.path, **call.options)
            except httpx.TransportError as error:
                pause = call.pause(attempt, self._retries, None)
                if pause is None:
                    raise self._gone(error) from error
            else:
                pause = call.pause(attempt, self._retries, response)
                if pause is None:
                    return call.settle(response)
            time.sleep(pause)
            attempt += 1


class AsyncClient(_Base):
    """`Client` for asyncio, closed at the end of an ``async with`` block or by `close`; same methods, same errors."""

    def __init__(
        self, url: str, *, timeout: float | httpx.Timeout = TIMEOUT, retries: int = RETRIES, key: str | None = None
    ) -> None:
        super().__init__(url, retries, key)
        self._http = httpx.AsyncClient(base_url=self.url, timeout=timeout, headers=self._headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def predict(self, model: str, inputs: Any, *, request_id: str | None = None, **parameters: Any) -> Prediction:
        """As `Client.predict`."""
        return _prediction(inputs, await self.send(_asked(model, inputs, request_id, parameters)))

    async def feedback(self, model: str, items: Items = (), /, **item: Any) -> FeedbackReport:
        """As `Client.feedback`."""
        report = FeedbackReport()
        for place, batch in _batches(items, item):
            report += _report(place, await self.send(_told(model, batch)))
        return report

    async def send(self, call: Call) -> httpx.Response:
        """As `Client.send`."""
        attempt = 0
        while True:
            response = None
            try:
                response = await self._http.request(call.method, call.path, **call.options)
            except httpx.TransportError as error:
                pause = call.pause(attempt, self._retries, None)
                if pause is None:
                    raise self._gone(error) from error
            else:
                pause = call.pause(attempt, self._retries, response)
                if pause is None:
                    return call.settle(response)
            await asyncio.sleep(pause)
            attempt += 1


def _authorization(key: str | None) -> dict[str, str]:
    key = (key or "").strip()  # a file that holds it may end in a newline
    if not key:
        return {}
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidInput("the API key holds characters that no key has; it looks like baton_1f2e3d4c5b6a_…")
    return {"authorization": f"Bearer {key}"}


def _asked(model: str, inputs: Any, request_id: str | None, parameters: Mapping[str, Any]) -> Call:
    listed = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    return Call(
        method="POST",
        path=f"/models/{quote(model, safe='')}",
        options={
            "json": {"inputs": listed, "parameters": dict(parameters)},
            "headers": {"x-request-id": request_id or uuid.uuid4().hex},
        },
        again=True,
    )


def _prediction(inputs: Any, response: httpx.Response) -> Prediction:
    try:
        answers = response.json()
        return Prediction(
            outputs=answers if isinstance(inputs, list | tuple) else answers[0],
            request_id=response.headers.get("x-request-id") or response.request.headers["x-request-id"],
            version=int(response.headers["x-model-version"]),
            queue_ms=float(response.headers["x-queue-ms"]),
            inference_ms=float(response.headers["x-inference-ms"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _strange(response) from error


def _batches(items: Items, item: Mapping[str, Any]) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    listed = [items] if isinstance(items, Mapping) else items
    rest = itertools.chain(listed, [item] if item else [])
    place = 0
    while batch := list(itertools.islice(rest, BATCH)):
        yield place, batch
        place += len(batch)


def _told(model: str, batch: Sequence[Mapping[str, Any]]) -> Call:
    lines = "".join(json.dumps(item) + "\n" for item in batch)
    return Call(
        method="POST",
        path=f"/api/models/{quote(model, safe='')}/feedback",
        options={"content": lines.encode(), "headers": {"content-type": "application/x-ndjson"}},
        again=all(item.get("id") is not None for item in batch),
        expected=(422,),  # nothing could be used: the report says why
    )


def _report(place: int, response: httpx.Response) -> FeedbackReport:
    try:
        content = response.json()
        errors = [{**error, "item": place + error["item"]} for error in content["errors"]]
        counts = {key: content[key] for key in ("accepted", "duplicates", "rejected")}
    except (ValueError, LookupError, TypeError) as error:
        raise _strange(response) from error
    return FeedbackReport(**counts, errors=errors, new_labels=content.get("new_labels", []))


def _strange(response: httpx.Response) -> ServiceError:
    """For answers that look well and are not Baton's."""
    detail = f"{response.request.url} does not answer as Baton does: status {response.status_code}, {response.text[:200]!r}"
    return ServiceError(response.status_code, {"detail": detail})
