"""The hand-over: prepare on every replica, move the pointer, commit on every replica.

It keeps no state: if it is killed at any point, the registry's champion pointer is the truth and the replicas follow it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import NoReturn

from baton.errors import Conflict, InvalidInput, NotReady
from baton.store.records import Champion, Decision, DecisionKind, HistoryKind, Promotion, ReplicaState, Verdict
from baton.store.registry import Registry
from services.control.replicas import Answers, Replicas

logger = logging.getLogger("ray.serve")

STATE_SECONDS = 5.0
"""Timeout for the states of all replicas. Reading one takes milliseconds; health checks and ``GET /metrics`` wait for it."""

PREPARE_TRIES = 25
"""Maximum number of looks for replicas: with `RETRY_SECONDS`, about five seconds to replace a dead one."""

DEATHS = 2
"""Number of replicas that may die while they prepare a version, until it takes the blame. One may be an accident."""

COMMIT_SECONDS = 10.0
"""Timeout of one commit on all replicas. A commit swaps a reference; only a replica that is dead or hangs takes this long."""

SETTLE_SECONDS = 60.0
"""How long commits are repeated until every replica has followed: enough for a replica that starts during the move."""

RETRY_SECONDS = 0.2
"""Pause before a prepare or a commit is repeated: short, because a caller waits for the hand-over."""


class _Prepared(Enum):
    """How one try to prepare a version ended."""

    READY = "ready"
    DIED = "died"
    """A replica died meanwhile."""
    NOT_YET = "not yet"
    """No replica was there, or Serve was replacing one."""


class Rollouts:
    """Moves models from one version to another, one move per model at a time. Lives in the control replica's event loop."""

    def __init__(self, registry: Registry, replicas: Replicas, prepare_seconds: Mapping[str, float]) -> None:
        """``prepare_seconds``: timeout of one prepare by model (``serving.prepare_seconds``)."""
        self._registry = registry
        self._replicas = replicas
        self._prepare_seconds = prepare_seconds
        self._locks: dict[str, asyncio.Lock] = {}
        self._preparing: dict[str, tuple[int, asyncio.Event]] = {}
        """By model: the version that is being prepared, and the event that interrupts it."""
        self._rollbacks: Counter[str] = Counter()
        """By model: how many rollbacks are asked for and not done."""
        self._deaths: Counter[tuple[str, int]] = Counter()
        """By model and version: how many replicas died while they prepared it, over all tries."""

    def running(self, model: str) -> bool:
        """Return whether a hand-over of ``model`` is in progress in this process."""
        return model in self._locks and self._locks[model].locked()

    async def promote(self, decision: Decision) -> Promotion:
        """Put ``decision.candidate`` in service everywhere. On return no replica answers with another version.

        Raises:
            Conflict: the version is the champion already, the champion changed since the decision, or replicas cannot load the
                version, die or do not answer while they do (which is recorded in the history). The champion stays.
            NotReady: no replica responds, or the storage or the database does not, or a rollback was asked for; the champion
                stays. Or the pointer moved, but not every replica followed within `SETTLE_SECONDS`; these replicas continue to
                retry.
        """
        model, version = decision.model, decision.candidate
        async with self._locks.setdefault(model, asyncio.Lock()):
            expected = await asyncio.to_thread(self._registry.champion, model)
            if expected.version == version:
                raise Conflict(f"v{version} is already the champion of {model}")
            await self._prepare(model, version, decision.kind)
            promotion = await asyncio.to_thread(self._registry.promote, decision, expected)
            await self._commit(model, Champion(version=version, sequence=promotion.sequence))
        logger.info("%s: v%d took over (%s)", model, version, decision.kind, extra={"model": model, "version": version})
        return promotion

    async def rollback(self, model: str, to: int | None, reason: str) -> tuple[Decision, Promotion]:
        """Put the previous champion (or ``to``, which must have been one) back in service.

        It interrupts a version that is being prepared: whoever rolls back is in a hurry.

        Raises:
            NotFound: the version does not exist.
            Conflict: the model has no earlier champion, ``to`` was never champion, or it was rejected; or as `promote`.
            NotReady: as `promote`.
            InvalidInput: the reason is blank.
        """
        if not reason.strip():
            raise InvalidInput("a rollback needs a reason; it stays in the history")
        champion = await asyncio.to_thread(self._registry.champion, model)
        target = to if to is not None else await asyncio.to_thread(self._registry.previous_champion, model)
        if target is None:
            raise Conflict(f"{model} has no earlier champion to roll back to")
        await asyncio.to_thread(self._registry.versions.get, model, target)
        if target not in await asyncio.to_thread(self._registry.past_champions, model):
            raise Conflict(f"v{target} has never been champion of {model}; use promote")
        rejection = await asyncio.to_thread(self._registry.history.rejection, model, target)
        if rejection is not None:
            raise Conflict(
                f"v{target} of {model} was rejected: {rejection}; roll back to another version, or promote it with --force"
            )
        decision = manual_decision(DecisionKind.ROLLBACK, model, target, champion, reason)
        self._rollbacks[model] += 1
        self._interrupt(model)
        try:
            promotion = await self.promote(decision)
        finally:
            self._rollbacks[model] -= 1
        return await asyncio.to_thread(self._registry.decision, promotion.decision_id), promotion

    async def states(self, model: str) -> list[ReplicaState]:
        """Return the state of every live replica; empty if there is none, or one does not respond in time."""
        return list((await self._replicas.call(model, STATE_SECONDS, "state")).states)

    async def reject(self, model: str, version: int, reason: str) -> None:
        """Keep a version out of service: end its roll-out, and let nothing but force promote it from now on.

        Raises:
            NotFound: the version does not exist.
            Conflict: it serves; a rollback takes it out of service.
            InvalidInput: the reason is blank.
        """
        if not reason.strip():
            raise InvalidInput("a rejection needs a reason; it stays in the history")
        await asyncio.to_thread(self._registry.versions.get, model, version)
        champion = await asyncio.to_thread(self._registry.champion, model)
        if champion.version == version:
            raise Conflict(f"v{version} is the champion of {model}; roll back to take it out of service")
        await asyncio.to_thread(self._registry.history.add_incident, model, HistoryKind.REJECTED, reason, version)
        if model in self._preparing and self._preparing[model][0] == version:
            self._interrupt(model)

    def _interrupt(self, model: str) -> None:
        """Let go of the version that is being prepared."""
        if model in self._preparing:
            self._preparing[model][1].set()

    async def _prepare(self, model: str, version: int, kind: DecisionKind) -> None:
        """Load ``version`` beside the champion: on one replica, then on all. Raise as `promote` if one cannot load it.

        A version may kill or block the replica that loads it. Then the others have not tried it, and go on serving.
        """
        interrupted = asyncio.Event()
        if self._rollbacks[model] and kind is not DecisionKind.ROLLBACK:
            interrupted.set()
        self._preparing[model] = (version, interrupted)
        try:
            for _ in range(PREPARE_TRIES):
                ended = await self._prepare_in_turn(model, version, interrupted)
                if ended is _Prepared.READY:
                    del self._deaths[model, version]
                    return
                if ended is _Prepared.DIED:
                    self._deaths[model, version] += 1
                    if self._deaths[model, version] == DEATHS:
                        await self._fail(model, version, f"{DEATHS} replicas died while they loaded it")
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            del self._preparing[model]
        raise NotReady(f"{model}: no replica is running, or one does not respond; v{version} waits, the champion stays")

    async def _prepare_in_turn(self, model: str, version: int, interrupted: asyncio.Event) -> _Prepared:
        """Load ``version`` on one replica and, if that survives, on all."""
        before = await self._replicas.call(model, STATE_SECONDS, "state")
        if not before.whole:  # a dead replica that Serve has not replaced yet would look as if it had died again
            return _Prepared.NOT_YET
        first = before.states[0].replica
        answers = await self._call_prepare(model, version, first, interrupted)
        if first not in {state.replica for state in answers.states}:
            return _Prepared.DIED if answers.died else _Prepared.NOT_YET
        answers = await self._call_prepare(model, version, None, interrupted)
        if answers.died:
            return _Prepared.DIED
        return _Prepared.READY if answers.states else _Prepared.NOT_YET

    async def _call_prepare(self, model: str, version: int, only: str | None, interrupted: asyncio.Event) -> Answers:
        """Let the replica ``only`` load ``version``; None: all. Raise as `promote` if one cannot, or does not answer."""
        ended = NotReady(f"{model}: somebody ended the preparation of v{version}; the champion stays")
        if interrupted.is_set():
            raise ended
        seconds = self._prepare_seconds[model]
        call = asyncio.ensure_future(self._replicas.call(model, seconds, "prepare", version, only))
        interruption = asyncio.ensure_future(interrupted.wait())
        try:
            await asyncio.wait({call, interruption}, return_when=asyncio.FIRST_COMPLETED)
            if interrupted.is_set():
                raise ended
            answers = call.result()
        finally:
            call.cancel()
            interruption.cancel()
        if answers.silent:
            await self._fail(model, version, f"a replica did not load it in {seconds:g} s (serving.prepare_seconds)")
        failed = [state for state in answers.states if state.error is not None]
        if failed and all(state.unavailable for state in failed):  # an outage is not evidence against the version: retry later
            raise NotReady(f"{model}: v{version} cannot take over now, the champion stays: {failed[0].error}")
        if failed:
            count = f"{len(failed)} of {1 if only else len(answers.states)} replica(s)"
            await self._fail(model, version, f"{count} cannot load it: {failed[0].error}")
        return answers

    async def _fail(self, model: str, version: int, reason: str) -> NoReturn:
        """Record that a version cannot take over, which ends its decision, and raise ``Conflict``."""
        self._deaths.pop((model, version), None)
        detail = f"v{version} cannot take over: {reason}"
        await asyncio.to_thread(self._registry.history.add_incident, model, HistoryKind.ROLLOUT_FAILED, detail, version)
        raise Conflict(f"{model}: {detail}; the champion stays")

    async def _commit(self, model: str, champion: Champion) -> None:
        """Repeat the commit until every replica has confirmed it, including replicas that started during the move."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            answers = await self._replicas.call(model, COMMIT_SECONDS, "commit", champion.version, champion.sequence)
            confirmed = [state for state in answers.states if state.sequence >= champion.sequence]
            counts = await asyncio.to_thread(self._replicas.count, model)
            all_confirmed = answers.whole and len(confirmed) == len(answers.states) >= counts.running > 0
            if all_confirmed and not counts.starting:
                return
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{model}: v{champion.version} is champion, but only {len(confirmed)} of {counts.total} replica(s) "
                    "serve it; the others will follow without further action"
                )
            await asyncio.sleep(RETRY_SECONDS)


def manual_decision(kind: DecisionKind, model: str, version: int, champion: Champion, reason: str) -> Decision:
    """Return the decision of a user to force ``version``, or to roll back to it."""
    did = "Forced" if kind is DecisionKind.FORCE else "Rolled back to"
    instead = f" in place of v{champion.version}" if champion.version is not None else ""
    return Decision(
        model=model,
        candidate=version,
        champion=champion.version,
        champion_sequence=champion.sequence,
        kind=kind,
        verdict=Verdict.PROMOTE,
        sentence=f"{did} v{version}{instead}.",
        reason=reason,
    )
