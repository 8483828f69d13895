"""The control plane: the control API at ``/``, and the loop that looks after runs and rolls out what passed the gate.

Holds no truth: it reads and writes the registry, and may be killed at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig, override
from baton.config.model_settings import FeedbackSettings, ModelSettings
from baton.errors import BatonError, Conflict, InvalidInput, NotFound, NotReady
from baton.store.records import Decision, DecisionKind, Promotion, Run, Verdict
from baton.store.registry import Registry
from services.control.api.app import build_api
from services.control.bootstrap import declare
from services.control.jobs import Jobs
from services.control.live_cache import LiveQualityCache
from services.control.retrain import Retrainer
from services.control.rollout import Rollouts, by_hand
from services.keyring import Keyring

logger = logging.getLogger("ray.serve")

MANY = 10_000
"""More active runs than there are models: all of them."""

WATCH_SECONDS = 1.0
ROLL_OUT_AGAIN_SECONDS = 5.0
JUDGE_SECONDS = 600.0
RETRAIN_SECONDS = 5.0
HOUSEKEEPING_SECONDS = 600.0
KEYS_SECONDS = 2.0


class ControlPlane:
    """The deployment class. ``config`` is the `BatonConfig` as plain values, ``environment`` what jobs must be told besides
    what their node's own environment tells them: by default where database and storage are.
    """

    def __init__(self, config: dict[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self.config = BatonConfig.model_validate(config)
        self.registry = Registry(self.config.database)
        self.keyring = Keyring(self.registry.keys, required=self.config.keys_required)
        if not self.config.logging.texts:
            logs.conceal_texts()
        if environment is None:
            environment = {"BATON_DATABASE": self.config.database, "BATON_STORAGE": self.config.storage}
        environment = {
            **environment,
            "BATON_LOGGING_FORMAT": self.config.logging.format,
            "BATON_LOGGING_TEXTS": str(self.config.logging.texts).lower(),
        }
        self._jobs = Jobs(self.registry, Storage(self.config.storage), environment)
        self.rollouts = Rollouts(self.registry)
        self.live = LiveQualityCache(self.registry)
        self.retrainer = Retrainer(self.registry, self.live, self._start_by_itself)
        self._moving: dict[str, asyncio.Task[None]] = {}
        self._problem: str | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve's hook for an ASGI application that is built in the replica."""
        return build_api(self, self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        await self.keyring.try_refresh()
        loops = [asyncio.create_task(loop) for loop in (self._work(), self.keyring.refresh_forever(KEYS_SECONDS))]
        yield
        for loop in loops:
            loop.cancel()

    # --- what the API offers -----------------------------------------------------------------------------------------

    async def start_run(self, model: str, assignments: list[str], idempotency_key: str | None) -> Run:
        """Queue a run and submit its job. Raises ``Conflict`` while one is active."""
        settings = override(self.config.model(model), assignments)
        return await self._queue(settings, idempotency_key, None)

    async def cancel_run(self, run_id: str) -> Run:
        """End a run now."""
        return await asyncio.to_thread(self._jobs.cancel, run_id)

    async def promote(self, model: str, version: int, *, force: bool, reason: str | None) -> tuple[Decision, Promotion | None]:
        """Gate and swap. The promotion is None when the gate refused."""
        champion = await asyncio.to_thread(self.registry.champion, model)
        await asyncio.to_thread(self.registry.version, model, version)
        if champion.version == version:
            raise Conflict(f"v{version} is already the champion of {model}")
        if force:
            if reason is None or not reason.strip():
                raise InvalidInput("force needs a reason; it stays in the history")
            decision = by_hand(DecisionKind.FORCE, model, version, champion, reason)
        else:
            decision = await self._judged(model, version, champion.version)
            if decision.verdict is not Verdict.PROMOTE:
                return decision, None
        promotion = await self.rollouts.promote(decision)
        return await asyncio.to_thread(self.registry.decision, promotion.decision_id), promotion

    async def describe(self, settings: ModelSettings) -> dict[str, Any]:
        """One model with its champion, its replicas and what is going on."""
        name = settings.name
        champion = await asyncio.to_thread(self.registry.champion, name)
        version = await asyncio.to_thread(self.registry.champion_version, name)
        live = await asyncio.to_thread(self.live.of, settings, version) if version else None
        active = await asyncio.to_thread(lambda: self.registry.runs.list(name, active=True, limit=1))
        return {
            "name": name,
            "task": settings.task,
            "base_model": settings.base_model,
            "champion": champion.version,
            "sequence": champion.sequence,
            "f1": version.metrics.get("f1") if version else None,
            "live_f1": live.f1 if live else None,
            "corrections": live.corrections if live else 0,
            "replicas": await self.rollouts.states(name),
            "replicas_wanted": settings.serving.replicas,
            "rolling_out": self.rollouts.running(name),
            "active_run": active[0].id if active else None,
            "retrain_paused": await asyncio.to_thread(self.registry.retrain.paused, name),
        }

    async def unready(self) -> list[str]:
        """Why not every model that has a champion answers with it; empty when all do.

        A model without a champion does not count: there is nothing yet that could answer.
        """
        reasons = []
        try:
            await asyncio.to_thread(self.registry.check)
            for settings in self.config.models:
                champion = await asyncio.to_thread(self.registry.champion, settings.name)
                states = await self.rollouts.states(settings.name)
                if not states:
                    reasons.append(f"{settings.name}: no replica is running")
                elif champion.version is not None and all(state["version"] != champion.version for state in states):
                    problem = states[0]["error"] or "it is still loading"
                    reasons.append(f"{settings.name}: no replica serves the champion v{champion.version}: {problem}")
        except BatonError as error:
            reasons.append(str(error))
        return reasons

    async def _queue(self, settings: ModelSettings, idempotency_key: str | None, cause: str | None) -> Run:
        def create() -> Run:
            return self.registry.runs.create(settings.name, settings.model_dump(mode="json"), idempotency_key, cause=cause)

        run = await asyncio.to_thread(create)
        if not run.state.final:
            await asyncio.to_thread(self._jobs.submit, run)
        return run

    async def _start_by_itself(self, model: str, cause: str) -> Run:
        return await self._queue(self.config.model(model), None, cause)

    async def _judged(self, model: str, version: int, champion: int | None) -> Decision:
        policy = self.config.model(model).gate.model_dump(mode="json")

        def look_up() -> Decision | None:
            newest = self.registry.datasets.latest(model)  # a match on an older holdout is out of date
            return self.registry.gate_decision(model, version, champion, policy, newest.holdout_hash if newest else None)

        decision = await asyncio.to_thread(look_up)
        if decision is None:
            await self._jobs.judge(model, version, JUDGE_SECONDS)
            decision = await asyncio.to_thread(look_up)
        if decision is None:
            raise NotReady(
                f"the match of v{version} was played, but the champion or the data of {model} changed meanwhile; try again"
            )
        return decision

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Schema and models into the database first: nobody sees to that before a Serve config runs, as `baton up` does."""
        while not await self._run_registry_step(lambda: declare(self.registry, self.config)):  # noqa: ASYNC110  nobody tells when it will
            await asyncio.sleep(WATCH_SECONDS)
        await asyncio.gather(self._watch(), self._keep_learning(), self._keep_house())

    async def _run_registry_step(self, step: Callable[[], None]) -> bool:
        """Whether the database does, at this step; a problem that lasts is logged once."""
        try:
            await asyncio.to_thread(step)
        except Exception as error:
            expected = isinstance(error, BatonError)
            problem = str(error) if expected else f"{type(error).__name__} (unexpected)"
            if problem != self._problem:
                logger.warning("control: the registry: %s", problem, exc_info=None if expected else error)
            self._problem = problem
            return False
        self._problem = None
        return True

    async def _watch(self) -> None:
        """Look after active runs and roll out decisions that passed; start-up after a crash is just its first round.

        What goes wrong with one run or one model is logged and tried again, and holds up no other.
        """
        while True:
            if not await self._run_registry_step(
                self.registry.check
            ):  # a newer Baton has migrated it, say, while it takes over
                await asyncio.sleep(WATCH_SECONDS)
                continue
            with _logged("the registry"):
                for run in await asyncio.to_thread(lambda: self.registry.runs.list(active=True, limit=MANY)):
                    with _logged(f"run {run.id}", model=run.model, run_id=run.id):
                        await asyncio.to_thread(self._jobs.look_after, run)
                for decision in await asyncio.to_thread(self.registry.pending_decisions):
                    known = decision.model in {settings.name for settings in self.config.models}
                    if known and (decision.model not in self._moving or self._moving[decision.model].done()):
                        self._moving[decision.model] = asyncio.create_task(self._roll_out(decision))
            await asyncio.sleep(WATCH_SECONDS)

    async def _keep_learning(self) -> None:
        """Start the runs that triggers call for."""
        while True:
            for settings in self.config.models if self._problem is None else ():
                with _logged(f"retraining of {settings.name}", model=settings.name):
                    await self.retrainer.round(settings)
            await asyncio.sleep(RETRAIN_SECONDS)

    async def _keep_house(self) -> None:
        """Delete logged answers that are older than their model keeps them, and what killed drivers left behind."""
        while True:
            with _logged("old answers"):
                await asyncio.to_thread(self.forget_old_answers)
            with _logged("checkpoints of runs that are over"):
                await asyncio.to_thread(self.remove_old_checkpoints)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    def forget_old_answers(self) -> None:
        """Delete logged answers past their age; those of models that left the configuration by their last settings."""
        days = {
            name: settings.get("feedback", {}).get("retention_days", FeedbackSettings().retention_days)
            for name, settings in self.registry.declared().items()
        }
        days |= {settings.name: settings.feedback.retention_days for settings in self.config.models}
        for name, kept in days.items():
            with _logged(f"old answers of {name}", model=name):
                self.registry.feedback.forget_predictions(name, datetime.now(UTC) - timedelta(days=kept))

    def remove_old_checkpoints(self) -> None:
        """Delete the checkpoints of runs that have been over for a while: their drivers do so, unless they are killed."""
        storage = Storage(self.config.storage)
        for run_id in storage.run_ids():
            with contextlib.suppress(NotFound):
                over = self.registry.runs.get(run_id).finished_at
                if over is not None and datetime.now(UTC) - over > timedelta(seconds=HOUSEKEEPING_SECONDS):
                    storage.remove_run(run_id)

    async def _roll_out(self, decision: Decision) -> None:
        what = f"roll-out of {decision.model} v{decision.candidate}"
        with _logged(what, model=decision.model, version=decision.candidate):
            try:
                await self.rollouts.promote(decision)
            except NotReady:  # an outage, or no replica: the decision waits, and is not tried again at once
                await asyncio.sleep(ROLL_OUT_AGAIN_SECONDS)
                raise


@contextlib.contextmanager
def _logged(what: str, **facts: Any) -> Iterator[None]:
    """``facts``: what it is about (`logs.FACTS`)."""
    try:
        yield
    except BatonError as error:  # in the history where it matters, or overtaken by somebody else's move
        logger.warning("control: %s: %s", what, error, extra=facts)
    except Exception:
        logger.exception("control: %s", what, extra=facts)
