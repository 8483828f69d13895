"""Roll-outs as people and the loops ask for them: promote, roll back, reject, try out, go on.

One step of a model is taken at a time; `steps` takes them. A canary or shadow holds no lock between two looks at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, InvalidInput, NotFound, Unavailable
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
    Trial,
    Verdict,
)
from baton.store.registry import Registry
from baton.wording import signed
from services.control.rollouts.machine import Event
from services.control.rollouts.preparation import STATE_SECONDS
from services.control.rollouts.replicas import Replicas
from services.control.rollouts.steps import Steps
from services.names import replacing


class Rollouts:
    """Brings versions of all models into service, and back. Lives in the control replica's event loop."""

    def __init__(
        self, registry: Registry, replicas: Replicas, models: Mapping[str, ModelSettings], owner: Callable[[], str]
    ) -> None:
        """``models``: the settings of each model, by name. ``owner``: returns the id of this control plane's cluster."""
        self._registry, self._replicas, self._models, self._owner = registry, replicas, models, owner
        self._steps = Steps(registry, replicas, models)
        self._locks: dict[str, asyncio.Lock] = {}

    def running(self, model: str) -> bool:
        """Return whether a step of a roll-out of ``model`` is being taken in this process."""
        return model in self._locks and self._locks[model].locked()

    async def states(self, model: str) -> list[ReplicaState]:
        """Return the state of every live replica; empty if there is none, or one does not respond in time."""
        return list((await self._replicas.call(model, STATE_SECONDS, "state")).states)

    # --- what people ask for -----------------------------------------------------------------------------------------------

    async def promote(self, decision: Decision, asked: str | None = None) -> Promotion:
        """Put ``decision.candidate`` in service everywhere. On return no replica answers with another version.

        If the version is on trial as a canary or shadow, the trial ends with its promotion. ``asked``: why a person asks for it
        (`baton.wording.signed`); None if nobody said.

        Raises:
            Conflict: the version is the champion already, another version is on trial, the champion changed since the decision,
                `baton apply` is replacing replicas (which a rollback does not wait for), or replicas cannot load the version,
                die or do not answer while they do (which is recorded in the history). The champion stays.
            NotReady: no replica responds, or the storage or the database does not, or a rollback was asked for; the champion
                stays. Or the pointer moved, but not every replica followed in time; these replicas continue to retry.
        """
        model, version = decision.model, decision.candidate
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            if champion.version == version:
                raise Conflict(f"v{version} is already the champion of {model}")
            if decision.kind is not DecisionKind.ROLLBACK:
                await self._require_steady(model)
            if decision.id is None:
                decision = await asyncio.to_thread(self._registry.add_decision, decision)
            assert decision.id is not None
            rollout = await self._open(decision, champion, asked=asked)
            try:
                if not rollout.state.trial:
                    rollout = await self._steps.drive(model)
                if rollout.state.trial:  # it was one before, or an outage had held up its beginning
                    await self._steps.move(await asyncio.to_thread(self._registry.rollouts.decide, rollout, decision.id, asked))
                    await self._steps.drive(model)
            except Unavailable as error:  # who asked is told that it did not work, so it must not happen later
                with suppress(Unavailable):  # without a database, it stays as it is, and is taken up again
                    await self._steps.end(model, str(error))
                raise
            promotion = await asyncio.to_thread(self._registry.promotion_by, decision.id)
        if promotion is None:
            raise Conflict(f"{model}: somebody ended the roll-out of v{version}; the champion stays")
        return promotion

    async def rollback(self, model: str, to: int | None, reason: str, by: str | None = None) -> tuple[Decision, Promotion]:
        """Put the previous champion (or ``to``, which must have been one) back in service.

        It interrupts a version that is being prepared: whoever rolls back is in a hurry. ``by``: as `reject`.

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
            past = set(await asyncio.to_thread(self._registry.past_champions, model))
            rejected = await asyncio.to_thread(self._registry.history.rejections, model)
            left = sorted(past - {champion.version} - rejected.keys())
            names = ", ".join(f"v{number}" for number in left)
            hint = f"; --to takes one that a rollback has left: {names}" if left else ""
            raise Conflict(f"{model} has no earlier champion to roll back to{hint}")
        await asyncio.to_thread(self._registry.versions.get, model, target)
        if target not in await asyncio.to_thread(self._registry.past_champions, model):
            raise Conflict(f"v{target} has never been champion of {model}; use promote")
        rejection = await asyncio.to_thread(self._registry.history.rejection, model, target)
        if rejection is not None:
            raise Conflict(
                f"v{target} of {model} was rejected: {rejection}; roll back to another version, or promote it with --force"
            )
        decision = manual_decision(DecisionKind.ROLLBACK, model, target, champion, signed(reason, by))
        self._steps.rollbacks[model] += 1
        self._steps.interrupt(model)
        try:
            promotion = await self.promote(decision)
        finally:
            self._steps.rollbacks[model] -= 1
        return await asyncio.to_thread(self._registry.decision, promotion.decision_id), promotion

    async def reject(self, model: str, version: int, reason: str, by: str | None = None) -> Rollout | None:
        """Keep a version out of service: end its roll-out, and let nothing but force promote it from now on.

        Return the roll-out that it ended, if there was one. The first rejection of a version counts, with its reason. ``by``:
        name of the API key of who asks, which the history keeps with the reason; None if the service needs none.

        Raises:
            NotFound: the version does not exist.
            Conflict: it serves; a rollback takes it out of service.
            InvalidInput: the reason is blank.
        """
        if not reason.strip():
            raise InvalidInput("a rejection needs a reason; it stays in the history")
        reason = signed(reason, by)
        await asyncio.to_thread(self._registry.versions.get, model, version)
        self._steps.interrupt(model, version)
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            if champion.version == version:
                raise Conflict(f"v{version} is the champion of {model}; roll back to take it out of service")
            if await asyncio.to_thread(self._registry.history.rejection, model, version) is None:
                await asyncio.to_thread(self._registry.history.add_incident, model, HistoryKind.REJECTED, reason, version)
            return await self._steps.end(model, f"it was rejected: {reason}", version)

    async def start_trial(self, model: str, version: int, trial: Trial) -> Rollout:
        """Let ``version`` answer a share of the requests (canary), or get copies of it (shadow). It moves no pointer.

        Raises:
            NotFound: the version does not exist.
            Conflict: the model has no champion, the version is it, was rejected, or another roll-out is active; `baton apply`
                is replacing replicas; or the version cannot be prepared.
            NotReady: as `promote`.
        """
        await asyncio.to_thread(self._registry.versions.get, model, version)
        rejection = await asyncio.to_thread(self._registry.history.rejection, model, version)
        if rejection is not None:
            raise Conflict(
                f"v{version} of {model} was rejected: {rejection}; only `baton promote --force` brings it into service"
            )
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            if champion.version is None:
                raise Conflict(f"{model} has no champion to compare v{version} with; promote it")
            if champion.version == version:
                raise Conflict(f"v{version} is already the champion of {model}")
            await self._require_steady(model)
            await self._propose(model, version, champion.version, **asdict(trial))
            try:
                return await self._steps.drive(model)
            except Unavailable as error:
                with suppress(Unavailable):
                    await self._steps.end(model, str(error))
                raise

    async def end_trial(self, model: str, reason: str, by: str | None = None) -> Rollout:
        """End the canary or shadow of ``model``, and give the champion all requests again. ``by``: as `reject`.

        Raises:
            NotFound: there is none.
            InvalidInput: the reason is blank.
        """
        if not reason.strip():
            raise InvalidInput("the end of a trial needs a reason; it stays in the history")
        async with self._lock(model):
            rollout = await asyncio.to_thread(self._registry.rollouts.active, model)
            if rollout is None or not rollout.state.trial:
                raise NotFound(f"{model} has no canary and no shadow that could be ended")
            return await self._steps.end_trial(rollout, Event.ENDED, signed(reason, by))

    # --- what the loops do ---------------------------------------------------------------------------------------------------

    async def carry_out(self, decision: Decision) -> None:
        """Bring a version that passed the gate into service: as `promote`, but by a canary if the model's settings want one.

        After ``NotReady`` the roll-out goes on at the next `resume`.
        """
        model = decision.model
        async with self._lock(model):
            champion = await asyncio.to_thread(self._registry.champion, model)
            await self._open(decision, champion, canary=champion.version is not None)
            await self._steps.drive(model)

    async def resume(self, model: str) -> None:
        """Go on with the active roll-out of ``model``, if there is one: also after a crash, and to look at a trial."""
        async with self._lock(model):
            if await asyncio.to_thread(self._registry.rollouts.active, model) is not None:
                await self._steps.drive(model)

    async def _require_steady(self, model: str) -> None:
        """Raise ``Conflict`` while `baton apply` replaces replicas: they would be taken for victims of the version."""
        if await asyncio.to_thread(self._registry.leases.held, [replacing(model)]):
            raise Conflict(f"`baton apply` is replacing the replicas of {model}; try again when it has ended")

    def _lock(self, model: str) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())

    async def _open(self, decision: Decision, champion: Champion, *, canary: bool = False, asked: str | None = None) -> Rollout:
        """Return the roll-out that carries out ``decision``: the active one of its version, or a new one.

        Whatever else is active ends, unless it is a trial and this is no rollback: ``Conflict``.
        """
        model, version = decision.model, decision.candidate
        active = await asyncio.to_thread(self._registry.rollouts.active, model)
        if active is not None and active.state is RolloutState.COMMITTING:  # its replicas follow this move as well
            await self._steps.advance(active, Event.ENDED, f"v{version} came next")
            active = None
        if active is not None and active.version == version and (active.state.trial or active.decision_id == decision.id):
            return await asyncio.to_thread(self._registry.rollouts.take, active, self._owner())
        if active is not None and active.state.trial and decision.kind is not DecisionKind.ROLLBACK:
            raise Conflict(
                f"v{active.version} of {model} is on trial ({active.state}); end it first: `baton rollout {model} --stop`"
            )
        if active is not None:
            await self._steps.end(model, f"v{version} came first")
        settings = self._models[model].rollout
        trial = canary and settings.canary > 0
        return await self._propose(
            model,
            version,
            champion.version,
            mode=RolloutMode.CANARY if trial else RolloutMode.DIRECT,
            percent=settings.canary if trial else 0.0,
            minutes=settings.minutes if trial else None,
            decision_id=decision.id,
            asked=asked,
        )

    async def _propose(self, model: str, version: int, champion: int | None, **values: Any) -> Rollout:
        propose = partial(self._registry.rollouts.propose, model, version, champion, owner=self._owner(), **values)
        return await asyncio.to_thread(propose)


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
