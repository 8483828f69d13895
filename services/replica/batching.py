"""The batcher: runs a request at once when idle, collects requests while busy, and never mixes versions within a batch.

A batch is no larger than makes it cheaper: when starting it is a small part of its cost, requests would wait for each other's
answers and gain nothing. A long request does not hold up short ones for long: it is tokenized in a thread of its own, runs one
forward pass at a time, and between two of its passes the short requests that wait are run. Short and long ones wait apart, and
are refused at once if they would wait for too long (`queues`).

Knows predictors only by `SupportsPredict`, and neither HTTP nor Ray. Everything but the model's thread lives on one
event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from baton.errors import NotReady
from services.replica.queues import Pace, Queue, QueuedRequest, Speed

T = TypeVar("T")

LONG_REQUEST_DIVISOR = 8
"""A request is long if it has more than ``max_batch_tokens`` divided by this."""

LONG_REQUEST_TOKENS = 512
"""A request of more tokens is long, too, if larger batches are no more efficient: a short one would wait too long for it."""

LONG_REQUEST_CHARACTERS = 65_536
"""A request whose texts have more characters is long, too, even if the model reads only the beginning of them."""

EFFICIENT_OVERHEADS = 20
"""A batch is large enough when it has so many times the tokens that starting it costs: starting is then 5% of the cost."""


TIMED: ContextVar[bool] = ContextVar("timed", default=False)
"""Whether the requests that are submitted in this context are timed step by step: they are traced."""


class SupportsPredict(Protocol):
    """The part of a predictor that the batcher uses, on its own threads. It runs one forward pass at a time."""

    @property
    def overhead_tokens(self) -> int:
        """What starting a forward pass costs, in tokens."""
        ...

    def predict(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, abandoned: Callable[[], bool] = ...
    ) -> list[Any]:
        """Return one output for each input; once ``abandoned()`` is true, whatever is done."""
        ...

    def steps(
        self,
        inputs: Sequence[Any],
        options: Sequence[Any] | None = None,
        budget: int | None = None,
        abandoned: Callable[[], bool] = ...,
    ) -> Iterator[list[Any] | None]:
        """Compute `predict` in steps: tokenize first, then run passes of at most ``budget`` tokens, each one step.

        Yield None after each step and the outputs last.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Steps:
    """When the steps of a batch ended, by `time.perf_counter`."""

    queued_at: float
    """When the request came."""
    started_at: float
    ended_at: Sequence[float]
    """Of tokenizing, of each forward pass, and of decoding."""
    inputs: int
    """Of the whole batch."""


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
    steps: Steps | None = None
    """For a request that is `TIMED`."""


@dataclass(kw_only=True, eq=False)
class _RunningLongRequest:
    """A long request that is tokenized."""

    request: QueuedRequest
    version: int
    """The version that started the request also finishes it."""
    steps: Iterator[list[Any] | None]
    """The steps that have not run yet."""
    started_at: float
    seconds: float
    """Seconds that its steps have run so far."""
    ended_at: list[float]
    """When each of its steps ended."""


