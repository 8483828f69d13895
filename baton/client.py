"""The client for applications: predictions and corrections. `Client` blocks; `AsyncClient` has the same methods for asyncio.

    with Client("http://127.0.0.1:8000") as baton:
        answer = baton.predict("intents", "I was charged twice")
        baton.feedback("intents", id="ticket-4711", answer_id=answer.answer_id, label="refund_request")

Knows HTTP and nothing of tasks.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from baton.errors import BatonError, InvalidInput, NotReady

BATCH = 500
"""Maximum number of corrections in one request."""

LABELS_LISTED = 100
"""Maximum number of new labels that a report lists."""

RETRIES = 3
"""Default number of retries of one request."""

RETRY_STATUSES = (429, 503)
"""Statuses after which a request may be retried: the service is busy or not ready."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds before the first retry, and the maximum. The pause doubles with each retry, unless the answer has ``Retry-After``."""

TIMEOUT = 60.0
"""Default timeout of a request in seconds."""

HttpClient = TypeVar("HttpClient", httpx.Client, httpx.AsyncClient)

Items = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""One correction, or any number of them."""


class ServiceError(BatonError):
    """The service answered with an error."""

    def __init__(self, status: int, content: Mapping[str, Any]) -> None:
        """``status``: the HTTP status. ``content``: the JSON document of the error (RFC 9457)."""
        super().__init__(str(content.get("detail") or content.get("error") or f"HTTP status {status}"))
        self.status = status
        self.content = content


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to one request."""

    outputs: Any
    """One output, or a list of outputs if the request had a list of inputs. docs/tasks.md describes their form."""
    answer_id: str
    """Id of the answer for `Client.feedback`. For a list of inputs, also pass the ``position`` of an input, from 0.

    Empty from a service before 0.2; it knows answers by ``request_id`` only.
    """
    request_id: str
    """The request's own id: the one that was passed, or a new one."""
    version: int
    """The version of the model that answered."""
    queue_ms: float
    """Milliseconds that the request waited for a batch."""
    inference_ms: float
    """Milliseconds that the model took."""
    unsure: Sequence[int] = ()
    """Positions, from 0, of the inputs whose answers are too unsure to act on, by the model's ``serving.abstain_below``."""


@dataclass(frozen=True, kw_only=True)
class FeedbackReport:
    """How many corrections were stored, and why others were not. Two reports can be added."""

    accepted: int = 0
    """Corrections that were stored."""
    duplicates: int = 0
    """Corrections whose ``id`` was already stored with the same answer."""
    replaced: int = 0
    """How many of the accepted ones took the place of an earlier one with the same ``id``."""
    rejected: int = 0
    """Corrections that are not valid."""
    errors: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """The first rejected corrections: ``item`` (its position among the corrections sent, from 0) and ``error``."""
    new_labels: Sequence[str] = field(default_factory=list)
    """Labels that the newest data set does not contain, at most `LABELS_LISTED`."""

    def __add__(self, other: FeedbackReport) -> FeedbackReport:
        return FeedbackReport(
            accepted=self.accepted + other.accepted,
            duplicates=self.duplicates + other.duplicates,
            replaced=self.replaced + other.replaced,
            rejected=self.rejected + other.rejected,
            errors=[*self.errors, *other.errors],
            new_labels=sorted({*self.new_labels, *other.new_labels})[:LABELS_LISTED],
        )


def content_id(item: Mapping[str, Any]) -> str:
    """Return an id computed from the content of a correction, so that the same correction sent twice counts once."""
    told = {key: value for key, value in item.items() if key != "id" and not key.startswith("_")}  # `_` begins notes
    content = json.dumps(told, sort_keys=True, ensure_ascii=False)
    return f"content-{hashlib.blake2b(content.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request."""

    method: str
    path: str
    options: Mapping[str, Any]
    """Keyword arguments of ``httpx.Client.request``."""
    idempotent: bool = False
    """Whether the request may be sent again: sending it twice has the same effect as sending it once."""
    expected: tuple[int, ...] = ()
    """Statuses other than 2xx that are not errors."""

    def checked(self, response: httpx.Response) -> httpx.Response:
        """Return ``response``. Raises ``ServiceError`` if its status is an error."""
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
        """Return the seconds to wait before the next attempt, or None to give up. No ``response``: the connection broke.

        Who is asked to wait for longer than `LONGEST_PAUSE` gives up, because a retry before that would fail as well.
        """
        if attempt >= retries or not self.idempotent:
            return None
        if response is not None and response.status_code not in RETRY_STATUSES:
            return None
        requested = "" if response is None else response.headers.get("retry-after", "")
        if requested.isascii() and requested.isdigit():
            return float(requested) if float(requested) <= LONGEST_PAUSE else None
        return min(FIRST_PAUSE * 2.0**attempt, LONGEST_PAUSE)


