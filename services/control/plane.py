"""The control plane's deployment class: puts the parts together, serves the control API, and does what the API asks for.

All its state is in the registry, so that it may be killed at any point. `services.control.loops` has the work that
happens without a request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig, override
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, Conflict, InvalidInput, NotReady
from baton.store.records import Champion, Decision, DecisionKind, Evaluation, Promotion, Run, Source, Verdict
from baton.store.registry import Registry
from baton.wording import signed
from services.control.api.app import build_api
from services.control.description import describe
from services.control.housekeeping import Housekeeping
from services.control.jobs import Jobs
from services.control.live_cache import LiveQualityCache
from services.control.loops import Loops
from services.control.notices.notifier import Notifier
from services.control.ownership import Ownership, this_cluster
from services.control.retrain import Retrainer
from services.control.rollouts.driver import Rollouts, manual_decision
from services.control.rollouts.replicas import Replicas
from services.control.run_traces import RunTraces
from services.control.silence import Silence
from services.keyring import Keyring
from services.log_flushing import flush_forever
from services.tracing import Tracer, caller_of

JUDGE_SECONDS = 600.0
"""Timeout of a promotion that has to evaluate versions first: enough for both versions on a large holdout, on a busy CPU."""

TOO_SLOW = "too slow"
"""Reason of a refusal that rests on a measured latency (`training.judge.gate.Reason`, which services do not import)."""

KEYS_SECONDS = 2.0
"""Pause between two reads of the API keys: while the database answers, a revoked key is refused about this much later."""


class ControlPlane:
    """The control plane of one service. Implements `services.control.api.protocol.ControlPlane`."""

    def __init__(
        self,
        config: dict[str, Any],
        environment: Mapping[str, str] | None = None,
        identify: Callable[[], str] = this_cluster,
    ) -> None:
        """``config``: the `BatonConfig` as plain values. ``environment``: variables that jobs get in addition to those of their
        node; by default the URLs of the database and the storage. ``identify``: returns the id of the cluster.
        """
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
        storage = Storage(self.config.storage)
        self.ownership = Ownership(self.registry, [settings.name for settings in self.config.models], identify)
        self._jobs = Jobs(self.registry, storage, environment, self.ownership, Silence())
        self._models = {settings.name: settings for settings in self.config.models}
        """By name, with those that were removed since: a step of a roll-out may still be looking."""
        self.rollouts = Rollouts(self.registry, Replicas(), self._models, lambda: self.ownership.cluster)
        self.live = LiveQualityCache(self.registry)
        self.retrainer = Retrainer(self.registry, self.live, self._start_automatic_run)
        self.housekeeping = Housekeeping(lambda: self.config, self.registry, storage)

    async def reconfigure(self, changed: dict[str, Any]) -> None:
        """Use other models, or other settings of them, from now on. Ray Serve calls this at the start and for `baton apply`.

        Whoever deploys has declared them in the registry. What is in progress goes on with the settings that it began with.
        """
        self.config = BatonConfig.model_validate({**self.config.model_dump(mode="json"), **changed})
        self._models.update({settings.name: settings for settings in self.config.models})
        await asyncio.to_thread(self.ownership.look_after, [settings.name for settings in self.config.models])

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the API. Ray Serve calls this in the replica's process."""
        return build_api(self, self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        await self.keyring.try_refresh()
        tracer = None if self.config.traces is None else Tracer(self.config.traces, {})
        loops = Loops(
            lambda: self.config,
            self.registry,
            ownership=self.ownership,
            jobs=self._jobs,
            rollouts=self.rollouts,
            retrainer=self.retrainer,
            housekeeping=self.housekeeping,
            notifiers=[Notifier(receiver, self.registry) for receiver in self.config.notify],
            traces=None if tracer is None else RunTraces(self.registry, tracer),
        )
        works = (loops.run(), self.keyring.refresh_forever(KEYS_SECONDS), flush_forever())
        tasks = [asyncio.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)

    async def start_run(self, model: str, assignments: list[str], idempotency_key: str | None, traceparent: str = "") -> Run:
        """Queue a run with ``KEY=VALUE`` overrides and submit its job. ``traceparent``: of the request, if it has one.

        Raises:
            Conflict: a run of ``model`` is active.
            NotFound: unknown model.
            ConfigError: an assignment is not valid, or there is nothing to train on.
        """
        declared = self.config.model(model)
        settings = override(declared, assignments)
        settings.check_trainable(declared.data)
        return await self._queue(settings, idempotency_key, traceparent=traceparent if caller_of(traceparent) else "")

    async def register(self, model: str, source: Source, idempotency_key: str | None) -> Run:
        """Queue a run that registers a version from elsewhere, and submit its job.

        Raises:
            Conflict: a run of ``model`` is active.
            NotFound: unknown model.
        """
        return await self._queue(self.config.model(model), idempotency_key, source=source)

    async def cancel_run(self, run_id: str) -> Run:
        """End an active run now. Raises ``Conflict`` if it is over, ``NotFound`` if it does not exist."""
        return await asyncio.to_thread(self._jobs.cancel, run_id)

    async def run_log(self, run_id: str, lines: int) -> Sequence[str]:
        """Return the last lines of a run's log; none if it cannot be read here. Raises ``NotFound``."""
        return await asyncio.to_thread(self._jobs.log, run_id, lines)

    async def promote(
        self, model: str, version: int, *, force: bool, reason: str | None, by: str | None = None
    ) -> tuple[Decision, Promotion | None]:
        """Ask the gate (unless ``force``), and hand over if it agrees. The promotion is None if the gate refused.

        ``by``: name of the API key of who asks, for the history; None if the service needs none.

        Raises:
            Conflict: the version is the champion already, or was rejected, or cannot be judged, or as `Rollouts.promote`.
            InvalidInput: ``force`` without a reason.
            NotFound: the version does not exist.
            NotReady: the evaluation failed or took too long, or as `Rollouts.promote`.
        """
        champion = await asyncio.to_thread(self.registry.champion, model)
        await asyncio.to_thread(self.registry.versions.get, model, version)
        if champion.version == version:
            raise Conflict(f"v{version} is already the champion of {model}")
        if force:
            if reason is None or not reason.strip():
                raise InvalidInput("force needs a reason; it stays in the history")
            decision = manual_decision(DecisionKind.FORCE, model, version, champion, signed(reason, by))
        else:
            rejection = await asyncio.to_thread(self.registry.history.rejection, model, version)
            if rejection is not None:
                raise Conflict(
                    f"v{version} of {model} was rejected: {rejection}; `--force --reason …` promotes it nevertheless"
                )
            decision = await self._ask_gate(model, version, champion)
            if decision.verdict is not Verdict.PROMOTE:
                return decision, None
        promotion = await self.rollouts.promote(decision, signed(reason or None, by))
        return await asyncio.to_thread(self.registry.decision, promotion.decision_id), promotion

    async def evaluate(self, model: str, version: int) -> Evaluation:
        """Return the scores of a version on the newest holdout; unless they are stored, run a job that computes them.

        Raises:
            Conflict: no holdout is declared, or the version has another task than the model.
            NotFound: the version does not exist.
            NotReady: the evaluation failed or took too long.
        """
        settings = self.config.model(model)
        await asyncio.to_thread(self._require_judgeable, settings, version)

        def stored() -> Evaluation | None:
            newest = self.registry.datasets.latest(model, holdout_source=settings.data.holdout_source)
            return None if newest is None else self.registry.evaluations.get(model, version, newest.holdout_hash)

        found = await asyncio.to_thread(stored)
        if found is None:
            await self._jobs.evaluate(settings, version, JUDGE_SECONDS)
            found = await asyncio.to_thread(stored)
        if found is None:
            raise NotReady(f"v{version} was evaluated, but the data of {model} changed in the meantime; try again")
        return found

    def _require_judgeable(self, settings: ModelSettings, number: int) -> None:
        """Raise as `evaluate` unless the gate can be asked about a version."""
        name = settings.name
        version = self.registry.versions.get(name, number)
        task = version.lineage.get("task", settings.task)  # Baton 0.1 stored none: the job that evaluates reads the manifest
        if task != settings.task:
            raise Conflict(
                f"v{number} has the task {task}, and {name} is declared with {settings.task}: it can neither be evaluated nor "
                f"serve. Declare task: {task}, or train or register a version of {settings.task}"
            )
        if not settings.data.judges:
            raise Conflict(
                f"{name} declares no data, so that there is no holdout to evaluate v{number} on. Declare data.holdout, or put "
                f"it into service without: `baton promote {name} {number} --force --reason …`"
            )

    async def describe(self, settings: ModelSettings) -> dict[str, Any]:
        """Return one model as JSON values: champion, replicas, active run."""
        states = await self.rollouts.states(settings.name)
        return await asyncio.to_thread(describe, settings, self.registry, self.live, states)

    async def unready(self) -> list[str]:
        """Return why the service is not ready; empty if each model with a champion has a replica that serves it.

        A model without a champion needs a running replica only: it has no version yet that could answer.
        """
        reasons = []
        try:
            await asyncio.to_thread(self.registry.check)
            for settings in self.config.models:
                champion = await asyncio.to_thread(self.registry.champion, settings.name)
                states = await self.rollouts.states(settings.name)
                if not states:
                    reasons.append(f"{settings.name}: no replica is running")
                elif champion.version is not None and all(state.version != champion.version for state in states):
                    problem = states[0].error or "it is still loading"
                    reasons.append(f"{settings.name}: no replica serves the champion v{champion.version}: {problem}")
        except BatonError as error:
            reasons.append(str(error))
        return reasons

    async def _queue(
        self,
        settings: ModelSettings,
        idempotency_key: str | None,
        *,
        cause: str | None = None,
        source: Source | None = None,
        traceparent: str = "",
    ) -> Run:
        def create() -> Run:
            return self.registry.runs.create(
                settings.name,
                settings.model_dump(mode="json"),
                idempotency_key,
                cause=cause,
                owner=self.ownership.cluster,
                source=source,
                traceparent=traceparent,
            )

        run = await asyncio.to_thread(create)
        if not run.state.final:
            await asyncio.to_thread(self._jobs.submit, run)
        return run

    async def _start_automatic_run(self, model: str, cause: str) -> Run:
        return await self._queue(self.config.model(model), None, cause=cause)

    async def _ask_gate(self, model: str, version: int, champion: Champion) -> Decision:
        """Return the gate's decision on ``version`` against ``champion``; unless it is stored, run a job that makes it."""
        settings = self.config.model(model)
        await asyncio.to_thread(self._require_judgeable, settings, version)
        policy, source = settings.gate.model_dump(mode="json"), settings.data.holdout_source

        def stored(*, judged: bool) -> Decision | None:
            newest = self.registry.datasets.latest(model, holdout_source=source)  # a decision on an older one is out of date
            judge = {"holdout_hash": newest.holdout_hash, "marks_hash": newest.marks_hash} if newest else {}
            found = self.registry.gate_decision(model, version, champion.version, policy, **judge)
            if found is not None and not judged and found.numbers.get("reason") == TOO_SLOW:
                return None  # the machine may have been busy: measure again
            if found is None or found.champion_sequence == champion.sequence:
                return found
            # the pointer left this champion and came back: the same match would end the same way
            return self.registry.add_decision(replace(found, id=None, champion_sequence=champion.sequence))

        decision = await asyncio.to_thread(stored, judged=False)
        if decision is None:
            await self._jobs.judge(settings, version, JUDGE_SECONDS)
            decision = await asyncio.to_thread(stored, judged=True)
        if decision is None:
            raise NotReady(
                f"v{version} was evaluated, but the champion or the data of {model} changed in the meantime; try again"
            )
        return decision
