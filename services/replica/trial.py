"""A second version in the replica, on trial beside the champion: as a canary it answers a share, as a shadow it gets copies.

It has a queue and a thread of its own, so that it cannot block the champion's requests. What it does not answer, or not in
time, the champion answers: a caller gets an error from the trial only if the champion has one, too. Knows neither HTTP nor the
registry.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from baton.errors import BatonError, NotReady, Overloaded
from baton.predict.explaining import passes
from baton.predict.predictor import Predictor
from baton.quality.trials import EXAMPLES, RATIOS, TrialCounts
from baton.store.records import Rollout, RolloutState
from baton.tasks import AnyTask
from baton.tasks.checks import text_length
from services.replica.batching import Batcher, Prediction

logger = logging.getLogger("ray.serve")

MAX_WAITING = 32
"""Requests that wait for the version on trial. Beyond, the champion answers, and copies are dropped."""

PATIENCE_SECONDS = 1.0
"""How long a canary's answer may take in any case, before the champion is asked. Longer if the champion is slow itself."""

TIMED_SHARE = 8
"""Every how many answers both versions run the same inputs once more, one after the other, to compare their times."""

SHADOW_NICENESS = 10
"""Niceness of a shadow's thread: nobody waits for its answers."""

MAX_QUOTE = 300
"""Characters of a text that an example keeps."""

CLOSE_SECONDS = 2.0
"""How long the end of a trial waits for its running batch."""