class _Base:
    """State and errors that both clients share."""

    def __init__(self, url: str, retries: int, key: str | None) -> None:
        self.url = url.rstrip("/")
        self._retries = retries
        self._headers = _authorization(key)
        # Certificates take longer to load than all the rest, and a plain connection, which follows no redirect, checks none.
        encrypted = not self.url.lower().startswith("http://")
        self._options = {"base_url": self.url, "headers": self._headers, "verify": encrypted, "trust_env": not on_loopback(url)}

    def _open(self, open_client: Callable[..., HttpClient], **options: Any) -> HttpClient:
        """Return a client of httpx. Raises ``NotReady`` if it lacks what the proxy in the environment needs."""
        try:
            return open_client(**self._options, **options)
        except ImportError as error:  # socksio
            raise NotReady(
                f"calls to {self.url} go through the SOCKS proxy in the environment (ALL_PROXY, HTTP_PROXY, HTTPS_PROXY), and "
                "httpx needs a package for it: `pip install 'httpx[socks]'`. Or name the host in NO_PROXY"
            ) from error

    def _no_answer(self, error: httpx.TransportError) -> NotReady:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return NotReady(f"Baton does not answer at {self.url} ({why}); start it with `baton up`")
        return NotReady(
            f"the connection to Baton at {self.url} broke before it answered ({why}): what it was asked to do may have been "
            "done; `baton status` and `baton history` show it"
        )


class Client(_Base):
    """A client of the service at ``url``. Thread-safe. Close it with a ``with`` block or with `close`.

    Methods raise ``ServiceError`` if the service answers with an error, and ``NotReady`` if it does not answer. A request that
    is safe to send twice is retried up to ``retries`` times: when the service is busy (429 and 503, after the time in its
    ``Retry-After``), and when the connection breaks.

    ``timeout``: seconds, or an ``httpx.Timeout``. ``key``: API key, sent with every request; None: no key.
    ``transport``: what carries the requests instead of the network, as in httpx.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | httpx.Timeout = TIMEOUT,
        retries: int = RETRIES,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, retries, key)
        self._http = self._open(httpx.Client, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def predict(self, model: str, inputs: Any, *, request_id: str | None = None, **parameters: Any) -> Prediction:
        """Return the answer to one input or a list of inputs. ``parameters``: those of the task, for example ``top_k=3``."""
        return _prediction(inputs, self.send(_predict_call(model, inputs, request_id, parameters)))

    def feedback(self, model: str, items: Items = (), /, **item: Any) -> FeedbackReport:
        """Send corrections: ``items`` in batches of `BATCH`, or one correction given as keywords.

        Corrections that the report counts are stored durably. A failed batch is retried only if each of its items has an
        ``id``; without ids, a retry could store them twice. If a batch fails with an error, earlier batches remain stored.
        """
        report = FeedbackReport()
        for first, batch in _batches(items, item):
            report += _report(first, self.send(_feedback_call(model, batch)))
        return report

    def send(self, call: Call) -> httpx.Response:
        """Send a request, with retries, and return the response. Raises ``ServiceError`` or ``NotReady``."""
        attempt = 0
        while True:
            response = None
            try:
                response = self._http.request(call.method, call.path, **call.options)
            except httpx.TransportError as error:
                pause = call.pause(attempt, self._retries, None)
                if pause is None:
                    raise self._no_answer(error) from error
            else:
                pause = call.pause(attempt, self._retries, response)
                if pause is None:
                    return call.checked(response)
            time.sleep(pause)
            attempt += 1


class AsyncClient(_Base):
    """`Client` for asyncio, with the same methods and errors. Close it with an ``async with`` block or with `close`."""

    def __init__(
        self, url: str, *, timeout: float | httpx.Timeout = TIMEOUT, retries: int = RETRIES, key: str | None = None
    ) -> None:
        super().__init__(url, retries, key)
        self._http = self._open(httpx.AsyncClient, timeout=timeout)

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
        """See `Client.predict`."""
        return _prediction(inputs, await self.send(_predict_call(model, inputs, request_id, parameters)))

    async def feedback(self, model: str, items: Items = (), /, **item: Any) -> FeedbackReport:
        """See `Client.feedback`."""
        report = FeedbackReport()
        for first, batch in _batches(items, item):
            report += _report(first, await self.send(_feedback_call(model, batch)))
        return report

    async def send(self, call: Call) -> httpx.Response:
        """See `Client.send`."""
        attempt = 0
        while True:
            response = None
            try:
                response = await self._http.request(call.method, call.path, **call.options)
            except httpx.TransportError as error:
                pause = call.pause(attempt, self._retries, None)
                if pause is None:
                    raise self._no_answer(error) from error
            else:
                pause = call.pause(attempt, self._retries, response)
                if pause is None:
                    return call.checked(response)
            await asyncio.sleep(pause)
            attempt += 1


def on_loopback(url: str) -> bool:
    """Return whether ``url`` is of this machine's loopback, which no proxy in the environment may be asked for."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _authorization(key: str | None) -> dict[str, str]:
    key = (key or "").strip()  # a key that was read from a file may end in a newline
    if not key:
        return {}
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidInput("the API key contains characters that no key has; a key looks like baton_1f2e3d4c5b6a_…")
    return {"authorization": f"Bearer {key}"}


