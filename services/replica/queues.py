"""The requests that wait in a replica, and the rule by which further ones are refused: by number, and by the time they take.

A queue may be long for a moment, and take up a burst. Once it had to refuse requests, more come than can be answered: a long
queue would then help nobody, and let everybody wait. It is kept short until nothing has been refused for a while. The idea is
that of controlled delay (RFC 8289): a queue that stands is of no use.

Knows neither threads nor versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.errors import Overloaded

OVERLOADED_SHARE = 1 / 16
"""The part of its maximum that the wait may take during an overload; at least one full batch."""

OVERLOAD_SECONDS = 60.0
"""After so long the whole queue is tried again: clients that ask again at once, without end, may be few enough for it."""

MOST_PASSED = 64
"""Maximum of requests that do not fit in a batch behind which others that fit are looked for."""

REMEMBERED_BATCHES = 64
"""Number of the last batches and steps whose speed is remembered."""

REMEMBERED_REQUESTS = 32
"""Number of the last requests that the size of a typical one is averaged over, the newest of which count most."""


@dataclass(kw_only=True, eq=False)
class QueuedRequest:
    """A request that waits for `batching.Prediction`."""

    inputs: Sequence[Any]
    options: Sequence[Any]
    tokens: int
    future: asyncio.Future[Any]
    timed: bool = False
    """Whether somebody wants to know when each step of it ended."""
    queued_at: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long tokens take."""

    token_ms: float
    """Milliseconds of one token."""
    batch_tokens: int
    """Maximum of tokens in one forward pass."""
    overhead_tokens: int
    """What starting a pass costs, in tokens."""

    def cost(self, tokens: int) -> int:
        """Return the tokens with those that starting their passes costs."""
        return tokens + math.ceil(tokens / self.batch_tokens) * self.overhead_tokens

    def milliseconds(self, tokens: int) -> float:
        """Return how long so many tokens take."""
        return self.cost(tokens) * self.token_ms


class Speed:
    """How fast the model's thread was lately."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_BATCHES)
        self.token_ms = 0.0
        """The milliseconds that a token took lately; 0 before the first batch."""

    def remember(self, cost: int, seconds: float) -> None:
        """Remember how long a batch or a long request of this `Pace.cost` took."""
        self._batches.append((cost, seconds))
        self.token_ms = 1000 * sum(seconds for _, seconds in self._batches) / max(1, sum(cost for cost, _ in self._batches))


class Queue:
    """Requests that no batch has taken yet, oldest first: at most ``max_requests`` that take at most ``max_ms`` together."""

    def __init__(self, max_requests: int, max_ms: float) -> None:
        self.requests: deque[QueuedRequest] = deque()
        self.tokens = 0
        """Of all of them."""
        self._max_requests, self._max_ms = max_requests, max_ms
        self._typical_tokens = 0.0
        self._overloaded_since = self._refused_at = -math.inf

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, request: QueuedRequest) -> None:
        """Let a request wait."""
        self.requests.append(request)
        self.tokens += request.tokens
        self._typical_tokens += (request.tokens - self._typical_tokens) / (REMEMBERED_REQUESTS if self._typical_tokens else 1)

    def take(self) -> QueuedRequest:
        """Take the oldest request."""
        request = self.requests.popleft()
        self.tokens -= request.tokens
        return request

    def take_batch(self, most_tokens: int) -> list[QueuedRequest]:
        """Take the oldest request and those that fit in one batch with it. Short ones get past others that do not fit."""
        batch: list[QueuedRequest] = []
        passed: list[QueuedRequest] = []
        tokens = 0
        while self.requests and tokens < most_tokens and len(passed) < MOST_PASSED:
            request = self.take()
            if request.future.done():  # cancelled a moment ago, and not yet removed
                continue
            if batch and tokens + request.tokens > most_tokens:
                passed.append(request)
                continue
            tokens += request.tokens
            batch.append(request)
        self.requests.extendleft(reversed(passed))
        self.tokens += sum(request.tokens for request in passed)
        return batch

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request, if it still waits."""
        with contextlib.suppress(ValueError):  # no longer in the queue: it is running
            self.requests.remove(request)
            self.tokens -= request.tokens

    def require_room(self, tokens: int, pace: Pace) -> None:
        """Raise ``Overloaded`` unless a request of so many tokens may wait.

        It may wait as long as it takes itself, besides: two documents that come together are not an overload.
        """
        wait_ms, most_ms = pace.milliseconds(self.tokens), self._most_ms(pace)
        if len(self) >= self._max_requests:
            reason = f"{len(self)} requests are waiting, the maximum of this replica (serving.max_queue)"
        elif wait_ms > most_ms + tokens * pace.token_ms:
            allowed = f"{self._max_ms:g} are allowed (serving.max_queue_ms)"
            if most_ms < self._max_ms:
                allowed = f"{most_ms:.0f} are allowed during an overload, otherwise {allowed}"
            reason = f"the requests that are waiting take about {wait_ms:,.0f} ms; at most {allowed}"
        else:
            return
        self._note_refusal()
        raise Overloaded(f"{reason}; try again", max(1, math.ceil(wait_ms / 1000)))

    @property
    def overloaded(self) -> bool:
        """Whether a request was refused within the time that requests may wait."""
        now = time.perf_counter()
        return (now - self._refused_at) * 1000 < self._max_ms and now - self._overloaded_since < OVERLOAD_SECONDS

    def note_refusals_elsewhere(self, pace: Pace) -> None:
        """Note that the proxy refused requests for which there was no `room`; maybe before those came that wait now."""
        if self.overloaded or pace.milliseconds(self.tokens) > self._max_ms / 2:
            self._note_refusal()

    def _note_refusal(self) -> None:
        now = time.perf_counter()
        if not self.overloaded:
            self._overloaded_since = now
        self._refused_at = now

    def room(self, pace: Pace) -> int:
        """Return how many further requests may wait, if they are like those that came lately."""
        left = self._max_requests - len(self)
        one_ms = self._typical_tokens * pace.milliseconds(pace.batch_tokens) / pace.batch_tokens
        if one_ms:
            left = min(left, int((self._most_ms(pace) - pace.milliseconds(self.tokens)) / one_ms))
        return max(left, 0 if self.requests else 1)  # one that finds nobody waiting is never refused

    def _most_ms(self, pace: Pace) -> float:
        """Return how long the requests that wait may take."""
        if not self.overloaded:
            return self._max_ms
        return min(self._max_ms, max(OVERLOADED_SHARE * self._max_ms, pace.milliseconds(pace.batch_tokens)))
