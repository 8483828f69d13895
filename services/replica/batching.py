"""The batcher: runs a request at once when idle, collects requests while busy, and never mixes versions within a batch.

A long request does not hold up short ones for long. It runs one forward pass at a time, and between two of its passes the short
requests that wait are run. Its text is tokenized in its first step and its outputs are decoded in its last.

Knows predictors only by the two methods that it calls, and neither HTTP nor Ray. Everything but the model's thread lives on one
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from baton.errors import NotReady, Overloaded

T = TypeVar("T")

LONG_REQUEST_DIVISOR = 8
"""A request is long if it has more than ``max_batch_tokens`` divided by this; its forward passes are no larger than that.

So a short request waits for an eighth of a full batch at most, while the passes are still large enough to be efficient.
"""


class SupportsPredict(Protocol):
    """The part of a predictor that the batcher uses, on its own thread, one call at a time."""

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None) -> list[Any]:
        """Return one output for each input."""
        ...

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None
    ) -> Iterator[list[Any] | None]:
        """Compute `predict` in steps of at most ``budget`` tokens. Yield None after each step and the outputs last."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The result of one request."""

    outputs: list[Any]
    """One for each input of the request, in the same order."""
    version: int
    """The version that computed all of the outputs."""
    queue_ms: float
    """Milliseconds from `Batcher.submit` to the start of the batch."""
    inference_ms: float
    """Milliseconds that the model's thread ran for the batch; for a long request, the sum over its steps."""


@dataclass(kw_only=True, eq=False)
class _QueuedRequest:
    inputs: Sequence[Any]
    options: Sequence[Any]
    tokens: int
    future: asyncio.Future[Prediction]
    queued_at: float = field(default_factory=time.perf_counter)


@dataclass(kw_only=True, eq=False)
class _RunningLongRequest:
    """A long request whose first step has started."""

    request: _QueuedRequest
    version: int
    """The version that started the request also finishes it."""
    steps: Iterator[list[Any] | None]
    """The steps that have not run yet."""
    started_at: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    """Seconds that its steps have run so far."""


