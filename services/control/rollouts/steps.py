"""Takes the steps of a roll-out: prepares, opens a canary or a shadow, moves the pointer, lets the replicas follow.

Each step ends in one transaction of the registry, with its line in the history. Whoever is killed in between leaves a roll-out
there that has not ended, and somebody else goes on with it: preparing and committing twice does no harm. `machine` has the
order of the states. Knows no locks: `driver` lets one step of a model be taken at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping

from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, NotFound, NotReady
from baton.store.records import DecisionKind, HistoryKind, Rollout, RolloutMode, RolloutState
from baton.store.registry import Registry
from baton.wording import counted
from services.control.rollouts.machine import Event, next_state
from services.control.rollouts.preparation import RETRY_SECONDS, Faulty, Interrupted, Preparation
from services.control.rollouts.replicas import Replicas
from services.control.rollouts.watch import Watch

logger = logging.getLogger("ray.serve")

COMMIT_SECONDS = 10.0
"""Timeout of one commit on all replicas. A commit swaps a reference; only a replica that is dead or hangs takes this long."""

SETTLE_SECONDS = 60.0
"""How long commits are repeated until every replica has followed: enough for a replica that starts during the move."""


TRIAL_KINDS = {RolloutMode.CANARY: HistoryKind.CANARY, RolloutMode.SHADOW: HistoryKind.SHADOW}
"""Kind of the history entries that say that a trial began, and that nothing speaks against its version."""


class Steps:
    """The steps of all models' roll-outs."""

    def __init__(self, registry: Registry, replicas: Replicas, models: Mapping[str, ModelSettings]) -> None:
        self._registry, self._replicas = registry, replicas
        self._preparation = Preparation(replicas, models)
        self._watch = Watch(registry, replicas, models)
        self.rollbacks: Counter[str] = Counter()
        """By model: how many rollbacks are asked for and not done. Nothing else is prepared meanwhile."""

    def interrupt(self, model: str, version: int | None = None) -> None:
        """Let go of ``version`` of ``model`` if it is being loaded; None: of whichever is."""
        self._preparation.interrupt(model, version)

    async def drive(self, model: str) -> Rollout:
        """Take steps until the active roll-out has ended, or is a trial that goes on. Return it.

        Raises:
            Conflict: replicas cannot load the version, die or do not answer while they do, or the pointer has moved. The
                roll-out has ended.
            NotFound: the model has no active roll-out.
            NotReady: no replica responds, or the storage or the database does not, or a rollback was asked for: the roll-out
                is where it was. Or it has ended, but not every replica has followed within `SETTLE_SECONDS`.
        """
        rollout = await asyncio.to_thread(self._registry.rollouts.active, model)
        if rollout is None:
            raise NotFound(f"{model} has no active roll-out")
        while not rollout.state.final:
            match rollout.state:
                case RolloutState.PROPOSED:
                    rollout = await self.advance(rollout, Event.TAKEN)
                case RolloutState.PREPARING:
                    rollout = await self._prepare(rollout)
                case RolloutState.CANARY | RolloutState.SHADOW:
                    found = await self._watch.look(rollout)
                    if found is None:
                        return rollout
                    if found.event is Event.PASSED and rollout.decision_id is not None:
                        rollout = await self.move(rollout)
                    else:
                        rollout = await self.end_trial(rollout, found.event, found.reason)
                case RolloutState.COMMITTING:
                    late = await self._commit(model)
                    rollout = await self.advance(rollout, Event.FOLLOWED, late)
                    logger.info("%s: v%d took over", model, rollout.version, extra={"model": model, "version": rollout.version})
                    if late is not None:
                        raise NotReady(f"{model}: v{rollout.version} is champion, but {late}")
        return rollout

    async def advance(
        self, rollout: Rollout, event: Event, reason: str | None = None, incident: tuple[HistoryKind, str] | None = None
    ) -> Rollout:
        """Move a roll-out into the state that ``event`` leads to. Raises ``Conflict`` if it is not where the caller saw it."""
        return await asyncio.to_thread(self._registry.rollouts.advance, rollout, next_state(rollout, event), reason, incident)

    async def move(self, rollout: Rollout) -> Rollout:
        """Move the champion pointer; the roll-out is committing from then on. If it cannot move, the roll-out ends."""
        assert rollout.decision_id is not None
        decision = await asyncio.to_thread(self._registry.decision, rollout.decision_id)
        expected = await asyncio.to_thread(self._registry.champion, rollout.model)
        try:
            if decision.kind is not DecisionKind.FORCE:
                rejection = await asyncio.to_thread(self._registry.history.rejection, rollout.model, rollout.version)
                if rejection is not None:
                    raise Conflict(f"v{rollout.version} of {rollout.model} was rejected: {rejection}")
            await asyncio.to_thread(self._registry.promote, decision, expected, rollout)
        except Conflict as error:
            await self.end(rollout.model, str(error))
            raise
        active = await asyncio.to_thread(self._registry.rollouts.active, rollout.model)
        assert active is not None
        return active

    async def end(self, model: str, reason: str, version: int | None = None) -> Rollout | None:
        """End the active roll-out of ``model`` for ``reason``, if it has one (of ``version``) and has not moved the pointer.

        Return it as it ended, or None if there is none to end.
        """
        rollout = await asyncio.to_thread(self._registry.rollouts.active, model)
        if rollout is None or version not in (None, rollout.version) or rollout.state is RolloutState.COMMITTING:
            return None
        if rollout.state.trial:
            return await self.end_trial(rollout, Event.ENDED, reason)
        not_done = "did not take over" if rollout.mode is RolloutMode.DIRECT else f"did not begin its {rollout.mode}"
        detail = f"v{rollout.version} {not_done}: {reason}"
        return await self.advance(rollout, Event.ENDED, reason, (HistoryKind.ROLLOUT_ENDED, detail))

    async def end_trial(self, rollout: Rollout, event: Event, reason: str) -> Rollout:
        """End a trial without a promotion, write down what was found, and tell the replicas."""
        if event is Event.PASSED:
            kind, detail = TRIAL_KINDS[rollout.mode], f"v{rollout.version} ended its {rollout.state}: {reason}"
        else:
            kind = HistoryKind.ROLLOUT_FAILED if event is Event.FAULTY else HistoryKind.TRIAL_ENDED
            detail = f"v{rollout.version} was taken back from its {rollout.state}: {reason}"
        ended = await self.advance(rollout, event, reason, (kind, detail))
        await self._watch.close(ended)
        logger.info("%s: %s", rollout.model, detail, extra={"model": rollout.model, "version": rollout.version})
        return ended

    async def _prepare(self, rollout: Rollout) -> Rollout:
        model, version = rollout.model, rollout.version
        if self.rollbacks[model] and not await self._is_rollback(rollout):
            raise Interrupted(f"{model}: a rollback comes before v{version}; the champion stays")
        try:
            size = (await asyncio.to_thread(self._registry.versions.get, model, version)).metrics.get("megabytes", 0.0)
            await self._preparation.load(model, version, size)
        except Faulty as fault:
            detail = f"v{version} cannot take over: {fault}"
            await self.advance(rollout, Event.FAULTY, str(fault), (HistoryKind.ROLLOUT_FAILED, detail))
            raise Conflict(f"{model}: {detail}; the champion stays") from None
        if rollout.mode is RolloutMode.DIRECT:
            return await self.move(rollout)
        does = "answers" if rollout.mode is RolloutMode.CANARY else "gets a copy of"
        until = "until it is ended" if rollout.minutes is None else f"for {rollout.minutes:g} min"
        detail = f"v{version} {does} {rollout.percent:g}% of the requests {until}."
        if rollout.asked:
            detail += f" Reason: {rollout.asked}"
        return await self.advance(rollout, Event.LOADED, None, (TRIAL_KINDS[rollout.mode], detail))

    async def _is_rollback(self, rollout: Rollout) -> bool:
        if rollout.decision_id is None:
            return False
        return (await asyncio.to_thread(self._registry.decision, rollout.decision_id)).kind is DecisionKind.ROLLBACK

    async def _commit(self, model: str) -> str | None:
        """Repeat the commit until every replica has confirmed it, including replicas that started during the move.

        Return None or, after `SETTLE_SECONDS`, which have not; they follow when they read the registry.
        """
        champion = await asyncio.to_thread(self._registry.champion, model)
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            answers = await self._replicas.call(model, COMMIT_SECONDS, "commit", champion.version, champion.sequence)
            confirmed = [state for state in answers.states if state.sequence >= champion.sequence]
            counts = await asyncio.to_thread(self._replicas.count, model)
            all_confirmed = answers.whole and len(confirmed) == len(answers.states) >= counts.running > 0
            if all_confirmed and not counts.starting:
                return None
            if time.monotonic() > deadline:
                asked = counted(counts.total, "replica")
                return f"it serves on only {len(confirmed)} of {asked}; the others will follow by themselves"
            await asyncio.sleep(RETRY_SECONDS)