def _predict_call(model: str, inputs: Any, request_id: str | None, parameters: Mapping[str, Any]) -> Call:
    listed = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    return Call(
        method="POST",
        path=f"/models/{quote(model, safe='')}",
        options={
            "json": {"inputs": listed, "parameters": dict(parameters)},
            "headers": {"x-request-id": request_id or uuid.uuid4().hex},
        },
        idempotent=True,
    )


def _prediction(inputs: Any, response: httpx.Response) -> Prediction:
    try:
        answers = response.json()
        return Prediction(
            outputs=answers if isinstance(inputs, list | tuple) else answers[0],
            answer_id=response.headers.get("x-answer-id", ""),
            request_id=response.headers.get("x-request-id") or response.request.headers["x-request-id"],
            version=int(response.headers["x-model-version"]),
            queue_ms=float(response.headers["x-queue-ms"]),
            inference_ms=float(response.headers["x-inference-ms"]),
            unsure=tuple(int(position) for position in response.headers.get("x-abstain", "").split(",") if position),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _not_baton(response) from error


def _batches(items: Items, item: Mapping[str, Any]) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    listed = [items] if isinstance(items, Mapping) else items
    rest = itertools.chain(listed, [item] if item else [])
    first = 0
    while batch := list(itertools.islice(rest, BATCH)):
        yield first, batch
        first += len(batch)


def _feedback_call(model: str, batch: Sequence[Mapping[str, Any]]) -> Call:
    lines = "".join(json.dumps(item) + "\n" for item in batch)
    return Call(
        method="POST",
        path=f"/api/models/{quote(model, safe='')}/feedback",
        options={"content": lines.encode(), "headers": {"content-type": "application/x-ndjson"}},
        idempotent=all(item.get("id") is not None for item in batch),
        expected=(422,),  # all corrections were rejected: the report says why
    )


def _report(first: int, response: httpx.Response) -> FeedbackReport:
    try:
        content = response.json()
        errors = [{**error, "item": first + error["item"]} for error in content["errors"]]
        counts = {key: content[key] for key in ("accepted", "duplicates", "rejected")}
    except (ValueError, LookupError, TypeError) as error:
        raise _not_baton(response) from error
    replaced = content.get("replaced", 0)  # services of Baton 0.1 replace none
    return FeedbackReport(**counts, replaced=replaced, errors=errors, new_labels=content.get("new_labels", []))


def _not_baton(response: httpx.Response) -> ServiceError:
    """Return the error for a successful answer that is not one of Baton's."""
    detail = f"{response.request.url} does not answer as Baton does: status {response.status_code}, {response.text[:200]!r}"
    return ServiceError(response.status_code, {"detail": detail})