class Trial:
    """One trial in one replica. Lives on the replica's event loop."""

    def __init__(
        self,
        rollout: Rollout,
        predictor: Predictor,
        *,
        max_batch_tokens: int,
        patience: float,
        keep: Callable[[str, int, Sequence[Any], Sequence[Any], Sequence[Any]], None],
        mask: Callable[[Any], Any],
        quotes: bool = True,
    ) -> None:
        """
        Args:
            rollout: in one of the states `RolloutState.trial`.
            predictor: of its version, loaded and warm; of no other use until `close` has returned.
            max_batch_tokens: as in `Batcher`.
            patience: an answer is late after this multiple of the champion's slowest one, and `PATIENCE_SECONDS`.
            keep: called with the request id, the version, the inputs, their options and the outputs of each copy that a shadow
                has run, on the event loop. It must return at once, and must not raise.
            mask: hides personal data in an input, for the examples that are kept.
            quotes: whether examples may be kept at all.
        """
        self.rollout, self.predictor = rollout, predictor
        self._task: AnyTask = predictor.task
        self.batcher = Batcher(  # public for testers, who choose the version of their requests
            max_batch_tokens=max_batch_tokens,
            max_queue=MAX_WAITING,
            max_queue_ms=math.inf,
            estimate=self._task.estimate_tokens,
            passes=partial(passes, self._task),
            characters=text_length,
            niceness=SHADOW_NICENESS if rollout.state is RolloutState.SHADOW else 0,
        )
        self.batcher.serve(rollout.version, predictor)
        self._patience, self._keep, self._mask, self._quotes = patience, keep, mask, quotes
        self._slowest = 0.0
        """Seconds of the champion's slowest answer since the trial began."""
        self._answers = self._errors = self._late = self._skipped = self._champion_answers = self._champion_errors = 0
        self._compared = self._agreed = 0
        self._shift = 0.0
        self._ratios: deque[float] = deque(maxlen=RATIOS)
        self._examples: list[dict[str, Any]] = []
        self._stalled_since: float | None = None
        """Since when it has not answered although it should have; None if it answers, or has nothing to do."""
        self._copies: set[asyncio.Task[None]] = set()

    @property
    def is_canary(self) -> bool:
        """Whether its answers are sent to callers."""
        return self.rollout.state is RolloutState.CANARY

    def takes(self, key: str) -> bool:
        """Return whether the requests with this ``key`` are in the trial's share. The same key always gets the same answer."""
        digest = hashlib.blake2b(f"{self.rollout.version}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64 < self.rollout.percent / 100

    async def answer(
        self, champion: Batcher, inputs: Sequence[Any], options: Sequence[Any], seconds: float | None = None
    ) -> Prediction:
        """Return the answer of the version on trial or, if it fails, is late or has too much to do, the champion's.

        A caller that waits for ``seconds`` only gets half of them from the version on trial: the rest is the champion's.

        Raises what the champion raises then.
        """
        if self._stalled_since is not None:
            if self.batcher.busy:  # still with a batch that is late already
                self._skipped += 1
                return await champion.submit(inputs, options)
            self._stalled_since = None
        patience = PATIENCE_SECONDS + self._patience * self._slowest
        limit = patience if seconds is None else min(patience, seconds / 2)
        try:
            prediction = await asyncio.wait_for(self.batcher.submit(inputs, options), limit)
        except TimeoutError:
            if limit < patience:  # the caller's hurry is no fault of the version; if it hangs, that is seen all the same
                self._skipped += 1
            else:
                self._late += 1
            self._stalled_since = self._stalled_since or time.monotonic()
        except (Overloaded, NotReady):
            self._skipped += 1
        except Exception as error:
            self._errors += 1
            logger.warning("%s v%d failed on a request: %s", self.rollout.model, self.rollout.version, _told(error))
        else:
            self._stalled_since = None
            self._answers += 1
            if self._answers % TIMED_SHARE == 1:
                self._copy(self._time_both(champion, inputs, options, self._answers))
            return prediction
        return await champion.submit(inputs, options)

    async def champion_answer(self, champion: Batcher, inputs: Sequence[Any], options: Sequence[Any]) -> Prediction:
        """Return the champion's answer to a request that is not in the trial's share, and count it."""
        try:
            prediction = await champion.submit(inputs, options)
        except (Overloaded, NotReady, asyncio.CancelledError):
            raise
        except Exception:
            self._champion_errors += 1
            raise
        self._champion_answers += 1
        self._slowest = max(self._slowest, (prediction.queue_ms + prediction.inference_ms) / 1000)
        return prediction

    def mirror(
        self, champion: Batcher, answer_id: str, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Let a shadow run a request that the champion has answered with ``outputs``, after the answer, compare and keep it."""
        if len(self._copies) >= MAX_WAITING:
            self._skipped += 1
        else:
            self._copy(self._run_copy(champion, answer_id, inputs, options, outputs))

    def counts(self) -> TrialCounts:
        """Return what was measured so far."""
        return TrialCounts(
            answers=self._answers,
            errors=self._errors,
            late=self._late,
            skipped=self._skipped,
            champion_answers=self._champion_answers,
            champion_errors=self._champion_errors,
            compared=self._compared,
            agreed=self._agreed,
            shift=self._shift,
            ratios=tuple(self._ratios),
            stalled_seconds=time.monotonic() - self._stalled_since if self._stalled_since and self.batcher.busy else 0.0,
            examples=tuple(self._examples),
        )

    async def close(self) -> None:
        """Drop what waits; the champion answers it. Wait for the running batch, but not longer than `CLOSE_SECONDS`."""
        for copy in self._copies:
            copy.cancel()
        closing = asyncio.create_task(self.batcher.close())
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_SECONDS)  # it goes on: its batch may end some time
        if not done:
            logger.warning(
                "%s: a batch of v%d does not end; its thread remains until the replica ends",
                self.rollout.model,
                self.rollout.version,
            )

    def _copy(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _run_copy(
        self, champion: Batcher, answer_id: str, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        self._stalled_since = self._stalled_since or time.monotonic()
        try:
            prediction = await self.batcher.submit(inputs, options)
        except (Overloaded, NotReady):
            self._skipped += 1
        except Exception as error:
            self._errors += 1
            logger.warning("%s v%d failed on a copy: %s", self.rollout.model, self.rollout.version, _told(error))
        else:
            self._answers += 1
            number = self._answers  # others may come while this one waits for the masks
            self._keep(answer_id, prediction.version, inputs, options, prediction.outputs)
            await self._compare(inputs, options, outputs, prediction.outputs)
            if number % TIMED_SHARE == 1:
                await self._time_both(champion, inputs, options, number)
        finally:
            self._stalled_since = time.monotonic() if len(self._copies) > 1 else None

    async def _time_both(self, champion: Batcher, inputs: Sequence[Any], options: Sequence[Any], number: int) -> None:
        """Run both versions on the inputs of answer ``number``, one after the other in the trial's thread, and compare them."""
        serving = champion.predictor
        if serving is None:
            return
        first = number // TIMED_SHARE % 2 == 0  # who runs first finds a colder cache

        def run() -> tuple[float, float, Sequence[Any], Sequence[Any]]:
            seconds, outputs = {}, {}
            for mine in (first, not first):
                began = time.perf_counter()
                outputs[mine] = (self.predictor if mine else serving).predict(inputs, options)
                seconds[mine] = time.perf_counter() - began
            return seconds[True], seconds[False], outputs[True], outputs[False]

        try:
            mine, champions, outputs, expected = await self.batcher.run_in_thread(run)
        except Exception as error:  # whatever it is, it happened to a copy
            logger.warning("%s v%d could not be timed: %s", self.rollout.model, self.rollout.version, _told(error))
            return
        self._ratios.append(mine / champions)
        if self.is_canary:
            await self._compare(inputs, options, expected, outputs)

    def _masked(self, *items: Any) -> list[Any]:
        return [self._mask(item) for item in items]

    async def _compare(
        self, inputs: Sequence[Any], options: Sequence[Any], expected: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        for item, option, before, after in zip(inputs, options, expected, outputs, strict=True):
            if not self._task.scorable(option):
                continue
            shift = min(1.0, self._task.difference(before, after))
            agree = self._task.agree(before, after)
            self._compared += 1
            self._agreed += agree
            self._shift += shift
            if agree or not self._quotes or (len(self._examples) == EXAMPLES and shift <= self._examples[-1]["shift"]):
                continue
            # in a thread: a pattern may search for a tenth of a second
            masked, first, second = await asyncio.to_thread(self._masked, item, before, after)
            told = {
                "input": {name: _shortened(value) for name, value in masked if value is not None},
                "champion": self._task.in_words(self._task.brief(first, masked)),
                "version": self._task.in_words(self._task.brief(second, masked)),
                "shift": shift,
            }
            self._examples = sorted([*self._examples, told], key=lambda example: -example["shift"])[:EXAMPLES]


def _shortened(value: Any) -> Any:
    return f"{value[:MAX_QUOTE]}…" if isinstance(value, str) and len(value) > MAX_QUOTE else value


def _told(error: Exception) -> str:
    """Return the error for the log: of an unexpected one only its type, because its message may quote the request."""
    return str(error) if isinstance(error, BatonError) else type(error).__name__
