"""Steady load on a served model that keeps every answer. The demo, benchmarks and tests use it to observe a hand-over.

Knows the Hugging Face dialect and the version header. Does not know how versions change.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and its answer."""

    sent: float
    """When it was sent, in seconds of `time.perf_counter`."""
    answered: float
    """When its answer was complete, or its connection failed, in the same seconds."""
    status: int
    """HTTP status; 0 without an answer."""
    version: int | None
    """The version that answered; None without an answer, or if the answer names no version."""


class Traffic:
    """``concurrency`` clients that each send one request after the other, from the start of a ``with`` block to its end.

    Each request carries one of ``inputs``, in the form that the model's task takes.
    ``pause``: seconds between an answer and the client's next request, for a load that does not use all processors.
    """

    def __init__(self, url: str, inputs: Sequence[Any], concurrency: int, *, pause: float = 0.0) -> None:
        self._url, self._inputs, self._concurrency, self._pause = url, inputs, concurrency, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.exchanges: list[Exchange] = []
        """Every finished request so far, in the order of the answers. Grows while the load runs."""

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=self._concurrency)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(self._concurrency)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._stop.is_set():
            body = {"inputs": self._inputs[number % len(self._inputs)]}
            number += self._concurrency
            sent = time.perf_counter()
            status, version = 0, None
            try:
                async with session.post(self._url, json=body) as answer:
                    await answer.read()
                    status = answer.status
                    version = int(answer.headers["x-model-version"]) if "x-model-version" in answer.headers else None
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.01)  # a refused connection fails at once: do not spin on it
            self.exchanges.append(Exchange(sent=sent, answered=time.perf_counter(), status=status, version=version))
            if self._pause:
                await asyncio.sleep(self._pause)


def failed(exchanges: Sequence[Exchange]) -> int:
    """Return how many requests were not answered with status 200."""
    return sum(exchange.status != 200 for exchange in exchanges)


def stale(exchanges: Sequence[Exchange], version: int, since: float, until: float = float("inf")) -> int:
    """Return how many requests sent between ``since`` and ``until`` were answered 200 by another version than ``version``."""
    return sum(
        exchange.version != version for exchange in exchanges if since < exchange.sent < until and exchange.status == 200
    )


def latency_ms(exchanges: Sequence[Exchange], quantile: float) -> float:
    """Return a quantile of the latencies in milliseconds; NaN without requests."""
    if not exchanges:
        return float("nan")
    return float(np.quantile([exchange.answered - exchange.sent for exchange in exchanges], quantile)) * 1000
