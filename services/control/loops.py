"""The background loops of the control plane: they watch runs, roll out approved versions, check triggers and delete old data.

What fails is logged and tried again in the next round, and stops neither other models nor other loops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from baton.config.file import BatonConfig
from baton.errors import NotReady, Unavailable
from baton.store.records import Decision, HistoryKind, Rollout
from baton.store.registry import Registry
from services.control.bootstrap import declare
from services.control.failures import RegistryHealth, log_failures
from services.control.housekeeping import Housekeeping
from services.control.jobs import Jobs
from services.control.notices.notifier import Notifier
from services.control.ownership import Ownership
from services.control.retrain import Retrainer
from services.control.rollouts.driver import Rollouts
from services.control.run_traces import RunTraces
from services.names import replacing

WATCH_SECONDS = 1.0
"""Pause between two looks at active runs and pending decisions. Users wait for both; a look costs three small queries."""

ROLL_OUT_AGAIN_SECONDS = 5.0
"""Pause before a roll-out is tried again after an outage, so that it does not keep the replicas busy with loading."""

JUDGE_AGAIN_SECONDS = 600.0
"""Timeout of a job that judges an overtaken version. Its evaluation is stored; at most the champion's is missing."""

JUDGE_AGAIN_TRIES = 3
"""Failed tries after which an overtaken version is given up, with an entry in the history: it may be broken."""

RETRAIN_SECONDS = 5.0
"""Pause between two checks of the triggers. Runs take longer, so that a start a few seconds later does not matter."""

HOUSEKEEPING_SECONDS = 600.0
"""Pause between two rounds of `Housekeeping`. Retention is measured in days, and deleting costs queries over whole tables."""


