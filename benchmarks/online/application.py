"""A simulated application: sends texts at a steady rate, and corrects a share of the answers by their request ids."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

from benchmarks.online.scenario import CORRECTED, SEED, Rows


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request of the application."""

    at: float
    """When it was sent, in seconds since the application started."""
    status: int
    """HTTP status; 0 without an answer."""
    version: int | None
    right: bool
    """Whether the first label was right."""
    latency: float
    """In seconds."""


class Application:
    """Sends ``rows`` in a separate thread, from the start of a ``with`` block until all are sent or the block ends."""

    def __init__(self, url: str, feedback_url: str, rows: Rows, *, per_second: float, concurrency: int = 8) -> None:
        self._url, self._feedback_url, self._rows = url, feedback_url, rows
        self._pause, self._concurrency = concurrency / per_second, concurrency
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.exchanges: list[Exchange] = []
        self.corrections = 0
        self.failed_corrections = 0

    def __enter__(self) -> Application:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def finished(self) -> bool:
        """Return whether all texts were sent."""
        return not self._thread.is_alive()

    async def _run(self) -> None:
        rng = random.Random(SEED)
        queue = [(number, row, rng.random() < CORRECTED) for number, row in enumerate(self._rows)][::-1]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            await asyncio.gather(*(self._client(session, queue) for _ in range(self._concurrency)))

    async def _client(self, session: aiohttp.ClientSession, queue: list[tuple[int, dict[str, Any], bool]]) -> None:
        while queue and not self._stop.is_set():
            number, row, corrects = queue.pop()
            due = time.perf_counter() + self._pause
            await self._predict(session, number, row)
            if corrects:
                await self._correct(session, number, row)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _predict(self, session: aiohttp.ClientSession, number: int, row: dict[str, Any]) -> None:
        sent = time.perf_counter()
        status, version, right = 0, None, False
        try:
            headers = {"x-request-id": f"app-{number}"}
            async with session.post(self._url, json={"inputs": row["text"]}, headers=headers) as answer:
                status = answer.status
                if status == 200:
                    right = (await answer.json())[0][0]["label"] == row["label"]
                    version = int(answer.headers["x-model-version"])
        except (aiohttp.ClientError, TimeoutError):
            pass
        now = time.perf_counter()
        self.exchanges.append(Exchange(at=sent - self._began, status=status, version=version, right=right, latency=now - sent))

    async def _correct(self, session: aiohttp.ClientSession, number: int, row: dict[str, Any]) -> None:
        item = {"id": f"app-{number}", "request_id": f"app-{number}", "text": row["text"], "label": row["label"]}
        try:
            async with session.post(self._feedback_url, json=item) as answer:
                ok = answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            ok = False
        self.corrections += ok
        self.failed_corrections += not ok