class Batcher:
    """Collects requests into batches for one model thread.

    A batch holds whole requests of together at most ``max_batch_tokens`` tokens, as ``estimate`` counts those of one input; a
    single larger request is a batch of its own. At most ``max_queue`` requests wait. A cancelled request is dropped before it
    costs a (further) forward pass. ``on_batch`` is called with the number of inputs and of tokens of each batch. ``niceness``
    is that of the thread (and of those that it starts): the scheduler prefers others if it is above 0.
    """

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        max_queue: int,
        estimate: Callable[[Any], int],
        on_batch: Callable[[int, int], None] = lambda inputs, tokens: None,
        niceness: int = 0,
    ) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._slice_tokens = max(1, max_batch_tokens // LONG_REQUEST_DIVISOR)
        self._max_queue = max_queue
        self._estimate = estimate
        self._on_batch = on_batch
        self._short: deque[_QueuedRequest] = deque()
        self._long: deque[_QueuedRequest] = deque()
        self._running_long: _RunningLongRequest | None = None
        self._busy: asyncio.Task[None] | None = None
        self._serving: tuple[int, SupportsPredict] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "model", partial(_be_nice, niceness) if niceness else None)

    @property
    def version(self) -> int | None:
        """The version that the next batch will run on; None before the first `serve`."""
        return None if self._serving is None else self._serving[0]

    @property
    def predictor(self) -> SupportsPredict | None:
        """What the next batch will run on; None before the first `serve`."""
        return None if self._serving is None else self._serving[1]

    @property
    def busy(self) -> bool:
        """Whether a batch is running or waits."""
        return self._busy is not None

    @property
    def waiting(self) -> int:
        """Number of requests that no batch has taken yet."""
        return len(self._short) + len(self._long)

    def serve(self, version: int, predictor: SupportsPredict) -> None:
        """Run every batch from now on with ``predictor``. The batch that is running finishes with the predictor before."""
        self._serving = (version, predictor)

    async def submit(self, inputs: Sequence[Any], options: Sequence[Any]) -> Prediction:
        """Wait for the result of one request, and return it.

        Raises:
            NotReady: no version is loaded, or the batcher is closed.
            Overloaded: ``max_queue`` requests wait already.
        """
        if self._closed:
            raise NotReady("the replica is shutting down")
        if self._serving is None:
            raise NotReady("no version is loaded yet")
        if self.waiting >= self._max_queue:
            raise Overloaded(f"{self.waiting} requests are waiting, the maximum of this replica (serving.max_queue); try again")
        tokens = sum(map(self._estimate, inputs))
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        request = _QueuedRequest(inputs=inputs, options=options, tokens=tokens, future=future)
        queue = self._long if tokens > self._slice_tokens else self._short
        queue.append(request)
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        try:
            return await future
        except asyncio.CancelledError:  # the client has gone: make room in the queue
            with contextlib.suppress(ValueError):  # no longer in the queue: it is running
                queue.remove(request)
            raise

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in the model's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Finish the requests that are running, fail those that wait, and stop the thread."""
        self._closed = True
        for request in (*self._short, *self._long):
            if not request.future.done():
                request.future.set_exception(NotReady("the replica is shutting down"))
        self._short.clear()
        self._long.clear()
        if self._busy is not None:
            await self._busy
        self._thread.shutdown(wait=False, cancel_futures=True)  # a wait would block the event loop

    async def _drain(self) -> None:
        try:
            while self._short or self._long or self._running_long:
                if batch := self._next_batch():
                    self._on_batch(sum(len(request.inputs) for request in batch), sum(request.tokens for request in batch))
                    await self._run(batch)
                await self._step_long_request()
        finally:
            self._busy = None

    def _next_batch(self) -> list[_QueuedRequest]:
        """Take the oldest short requests that fit in one batch; empty if none waits."""
        batch: list[_QueuedRequest] = []
        tokens = 0
        while self._short:
            request = self._short[0]
            if request.future.done():  # cancelled a moment ago, and not yet removed by `submit`
                self._short.popleft()
                continue
            if batch and tokens + request.tokens > self._max_batch_tokens:
                break
            tokens += request.tokens
            batch.append(self._short.popleft())
        return batch

    async def _step_long_request(self) -> None:
        """Run one forward pass of the long request that is running, or else of the next one; do nothing if none waits."""
        if self._running_long is None and self._long:
            assert self._serving is not None
            version, predictor = self._serving
            request = self._long.popleft()
            self._on_batch(len(request.inputs), request.tokens)
            steps = predictor.steps(request.inputs, request.options, self._slice_tokens)
            self._running_long = _RunningLongRequest(request=request, version=version, steps=steps)
        running = self._running_long
        if running is None:
            return
        if running.request.future.done():  # the client has gone
            self._running_long = None
            return
        step_started_at = time.perf_counter()
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, next, running.steps)
        except Exception as error:
            self._running_long = None
            if not running.request.future.done():
                running.request.future.set_exception(error)
            return
        running.seconds += time.perf_counter() - step_started_at
        if outputs is not None:
            self._running_long = None
            _resolve(running.request, outputs, running.version, running.started_at, running.seconds)

    async def _run(self, batch: list[_QueuedRequest]) -> None:
        assert self._serving is not None
        version, predictor = self._serving
        loop = asyncio.get_running_loop()
        started_at = time.perf_counter()
        inputs = [item for request in batch for item in request.inputs]
        options = [option for request in batch for option in request.options]
        try:
            outputs = await loop.run_in_executor(self._thread, predictor.predict, inputs, options)
        except Exception as error:
            await self._run_one_by_one(batch, error)
            return
        seconds = time.perf_counter() - started_at
        begin = 0
        for request in batch:
            end = begin + len(request.inputs)
            _resolve(request, outputs[begin:end], version, started_at, seconds)
            begin = end

    async def _run_one_by_one(self, batch: list[_QueuedRequest], error: Exception) -> None:
        """Run each request of a failed batch alone, so that only the one that caused ``error`` fails."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for request in batch:
            if not request.future.done():
                await self._run([request])


def _be_nice(niceness: int) -> None:
    """Give this thread a lower priority than others. Linux has priorities of threads; elsewhere nothing happens."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def _resolve(request: _QueuedRequest, outputs: list[Any], version: int, started_at: float, seconds: float) -> None:
    """Give a request its result, unless its client has gone. It started at ``started_at`` and ran for ``seconds``."""
    if not request.future.done():
        queue_ms, inference_ms = (started_at - request.queued_at) * 1000, seconds * 1000
        request.future.set_result(Prediction(outputs=outputs, version=version, queue_ms=queue_ms, inference_ms=inference_ms))
