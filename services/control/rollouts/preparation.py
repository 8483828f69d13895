"""Loads a version on replicas: on one first, then on all, while the champion serves. Writes nothing down.

A version may kill or block the replica that loads it. Then the others have not tried it, and go on serving.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum

from baton.config.model_settings import ModelSettings
from baton.errors import NotReady
from baton.wording import counted
from services.control.rollouts.replicas import Answers, Replicas

STATE_SECONDS = 5.0
"""Timeout for the states of all replicas. Reading one takes milliseconds; health checks and ``GET /metrics`` wait for it."""

TRIES = 25
"""Maximum number of looks for replicas: with `RETRY_SECONDS`, about five seconds to replace a dead one."""

RETRY_SECONDS = 0.2
"""Pause before a try is repeated: short, because a caller waits for the hand-over."""

MEGABYTES_PER_SECOND = 5.0
"""The slowest download that is waited for: 40 Mbit/s."""

DEATHS = 2
"""Number of replicas that may die while they load or run a version, until it takes the blame. One may be an accident."""


class Faulty(Exception):
    """The version is to blame; the message says for what."""


class Interrupted(NotReady):
    """Somebody ended the preparation; the version is not to blame."""


class _Ended(Enum):
    """How one try ended."""

    READY = "ready"
    DIED = "died"
    """A replica died meanwhile."""
    NOT_YET = "not yet"
    """No replica was there, or Serve was replacing one."""


class Preparation:
    """Loads versions, at most one of each model at a time, and can be interrupted."""

    def __init__(self, replicas: Replicas, models: Mapping[str, ModelSettings]) -> None:
        self._replicas, self._models = replicas, models
        self._loading: dict[str, tuple[int, asyncio.Event]] = {}
        """By model: the version that is being loaded, and the event that interrupts it."""
        self._deaths: Counter[tuple[str, int]] = Counter()
        """By model and version: how many replicas died while they loaded it, over all tries."""

    def interrupt(self, model: str, version: int | None = None) -> None:
        """Let go of ``version`` of ``model`` if it is being loaded; None: of whichever is."""
        if model in self._loading and version in (None, self._loading[model][0]):
            self._loading[model][1].set()

    async def load(self, model: str, version: int, megabytes: float) -> None:
        """Load ``version``, whose files have ``megabytes``, beside the champion on every replica.

        Raises:
            Faulty: replicas cannot load it, or die meanwhile, or do not answer in ``serving.prepare_seconds`` and the time that
                a slow download takes.
            Interrupted: `interrupt` was called.
            NotReady: no replica responds, or the storage or the database does not.
        """
        interrupted = asyncio.Event()
        self._loading[model] = (version, interrupted)
        seconds = self._models[model].serving.prepare_seconds + megabytes / MEGABYTES_PER_SECOND
        try:
            for _ in range(TRIES):
                if interrupted.is_set():
                    raise _interrupted(model, version)
                ended = await self._load_in_turn(model, version, seconds, interrupted)
                if ended is _Ended.READY:
                    self._deaths.pop((model, version), None)
                    return
                if ended is _Ended.DIED:
                    self._deaths[model, version] += 1
                    if self._deaths[model, version] == DEATHS:
                        raise Faulty(f"{DEATHS} replicas died while they loaded it")
                with suppress(TimeoutError):
                    await asyncio.wait_for(interrupted.wait(), RETRY_SECONDS)
        except Faulty:
            self._deaths.pop((model, version), None)
            raise
        finally:
            del self._loading[model]
        raise NotReady(f"{model}: no replica is running, or one does not respond; v{version} waits, the champion stays")

    async def _load_in_turn(self, model: str, version: int, seconds: float, interrupted: asyncio.Event) -> _Ended:
        """Load ``version`` on one replica and, if that survives, on all."""
        before = await self._replicas.call(model, STATE_SECONDS, "state")
        if not before.whole:  # a dead replica that Serve has not replaced yet would look as if it had died again
            return _Ended.NOT_YET
        first = before.states[0].replica
        answers = await self._prepare(model, version, seconds, first, interrupted)
        if first not in {state.replica for state in answers.states}:
            return _Ended.DIED if answers.died else _Ended.NOT_YET
        answers = await self._prepare(model, version, seconds, None, interrupted)
        if answers.died:
            return _Ended.DIED
        return _Ended.READY if answers.states else _Ended.NOT_YET

    async def _prepare(self, model: str, version: int, seconds: float, only: str | None, interrupted: asyncio.Event) -> Answers:
        """Let the replica ``only`` load ``version``; None: all. Raise as `load` if one cannot, or not in ``seconds``."""
        call = asyncio.ensure_future(self._replicas.call(model, seconds, "prepare", version, only))
        interruption = asyncio.ensure_future(interrupted.wait())
        try:
            await asyncio.wait({call, interruption}, return_when=asyncio.FIRST_COMPLETED)
            if interrupted.is_set():
                raise _interrupted(model, version)
            answers = call.result()
        finally:
            call.cancel()
            interruption.cancel()
        if answers.silent:
            raise Faulty(f"a replica did not load it in {seconds:g} s (serving.prepare_seconds and its download)")
        failed = [state for state in answers.states if state.error is not None]
        if failed and all(state.unavailable for state in failed):  # an outage is not evidence against the version: retry later
            raise NotReady(f"{model}: v{version} cannot take over now, the champion stays: {failed[0].error}")
        if failed:
            raise Faulty(
                f"{len(failed)} of {counted(1 if only else len(answers.states), 'replica')} cannot load it: {failed[0].error}"
            )
        return answers


def _interrupted(model: str, version: int) -> Interrupted:
    return Interrupted(f"{model}: somebody ended the preparation of v{version}; the champion stays")
