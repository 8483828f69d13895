"""Acts for roll-outs: prepares, opens a canary or a shadow, moves the pointer, lets the replicas follow.

Each step ends in one transaction of the registry. Whoever is killed in between leaves a roll-out there that has not ended, and
`Rollouts.resume` goes on with it: preparing and committing twice does no harm. `machine` has the order of the states.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, InvalidInput, NotFound, NotReady, Unavailable
from baton.store.records import (
    Champion,
    Decision,
    DecisionKind,
    HistoryKind,
    Promotion,
    ReplicaState,
    Rollout,
    RolloutMode,
    RolloutState,
    Verdict,
)
from baton.store.registry import Registry
from services.control.rollouts.machine import Event, next_state
from services.control.rollouts.preparation import RETRY_SECONDS, STATE_SECONDS, Faulty, Interrupted, Preparation
from services.control.rollouts.replicas import Replicas
from services.control.rollouts.watch import Watch

logger = logging.getLogger("ray.serve")

COMMIT_SECONDS = 10.0
"""Timeout of one commit on all replicas. A commit swaps a reference; only a replica that is dead or hangs takes this long."""

SETTLE_SECONDS = 60.0
"""How long commits are repeated until every replica has followed: enough for a replica that starts during the move."""


class Rollouts:
    """Brings versions of all models into service, and back. Lives in the control replica's event loop.

    One step per model is taken at a time. A canary or shadow holds no lock between two looks at it.
    """

    def __init__(self, registry: Registry, replicas: Replicas, models: Mapping[str, ModelSettings]) -> None:
        """``models``: the settings of each model, by name."""
        self._registry, self._replicas, self._models = registry, replicas, models
        self._preparation = Preparation(replicas, models)
        self._watch = Watch(registry, replicas, models)
        self._locks: dict[str, asyncio.Lock] = {}
        self._rollbacks: Counter[str] = Counter()
        """By model: how many rollbacks are asked for and not done. Nothing else is prepared meanwhile."""

    def running(self, model: str) -> bool:
        """Return whether a step of a roll-out of ``model`` is being taken in this process."""
        return model in self._locks and self._locks[model].locked()

    async def states(self, model: str) -> list[ReplicaState]:
        """Return the state of every live replica; empty if there is none, or one does not respond in time."""
        return list((await self._replicas.call(model, STATE_SECONDS, "state")).states)

    # --- what people ask for -----------------------------------------------------------------------------------------------

    async def promote(self, decision: Decision) -> Promotion:
        """Put ``decision.candidate`` in service everywhere. On return no replica answers with another version.

        If the version is on trial as a canary or shadow, the trial ends with its promotion.

        Raises:
            Conflict: the version is the champion already, another version is on trial, the champion changed since the decision,
                or replicas cannot load the version, die or do not answer while they do (which is recorded in the history). The
                champion stays.
            NotReady: no replica responds, or the storage or the database does not, or a rollback was asked for; the champion
                stays. Or the pointer moved, but not every replica followed within `SETTLE_SECONDS`; these replicas continue to
                retry.
        """
        model, version = decision.model, decision.candidate
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            if champion.version == version:
                raise Conflict(f"v{version} is already the champion of {model}")
            if decision.id is None:
                decision = await asyncio.to_thread(self._registry.add_decision, decision)
            assert decision.id is not None
            rollout = await self._open(decision, champion)
            try:
                if rollout.state.trial:
                    await self._move(await asyncio.to_thread(self._registry.rollouts.decide, rollout, decision.id))
                await self._drive(model)
            except Unavailable as error:  # who asked is told that it did not work, so it must not happen later
                with suppress(Unavailable):  # without a database, it stays as it is, and is taken up again
                    await self._end(model, str(error))
                raise
            promotion = await asyncio.to_thread(self._registry.promotion_by, decision.id)
        if promotion is None:
            raise Conflict(f"{model}: somebody ended the roll-out of v{version}; the champion stays")
        return promotion

    async def rollback(self, model: str, to: int | None, reason: str) -> tuple[Decision, Promotion]:
        """Put the previous champion (or ``to``, which must have been one) back in service.

        It interrupts a version that is being prepared: whoever rolls back is in a hurry.

        Raises:
            NotFound: the version does not exist.
            Conflict: the model has no earlier champion, ``to`` was never champion, or it was rejected; another version is on
                trial, and ``to`` is None; or as `promote`.
            NotReady: as `promote`.
            InvalidInput: the reason is blank.
        """
        if not reason.strip():
            raise InvalidInput("a rollback needs a reason; it stays in the history")
        champion = await asyncio.to_thread(self._registry.champion, model)
        trial = await asyncio.to_thread(self._registry.rollouts.active, model)
        if to is None and trial is not None and trial.state.trial:
            raise Conflict(
                f"v{trial.version} of {model} is on trial ({trial.state}), and v{champion.version} is the champion: end the "
                f"trial (`baton rollout {model} --stop`), or name the version to roll back to (--to)"
            )
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
        self._preparation.interrupt(model)
        try:
            promotion = await self.promote(decision)
        finally:
            self._rollbacks[model] -= 1
        return await asyncio.to_thread(self._registry.decision, promotion.decision_id), promotion

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
        self._preparation.interrupt(model, version)
        async with self._lock(model):
            await self._end(model, f"it was rejected: {reason}", version)

    async def start_trial(self, model: str, version: int, mode: RolloutMode, percent: float, minutes: float | None) -> Rollout:
        """Let ``version`` answer a share of the requests (canary), or get copies of it (shadow). It moves no pointer.

        Raises:
            NotFound: the version does not exist.
            Conflict: the model has no champion, the version is it, was rejected, or another roll-out is active; or the version
                cannot be prepared.
            NotReady: as `promote`.
        """
        await asyncio.to_thread(self._registry.versions.get, model, version)
        rejection = await asyncio.to_thread(self._registry.history.rejection, model, version)
        if rejection is not None:
            raise Conflict(f"v{version} of {model} was rejected: {rejection}")
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            if champion.version is None:
                raise Conflict(f"{model} has no champion to compare v{version} with; promote it")
            if champion.version == version:
                raise Conflict(f"v{version} is already the champion of {model}")

            def propose() -> Rollout:
                return self._registry.rollouts.propose(
                    model, version, champion.version, mode=mode, percent=percent, minutes=minutes
                )

            await asyncio.to_thread(propose)
            try:
                return await self._drive(model)
            except Unavailable as error:
                with suppress(Unavailable):
                    await self._end(model, str(error))
                raise

    async def end_trial(self, model: str, reason: str) -> Rollout:
        """End the canary or shadow of ``model``, and give the champion all requests again. Raises ``NotFound`` without one."""
        async with self._lock(model):
            rollout = await asyncio.to_thread(self._registry.rollouts.active, model)
            if rollout is None or not rollout.state.trial:
                raise NotFound(f"{model} has no canary and no shadow that could be ended")
            return await self._end_trial(rollout, Event.ENDED, reason)

    # --- what the loops do ---------------------------------------------------------------------------------------------------

    async def carry_out(self, decision: Decision) -> None:
        """Bring a version that passed the gate into service: as `promote`, but by a canary if the model's settings want one.

        After ``NotReady`` the roll-out goes on at the next `resume`.
        """
        model = decision.model
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            await self._open(decision, champion, canary=champion.version is not None)
            await self._drive(model)

    async def resume(self, model: str) -> None:
        """Go on with the active roll-out of ``model``, if there is one: also after a crash, and to look at a trial."""
        async with self._lock(model):
            if await asyncio.to_thread(self._registry.rollouts.active, model) is not None:
                await self._drive(model)

    # --- steps ----------------------------------------------------------------------------------------------------------------

    def _lock(self, model: str) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())

    async def _open(self, decision: Decision, champion: Champion, *, canary: bool = False) -> Rollout:
        """Return the roll-out that carries out ``decision``: the active one of its version, or a new one.

        Whatever else is active ends, unless it is a trial and this is no rollback: ``Conflict``.
        """
        model, version = decision.model, decision.candidate
        active = await asyncio.to_thread(self._registry.rollouts.active, model)
        if active is not None and active.state is RolloutState.COMMITTING:  # its replicas follow this move as well
            await self._advance(active, Event.ENDED, f"v{version} came next")
            active = None
        if active is not None and active.version == version and (active.state.trial or active.decision_id == decision.id):
            return active
        if active is not None and active.state.trial and decision.kind is not DecisionKind.ROLLBACK:
            raise Conflict(
                f"v{active.version} of {model} is on trial ({active.state}); end it first: `baton rollout {model} --stop`"
            )
        if active is not None:
            await self._end(model, f"v{version} came first")
        settings = self._models[model].rollout

        def propose() -> Rollout:
            trial = canary and settings.canary > 0
            return self._registry.rollouts.propose(
                model,
                version,
                champion.version,
                mode=RolloutMode.CANARY if trial else RolloutMode.DIRECT,
                percent=settings.canary if trial else 0.0,
                minutes=settings.minutes if trial else None,
                decision_id=decision.id,
            )

        return await asyncio.to_thread(propose)

    async def _drive(self, model: str) -> Rollout:
        """Take steps until the active roll-out has ended, or is a trial that goes on. Return it.

        Raises as `promote`; the roll-out has ended if that is a ``Conflict``.
        """
        rollout = await asyncio.to_thread(self._registry.rollouts.active, model)
        if rollout is None:
            raise NotFound(f"{model} has no active roll-out")
        while not rollout.state.final:
            match rollout.state:
                case RolloutState.PROPOSED:
                    rollout = await self._advance(rollout, Event.TAKEN)
                case RolloutState.PREPARING:
                    rollout = await self._prepare(rollout)
                case RolloutState.CANARY | RolloutState.SHADOW:
                    found = await self._watch.look(rollout)
                    if found is None:
                        return rollout
                    if found.event is Event.PASSED and rollout.decision_id is not None:
                        rollout = await self._move(rollout)
                    else:
                        rollout = await self._end_trial(rollout, found.event, found.reason)
                case RolloutState.COMMITTING:
                    await self._commit(model)
                    rollout = await self._advance(rollout, Event.FOLLOWED)
                    logger.info("%s: v%d took over", model, rollout.version, extra={"model": model, "version": rollout.version})
        return rollout

    async def _advance(self, rollout: Rollout, event: Event, reason: str | None = None) -> Rollout:
        return await asyncio.to_thread(self._registry.rollouts.advance, rollout, next_state(rollout, event), reason)

    async def _prepare(self, rollout: Rollout) -> Rollout:
        model, version = rollout.model, rollout.version
        if self._rollbacks[model] and not await self._is_rollback(rollout):
            raise Interrupted(f"{model}: a rollback comes before v{version}; the champion stays")
        try:
            await self._preparation.load(model, version)
        except Faulty as fault:
            detail = f"v{version} cannot take over: {fault}"
            await self._advance(rollout, Event.FAULTY, str(fault))
            await asyncio.to_thread(self._registry.history.add_incident, model, HistoryKind.ROLLOUT_FAILED, detail, version)
            raise Conflict(f"{model}: {detail}; the champion stays") from None
        if rollout.mode is RolloutMode.DIRECT:
            return await self._move(rollout)
        rollout = await self._advance(rollout, Event.LOADED)
        kind, does = (
            (HistoryKind.CANARY, "answers") if rollout.mode is RolloutMode.CANARY else (HistoryKind.SHADOW, "gets a copy of")
        )
        until = "until it is ended" if rollout.minutes is None else f"for {rollout.minutes:g} min"
        detail = f"v{version} {does} {rollout.percent:g}% of the requests {until}."
        await asyncio.to_thread(self._registry.history.add_incident, model, kind, detail, version)
        return rollout

    async def _is_rollback(self, rollout: Rollout) -> bool:
        if rollout.decision_id is None:
            return False
        return (await asyncio.to_thread(self._registry.decision, rollout.decision_id)).kind is DecisionKind.ROLLBACK

    async def _move(self, rollout: Rollout) -> Rollout:
        """Move the champion pointer; the roll-out is committing from then on. If it cannot move, the roll-out ends."""
        assert rollout.decision_id is not None
        decision = await asyncio.to_thread(self._registry.decision, rollout.decision_id)
        expected = await asyncio.to_thread(self._registry.champion, rollout.model)
        try:
            await asyncio.to_thread(self._registry.promote, decision, expected, rollout)
        except Conflict as error:
            await self._end(rollout.model, str(error))
            raise
        active = await asyncio.to_thread(self._registry.rollouts.active, rollout.model)
        assert active is not None
        return active

    async def _commit(self, model: str) -> None:
        """Repeat the commit until every replica has confirmed it, including replicas that started during the move."""
        champion = await asyncio.to_thread(self._registry.champion, model)
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

    async def _end(self, model: str, reason: str, version: int | None = None) -> None:
        """End the active roll-out of ``model`` for ``reason``, if it has one (of ``version``) and has not moved the pointer."""
        rollout = await asyncio.to_thread(self._registry.rollouts.active, model)
        if rollout is None or version not in (None, rollout.version) or rollout.state is RolloutState.COMMITTING:
            return
        if rollout.state.trial:
            await self._end_trial(rollout, Event.ENDED, reason)
        else:
            await self._advance(rollout, Event.ENDED, reason)

    async def _end_trial(self, rollout: Rollout, event: Event, reason: str) -> Rollout:
        """End a trial without a promotion, tell the replicas, and write down what was found."""
        model, version = rollout.model, rollout.version
        ended = await self._advance(rollout, event, reason)
        await self._watch.close(ended)
        if event is Event.PASSED:
            kind = HistoryKind.CANARY if rollout.state is RolloutState.CANARY else HistoryKind.SHADOW
            detail = f"v{version} ended its {rollout.state}: {reason}"
        else:
            kind, detail = HistoryKind.ROLLOUT_FAILED, f"v{version} was taken back from its {rollout.state}: {reason}"
        await asyncio.to_thread(self._registry.history.add_incident, model, kind, detail, version)
        logger.info("%s: %s", model, detail, extra={"model": model, "version": version})
        return ended


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