class Batcher:
    """Collects requests into batches for one model thread.

    A batch holds whole requests of together at most ``max_batch_tokens`` tokens; a single larger request is a batch of its own.
    ``estimate`` counts the tokens of an input, ``characters`` those of its texts, and ``passes`` says how often the model reads
    them for a request with some options. At most ``max_queue`` short requests wait and as many long ones, for at most
    ``max_queue_ms``: `queues` has the rule. A cancelled request is dropped before it costs a (further) forward pass, and a
    model that writes stops once all requests of its batch are cancelled.
    ``on_batch`` is called with the number of inputs and of tokens of each batch. ``niceness`` is that of the threads (and of
    those that they start): the scheduler prefers others if it is above 0.
    """

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        max_queue: int,
        max_queue_ms: float,
        estimate: Callable[[Any], int],
        characters: Callable[[Any], int],
        passes: Callable[[Any], int] = lambda options: 1,
        on_batch: Callable[[int, int], None] = lambda inputs, tokens: None,
        niceness: int = 0,
    ) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._estimate, self._characters, self._passes = estimate, characters, passes
        self._on_batch = on_batch
        self._short, self._long = Queue(max_queue, max_queue_ms), Queue(max_queue, max_queue_ms)
        self._tokenizing: asyncio.Task[None] | None = None
        self._running_long: _RunningLongRequest | None = None
        self._work = asyncio.Event()
        """There is something to run; set whenever something is added that may be run."""
        self._busy: asyncio.Task[None] | None = None
        self._speed = Speed()
        self._serving: tuple[int, SupportsPredict] | None = None
        self._closed = False
        begin = partial(_be_nice, niceness) if niceness else None
        self._thread = ThreadPoolExecutor(1, "model", begin)
        self._tokenizer_thread = ThreadPoolExecutor(1, "tokenizer", begin)

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

    @property
    def room(self) -> int | None:
        """How many further short requests may wait; None if none waits, and there is no overload."""
        if self._serving is None or not (self._short.requests or self._short.overloaded):
            return None
        return self._short.room(self._pace(self._serving[1]))

    def note_refusals(self) -> None:
        """Note that the proxy refused short requests lately, because there was no `room`."""
        if self._serving is not None:
            self._short.note_refusals_elsewhere(self._pace(self._serving[1]))

    def serve(self, version: int, predictor: SupportsPredict) -> None:
        """Run every batch from now on with ``predictor``. The batch that is running finishes with the predictor before."""
        self._serving = (version, predictor)

    async def submit(self, inputs: Sequence[Any], options: Sequence[Any]) -> Prediction:
        """Wait for the result of one request, and return it.

        Raises:
            NotReady: no version is loaded, or the batcher is closed.
            Overloaded: too many requests wait already, or those that wait take too long.
        """
        if self._closed:
            raise NotReady("the replica is shutting down")
        if self._serving is None:
            raise NotReady("no version is loaded yet")
        tokens = sum(map(self._estimate, inputs)) * self._passes(options[0])
        is_long = tokens > self._long_tokens(self._serving[1]) or sum(map(self._characters, inputs)) > LONG_REQUEST_CHARACTERS
        queue = self._long if is_long else self._short
        if queue.requests:
            queue.require_room(tokens, self._pace(self._serving[1]))
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        request = QueuedRequest(inputs=inputs, options=options, tokens=tokens, future=future, timed=TIMED.get())
        queue.add(request)
        self._work.set()
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        try:
            return await future
        except asyncio.CancelledError:  # the client has gone: make room in the queue
            queue.remove(request)
            raise

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in the model's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Finish the requests that are running, fail those that wait, and stop the threads."""
        self._closed = True
        for queue in (self._short, self._long):
            while queue.requests:
                request = queue.take()
                if not request.future.done():
                    request.future.set_exception(NotReady("the replica is shutting down"))
        if self._busy is not None:
            await self._busy
        for thread in (self._thread, self._tokenizer_thread):
            thread.shutdown(wait=False, cancel_futures=True)  # a wait would block the event loop

    def _batch_tokens(self, predictor: SupportsPredict) -> int:
        """Return the maximum of tokens in a batch."""
        return min(self._max_batch_tokens, EFFICIENT_OVERHEADS * predictor.overhead_tokens)

    def _long_tokens(self, predictor: SupportsPredict) -> int:
        """Return the tokens of which a request must have more to be a long one."""
        efficient = max(EFFICIENT_OVERHEADS * predictor.overhead_tokens, LONG_REQUEST_TOKENS)
        return max(1, min(self._max_batch_tokens // LONG_REQUEST_DIVISOR, efficient))

    def _pace(self, predictor: SupportsPredict) -> Pace:
        return Pace(
            token_ms=self._speed.token_ms,
            batch_tokens=self._batch_tokens(predictor),
            overhead_tokens=predictor.overhead_tokens,
        )

    def _remember(self, tokens: int, seconds: float) -> None:
        """Remember how long a batch or a long request of so many tokens took."""
        assert self._serving is not None
        self._speed.remember(self._pace(self._serving[1]).cost(tokens), seconds)

    async def _drain(self) -> None:
        try:
            while self._short.requests or self._long.requests or self._tokenizing or self._running_long:
                self._work.clear()
                assert self._serving is not None
                batch = self._short.take_batch(self._batch_tokens(self._serving[1]))
                if batch:
                    self._on_batch(sum(len(request.inputs) for request in batch), sum(request.tokens for request in batch))
                    await self._run(batch)
                self._begin_long_request()
                if self._running_long is not None:
                    await self._step(self._running_long)
                elif self._tokenizing is not None and not batch:
                    await self._work.wait()
        finally:
            self._busy = None

    def _begin_long_request(self) -> None:
        """Let the oldest long request be tokenized, unless one is, or runs."""
        if self._running_long is None and self._tokenizing is None and self._long.requests:
            request = self._long.take()
            if not request.future.done():
                self._tokenizing = asyncio.create_task(self._tokenize(request))

    async def _tokenize(self, request: QueuedRequest) -> None:
        """Do the first step of a long request beside the model's thread."""
        assert self._serving is not None
        version, predictor = self._serving
        started_at = time.perf_counter()
        try:
            self._on_batch(len(request.inputs), request.tokens)
            budget = min(self._long_tokens(predictor), self._batch_tokens(predictor))
            steps = predictor.steps(request.inputs, request.options, budget, request.future.done)
            await asyncio.get_running_loop().run_in_executor(self._tokenizer_thread, _run_guarded, next, steps)
            self._running_long = _RunningLongRequest(
                request=request,
                version=version,
                steps=steps,
                started_at=started_at,
                seconds=time.perf_counter() - started_at,
                ended_at=[time.perf_counter()],
            )
        except Exception as error:
            if not request.future.done():
                request.future.set_exception(error)
        finally:
            self._tokenizing = None
            self._work.set()

    async def _step(self, running: _RunningLongRequest) -> None:
        """Run one forward pass of the long request that is running."""
        if running.request.future.done():  # the client has gone
            self._running_long = None
            return
        step_started_at = time.perf_counter()
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, _run_guarded, next, running.steps)
        except Exception as error:
            self._running_long = None
            if not running.request.future.done():
                running.request.future.set_exception(error)
            return
        running.ended_at.append(time.perf_counter())
        running.seconds += running.ended_at[-1] - step_started_at
        if outputs is not None:
            self._running_long = None
            self._remember(running.request.tokens, running.seconds)
            begun = _Begun(running.version, running.started_at, len(running.request.inputs), running.ended_at)
            _resolve(running.request, outputs, begun, running.seconds)

    async def _run(self, batch: list[QueuedRequest]) -> None:
        assert self._serving is not None
        version, predictor = self._serving
        loop = asyncio.get_running_loop()
        started_at = time.perf_counter()
        inputs = [item for request in batch for item in request.inputs]
        options = [option for request in batch for option in request.options]
        begun = _Begun(version, started_at, len(inputs), [])
        predict = predictor.predict
        if any(request.timed for request in batch):
            predict = partial(_predict_timed, predictor, begun.ended_at)
        try:
            abandoned = partial(_all_gone, batch)
            outputs = await loop.run_in_executor(self._thread, _run_guarded, predict, inputs, options, abandoned)
        except Exception as error:
            await self._run_one_by_one(batch, error)
            return
        seconds = time.perf_counter() - started_at
        self._remember(sum(request.tokens for request in batch), seconds)
        begin = 0
        for request in batch:
            end = begin + len(request.inputs)
            _resolve(request, outputs[begin:end], begun, seconds)
            begin = end

    async def _run_one_by_one(self, batch: list[QueuedRequest], error: Exception) -> None:
        """Run each request of a failed batch alone, so that only the one that caused ``error`` fails."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for request in batch:
            if not request.future.done():
                await self._run([request])


def _predict_timed(
    predictor: SupportsPredict,
    ended_at: list[float],
    inputs: Sequence[Any],
    options: Sequence[Any],
    abandoned: Callable[[], bool],
) -> list[Any]:
    """Do what ``predictor.predict`` does, and append to ``ended_at`` when each step ended."""
    last: list[Any] | None = None
    for outputs in predictor.steps(inputs, options, abandoned=abandoned):
        ended_at.append(time.perf_counter())
        last = outputs
    assert last is not None
    return last


def _run_guarded(work: Callable[..., T], *arguments: Any) -> T:
    """Return what ``work`` returns. A panic of a library in Rust is no `Exception`; it becomes one, which callers are told."""
    try:
        return work(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _all_gone(batch: Sequence[QueuedRequest]) -> bool:
    """Return whether no client waits for any answer of a batch: each hung up, or its deadline has passed."""
    return all(request.future.done() for request in batch)


def _be_nice(niceness: int) -> None:
    """Give this thread a lower priority than others. Linux has priorities of threads; elsewhere nothing happens."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@dataclass(frozen=True)
class _Begun:
    """A batch that runs, or has run."""

    version: int
    started_at: float
    inputs: int
    ended_at: list[float]
    """When each of its steps ended; empty if nobody wants to know."""


def _resolve(request: QueuedRequest, outputs: list[Any], batch: _Begun, seconds: float) -> None:
    """Give a request the result of its batch, which ran for ``seconds``, unless its client has gone."""
    if request.future.done():
        return
    steps = None
    if request.timed:
        steps = Steps(
            queued_at=request.queued_at, started_at=batch.started_at, ended_at=tuple(batch.ended_at), inputs=batch.inputs
        )
    request.future.set_result(
        Prediction(
            outputs=outputs,
            version=batch.version,
            queue_ms=(batch.started_at - request.queued_at) * 1000,
            inference_ms=seconds * 1000,
            steps=steps,
        )
    )
