"""Callers that send one request after the other, each under an id and a key of its own, and correct some of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from benchmarks.service import MODEL


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered (or failed) request."""

    sent: float
    """When it was sent, in seconds of `time.monotonic`."""
    seconds: float
    status: int
    """HTTP status; 0 without an answer."""
    version: int | None


class Callers:
    """``number`` callers, from the start of a ``with`` block to its end.

    Each row is sent as a request. With ``corrected`` above 0, that share of the answers is followed by feedback with the row's
    label, a moment after the prediction log has the answer.
    """

    def __init__(self, url: str, rows: Sequence[Mapping[str, Any]], number: int, *, corrected: float = 0.0) -> None:
        self._url, self._rows, self._number, self._corrected = url, rows, number, corrected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._ids = itertools.count()
        self._mark = f"{random.getrandbits(32):08x}"
        self.answers: list[Answer] = []
        self.corrections = 0
        """Corrections that were accepted."""
        self.refused = 0
        """Corrections that were not."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(self._url, timeout=timeout) as session:
            waiting: set[asyncio.Task[None]] = set()
            await asyncio.gather(*(self._call(session, waiting) for _ in range(self._number)))
            await asyncio.gather(*waiting)

    async def _call(self, session: aiohttp.ClientSession, waiting: set[asyncio.Task[None]]) -> None:
        rng = random.Random(next(self._ids))
        while not self._stop.is_set():
            row = rng.choice(self._rows)
            name = f"{self._mark}-{next(self._ids)}"
            sent, status, version = time.monotonic(), 0, None
            try:
                async with session.post(
                    f"/models/{MODEL}", json={"inputs": row["text"]}, headers={"x-request-id": name}
                ) as answer:
                    await answer.read()
                    status = answer.status
                    version = int(answer.headers["x-model-version"]) if "x-model-version" in answer.headers else None
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.01)  # a refused connection fails at once: do not spin on it
            self.answers.append(Answer(sent=sent, seconds=time.monotonic() - sent, status=status, version=version))
            if status == 200 and rng.random() < self._corrected:
                task = asyncio.create_task(self._correct(session, name, row))
                waiting.add(task)
                task.add_done_callback(waiting.discard)

    async def _correct(self, session: aiohttp.ClientSession, name: str, row: Mapping[str, Any]) -> None:
        await asyncio.sleep(2.0)  # the log is written once a second
        body = {"request_id": name, "text": row["text"], "label": row["label"]}
        accepted = False
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(f"/api/models/{MODEL}/feedback", json=body) as answer:
                accepted = answer.ok and (await answer.json())["accepted"] == 1
        self.corrections += accepted
        self.refused += not accepted
