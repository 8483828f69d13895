"""The batcher: runs at once when idle, accumulates while busy, and never mixes versions within a batch.

Knows predictors only by their `predict`; knows neither HTTP nor Ray. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from baton.errors import NotReady, Overloaded


class Predicts(Protocol):
    """What the batcher needs of a predictor. Called on the batcher's own thread, one call at a time."""

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None) -> list[Any]:
        """One output for each input."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Outputs of one request, the version that gave them, and where the time went (milliseconds)."""

    outputs: list[Any]
    version: int
    queue_ms: float
    inference_ms: float


@dataclass(kw_only=True, eq=False)
class _Waiting:
    inputs: Sequence[Any]
    options: Sequence[Any]
    tokens: int
    future: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Collects requests into batches for one model thread.

    A batch holds whole requests up to ``max_batch_tokens`` (estimated by `estimate`); at most ``max_queue`` requests
    wait. A request whose caller gave up is dropped before it costs a forward pass.
    """

    def __init__(self, *, max_batch_tokens: int, max_queue: int, estimate: Callable[[Any], int]) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_queue = max_queue
        self._estimate = estimate
        self._waiting: deque[_Waiting] = deque()
        self._busy: asyncio.Task[None] | None = None
        self._serving: tuple[int, Predicts] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    @property
    def version(self) -> int | None:
        """The version that the next batch will run on."""
        return None if self._serving is None else self._serving[0]

    def serve(self, version: int, predictor: Predicts) -> None:
        """Swap one reference: every batch from now on runs on ``predictor``; one that is running finishes on the old."""
        self._serving = (version, predictor)

    async def submit(self, inputs: Sequence[Any], options: Sequence[Any]) -> Answer:
        """Outputs of one request.

        Raises:
            NotReady: no version is loaded, or the batcher is closed.
            Overloaded: ``max_queue`` requests are waiting.
        """
        if self._closed:
            raise NotReady("the replica is shutting down")
        if self._serving is None:
            raise NotReady("no version is loaded yet")
        if len(self._waiting) >= self._max_queue:
            raise Overloaded(f"{len(self._waiting)} requests are waiting, the most that this replica queues; try again")
        tokens = sum(map(self._estimate, inputs))
        waiting = _Waiting(inputs=inputs, options=options, tokens=tokens, future=asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        try:
            return await waiting.future
        except asyncio.CancelledError:  # its caller gave up: make room in the queue
            with contextlib.suppress(ValueError):  # it runs already
                self._waiting.remove(waiting)
            raise

    async def close(self) -> None:
        """Let the running batch finish, fail what waits, stop the thread."""
        self._closed = True
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                waiting.future.set_exception(NotReady("the replica is shutting down"))
        if self._busy is not None:
            await self._busy
        self._thread.shutdown()

    async def _drain(self) -> None:
        try:
            while batch := self._cut():
                await self._run(batch)
        finally:
            self._busy = None

    def _cut(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        tokens = 0
        while self._waiting:
            waiting = self._waiting[0]
            if waiting.future.done():  # cancelled by its caller
                self._waiting.popleft()
                continue
            if batch and tokens + waiting.tokens > self._max_batch_tokens:
                break
            tokens += waiting.tokens
            batch.append(self._waiting.popleft())
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        assert self._serving is not None
        version, predictor = self._serving
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        inputs = [item for waiting in batch for item in waiting.inputs]
        options = [option for waiting in batch for option in waiting.options]
        try:
            outputs = await loop.run_in_executor(self._thread, predictor.predict, inputs, options)
        except Exception as error:
            await self._run_apart(batch, error)
            return
        inference_ms = (time.perf_counter() - began) * 1000
        position = 0
        for waiting in batch:
            mine = outputs[position : position + len(waiting.inputs)]
            position += len(waiting.inputs)
            if not waiting.future.done():
                waiting.future.set_result(
                    Answer(
                        outputs=mine,
                        version=version,
                        queue_ms=(began - waiting.since) * 1000,
                        inference_ms=inference_ms,
                    )
                )

    async def _run_apart(self, batch: list[_Waiting], error: Exception) -> None:
        """One bad request must not fail its neighbours: run each alone, so that only the culprit gets the error."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for waiting in batch:
            await self._run([waiting])
