"""The batcher: runs at once when idle, accumulates while busy, and never mixes versions within a batch.

A long request does not hold up short ones for long: it runs one forward pass at a time, and between two of them whatever
waits has its turn (its text is tokenised in the first of them and its answer decoded after the last). Knows predictors only by
the two methods that it calls; knows neither HTTP nor Ray. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from baton.errors import NotReady, Overloaded

LONG_REQUEST_DIVISOR = 8
"""A request is long when it exceeds this part of a batch's token budget; its forward passes are no larger than that."""


class Predicts(Protocol):
    """What the batcher needs of a predictor. Called on the batcher's own thread, one call at a time."""

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None) -> list[Any]:
        """One output for each input."""
        ...

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None
    ) -> Iterator[list[Any] | None]:
        """The same in steps of at most ``budget`` tokens: None after each, the outputs last."""
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


@dataclass(kw_only=True, eq=False)
class _RunningLongRequest:
    """A long request that has begun: the version that answers it, its steps to come, and when and how long it ran (seconds)."""

    waiting: _Waiting
    version: int
    steps: Iterator[list[Any] | None]
    began: float = field(default_factory=time.perf_counter)
    spent: float = 0.0


class Batcher:
    """Collects requests into batches for one model thread.

    A batch holds whole requests up to ``max_batch_tokens`` (estimated by `estimate`); at most ``max_queue`` requests
    wait. A request whose caller gave up is dropped before it costs a (further) forward pass. ``on_batch`` gets each batch:
    its inputs and its tokens.
    """

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        max_queue: int,
        estimate: Callable[[Any], int],
        on_batch: Callable[[int, int], None] = lambda inputs, tokens: None,
    ) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._slice_tokens = max(1, max_batch_tokens // LONG_REQUEST_DIVISOR)
        self._max_queue = max_queue
        self._estimate = estimate
        self._on_batch = on_batch
        self._short: deque[_Waiting] = deque()
        self._long: deque[_Waiting] = deque()
        self._begun: _RunningLongRequest | None = None
        self._busy: asyncio.Task[None] | None = None
        self._serving: tuple[int, Predicts] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    @property
    def version(self) -> int | None:
        """The version that the next batch will run on."""
        return None if self._serving is None else self._serving[0]

    @property
    def waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return len(self._short) + len(self._long)

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
        if self.waiting >= self._max_queue:
            raise Overloaded(f"{self.waiting} requests are waiting, the most that this replica queues; try again")
        tokens = sum(map(self._estimate, inputs))
        waiting = _Waiting(inputs=inputs, options=options, tokens=tokens, future=asyncio.get_running_loop().create_future())
        queue = self._long if tokens > self._slice_tokens else self._short
        queue.append(waiting)
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        try:
            return await waiting.future
        except asyncio.CancelledError:  # its caller gave up: make room in the queue
            with contextlib.suppress(ValueError):  # it runs already
                queue.remove(waiting)
            raise

    async def close(self) -> None:
        """Let what has begun finish, fail what waits, stop the thread."""
        self._closed = True
        for waiting in (*self._short, *self._long):
            if not waiting.future.done():
                waiting.future.set_exception(NotReady("the replica is shutting down"))
        self._short.clear()
        self._long.clear()
        if self._busy is not None:
            await self._busy
        self._thread.shutdown()

    async def _drain(self) -> None:
        try:
            while self._short or self._long or self._begun:
                if batch := self._next_batch():
                    self._on_batch(sum(len(waiting.inputs) for waiting in batch), sum(waiting.tokens for waiting in batch))
                    await self._run(batch)
                await self._step_long_request()
        finally:
            self._busy = None

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        tokens = 0
        while self._short:
            waiting = self._short[0]
            if waiting.future.done():  # its caller has just given up
                self._short.popleft()
                continue
            if batch and tokens + waiting.tokens > self._max_batch_tokens:
                break
            tokens += waiting.tokens
            batch.append(self._short.popleft())
        return batch

    async def _step_long_request(self) -> None:
        """One forward pass of the long request that has begun, or of the next one."""
        if self._begun is None and self._long:
            assert self._serving is not None
            version, predictor = self._serving
            waiting = self._long.popleft()
            self._on_batch(len(waiting.inputs), waiting.tokens)
            steps = predictor.steps(waiting.inputs, waiting.options, self._slice_tokens)
            self._begun = _RunningLongRequest(waiting=waiting, version=version, steps=steps)
        begun = self._begun
        if begun is None:
            return
        if begun.waiting.future.done():  # its caller gave up
            self._begun = None
            return
        since = time.perf_counter()
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, next, begun.steps)
        except Exception as error:
            self._begun = None
            if not begun.waiting.future.done():
                begun.waiting.future.set_exception(error)
            return
        begun.spent += time.perf_counter() - since
        if outputs is not None:
            self._begun = None
            _answer(begun.waiting, outputs, begun.version, begun.began, begun.spent)

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
        spent = time.perf_counter() - began
        position = 0
        for waiting in batch:
            mine = outputs[position : position + len(waiting.inputs)]
            position += len(waiting.inputs)
            _answer(waiting, mine, version, began, spent)

    async def _run_apart(self, batch: list[_Waiting], error: Exception) -> None:
        """One bad request must not fail its neighbours: run each alone, so that only the culprit gets the error."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for waiting in batch:
            if not waiting.future.done():
                await self._run([waiting])


def _answer(waiting: _Waiting, outputs: list[Any], version: int, began: float, spent: float) -> None:
    """Resolve a request that began to run at ``began`` and took ``spent`` seconds, unless its caller gave up."""
    if not waiting.future.done():
        queue_ms, inference_ms = (began - waiting.since) * 1000, spent * 1000
        waiting.future.set_result(Answer(outputs=outputs, version=version, queue_ms=queue_ms, inference_ms=inference_ms))