class Loops:
    """The background work of one control plane; `run` does it until it is cancelled."""

    def __init__(
        self,
        config: Callable[[], BatonConfig],
        registry: Registry,
        *,
        ownership: Ownership,
        jobs: Jobs,
        rollouts: Rollouts,
        retrainer: Retrainer,
        housekeeping: Housekeeping,
        notifiers: Sequence[Notifier],
        traces: RunTraces | None = None,
    ) -> None:
        """``config``: returns the configuration in effect."""
        self._config = config
        self._registry = registry
        self._ownership = ownership
        self._jobs = jobs
        self._rollouts = rollouts
        self._retrainer = retrainer
        self._housekeeping = housekeeping
        self._notifiers = notifiers
        self._traces = traces
        self._registry_health = RegistryHealth()
        self._moving: dict[str, asyncio.Task[None]] = {}
        self._judged_again: dict[int, int] = {}
        """Failed tries to judge an overtaken version again, by the id of its old decision."""

    async def run(self) -> None:
        """Migrate the schema and declare the models, then run all loops.

        `baton up` has done the first two already; a Serve config that was deployed without it relies on this step.
        """
        while not await self._registry_health.run_step(  # noqa: ASYNC110  there is no event to wait for
            lambda: declare(self._registry, self._config())
        ):
            await asyncio.sleep(WATCH_SECONDS)
        await asyncio.gather(
            self._check_registry(),
            self._repeat(self._look_after_runs),
            self._repeat(self._start_roll_outs),
            *(self._repeat(partial(self._tell, notifier)) for notifier in self._notifiers),
            self._retrain(),
            self._keep_house(),
        )

    async def _check_registry(self) -> None:
        """Know whether the registry can be used: not while a newer Baton, which has migrated the database, takes over."""
        while True:
            await self._registry_health.run_step(self._registry.check)
            await asyncio.sleep(WATCH_SECONDS)

    async def _repeat(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do ``step`` again and again while the registry can be used. The first time also recovers from a crash.

        Each step has a loop of its own: runs wait for Ray's job server, and roll-outs must not wait with them.
        """
        while True:
            if self._registry_health.usable:
                with log_failures("reading the registry"):
                    await step()
            await asyncio.sleep(WATCH_SECONDS)

    async def _look_after_runs(self) -> None:
        active = await asyncio.to_thread(self._jobs.active_runs)
        for run in active:
            with log_failures(f"looking after run {run.id}", model=run.model, run_id=run.id):
                await asyncio.to_thread(self._jobs.look_after, run)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.look, active, self._ownership.cluster)

    async def _start_roll_outs(self) -> None:
        """Start a task for each model with work: a roll-out to go on with, an overtaken version, or an approved one."""
        owned = await asyncio.to_thread(self._ownership.models)
        active = await asyncio.to_thread(self._registry.rollouts.list_active)
        for rollout in active:
            if await asyncio.to_thread(self._acts_for, rollout, owned):
                self._start({rollout.model}, rollout.model, partial(self._go_on, rollout))
        overtaken = await asyncio.to_thread(self._registry.overtaken_decisions)
        for decision in overtaken:
            self._start(owned, decision.model, partial(self._judge_again, decision))
        # All are judged before one is rolled out: the best goes first.
        waiting = {decision.model for decision in overtaken} | {rollout.model for rollout in active}
        waiting |= await asyncio.to_thread(self._replaced, owned)
        for decision in await asyncio.to_thread(self._registry.pending_decisions):
            if decision.model not in waiting:
                self._start(owned, decision.model, partial(self._roll_out, decision))

    def _replaced(self, models: Collection[str]) -> set[str]:
        """Return those of ``models`` whose replicas `baton apply` is replacing."""
        held = self._registry.leases.held([replacing(model) for model in models])
        return {model for model in models if replacing(model) in held}

    def _acts_for(self, rollout: Rollout, owned: Collection[str]) -> bool:
        """Return whether a roll-out is this cluster's: it began here, or its cluster is gone and the model is ours now."""
        if rollout.model not in {settings.name for settings in self._config().models}:
            return False
        if rollout.owner == self._ownership.cluster:
            return True
        if rollout.model not in owned or (rollout.owner is not None and self._ownership.alive(rollout.owner)):
            return False
        self._registry.rollouts.take(rollout, self._ownership.cluster)
        return True

    def _start(self, owned: Collection[str], model: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start ``work`` on a model, unless it is another cluster's, or other work on the model is in progress."""
        task = self._moving.get(model)
        if model in owned and (task is None or task.done()):
            self._moving[model] = asyncio.create_task(work())

    async def _roll_out(self, decision: Decision) -> None:
        what = f"the roll-out of {decision.model} v{decision.candidate}"
        with log_failures(what, model=decision.model, version=decision.candidate):
            await self._try(self._rollouts.carry_out(decision))

    async def _go_on(self, rollout: Rollout) -> None:
        if not rollout.state.trial and self._rollouts.running(rollout.model):
            return  # a request is waiting for it
        with log_failures(f"the roll-out of {rollout.model} v{rollout.version}", model=rollout.model, version=rollout.version):
            await self._try(self._rollouts.resume(rollout.model))

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``. After an outage, or without replicas, wait: the roll-out stays active, and is tried again."""
        try:
            await work
        except Unavailable:
            await asyncio.sleep(ROLL_OUT_AGAIN_SECONDS)
            raise

    async def _judge_again(self, decision: Decision) -> None:
        """Let the gate decide on a version that beat a champion which another version has replaced in the meantime."""
        what = f"judging {decision.model} v{decision.candidate} again"
        with log_failures(what, model=decision.model, version=decision.candidate):
            try:
                settings = self._config().model(decision.model)
                await self._jobs.judge(settings, decision.candidate, JUDGE_AGAIN_SECONDS, overtaken=True)
            except NotReady as error:
                assert decision.id is not None
                tries = self._judged_again[decision.id] = self._judged_again.get(decision.id, 0) + 1
                if tries >= JUDGE_AGAIN_TRIES:
                    detail = (
                        f"v{decision.candidate} won against v{decision.champion}, another version took over first, and {error}"
                    )
                    await asyncio.to_thread(
                        self._registry.history.add_incident,
                        decision.model,
                        HistoryKind.ROLLOUT_FAILED,
                        detail,
                        decision.candidate,
                    )
                await asyncio.sleep(ROLL_OUT_AGAIN_SECONDS)
                raise

    async def _retrain(self) -> None:
        """Check the triggers of every model of this cluster's while the registry can be used."""
        while True:
            if self._registry_health.usable:
                with log_failures("reading the registry"):
                    await self._check_triggers()
            await asyncio.sleep(RETRAIN_SECONDS)

    async def _check_triggers(self) -> None:
        owned = await asyncio.to_thread(self._ownership.models)
        for settings in self._config().models:
            if settings.name in owned:
                with log_failures(f"automatic retraining of {settings.name}", model=settings.name):
                    await self._retrainer.check_once(settings)

    async def _tell(self, notifier: Notifier) -> None:
        await notifier.tell(await asyncio.to_thread(self._ownership.models))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.to_thread(self._housekeeping.run)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
