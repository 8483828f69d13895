"""The hand-over: prepare on every replica, move the pointer, commit on every replica.

It keeps no state: if it is killed at any point, the registry's champion pointer is the truth and the replicas follow it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from baton.errors import Conflict, InvalidInput, NotReady
from baton.store.records import Champion, Decision, DecisionKind, HistoryKind, Promotion, ReplicaState, Verdict
from baton.store.registry import Registry
from services.names import DEPLOYMENT, application

logger = logging.getLogger("ray.serve")

STATE_SECONDS = 5.0
"""Timeout for the states of all replicas. Reading one takes milliseconds; health checks and ``GET /metrics`` wait for it."""

PREPARE_SECONDS = 300.0
"""Timeout of one prepare on all replicas: enough to download a version from object storage, load it and warm it up."""

PREPARE_TRIES = 25
"""Maximum number of prepares without an answer: with `RETRY_SECONDS`, about five seconds to replace a dead replica."""

COMMIT_SECONDS = 10.0
"""Timeout of one commit on all replicas. A commit swaps a reference; only a replica that is dead or hangs takes this long."""

SETTLE_SECONDS = 60.0
"""How long commits are repeated until every replica has followed: enough for a replica that starts during the move."""

RETRY_SECONDS = 0.2
"""Pause before a prepare or a commit is repeated: short, because a caller waits for the hand-over."""


class Rollouts:
    """Moves models from one version to another, one move per model at a time. Lives in the control replica's event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._locks: dict[str, asyncio.Lock] = {}

    def running(self, model: str) -> bool:
        """Return whether a hand-over of ``model`` is in progress in this process."""
        return model in self._locks and self._locks[model].locked()

    async def promote(self, decision: Decision) -> Promotion:
        """Put ``decision.candidate`` in service everywhere. On return no replica answers with another version.

        Raises:
            Conflict: the version is the champion already, the champion changed since the decision, or a replica cannot load the
                version (which is recorded in the history). The champion stays.
            NotReady: no replica responds, or the storage or the database does not; the champion stays. Or the pointer moved,
                but not every replica followed within `SETTLE_SECONDS`; these replicas continue to retry.
        """
        model, version = decision.model, decision.candidate
        async with self._locks.setdefault(model, asyncio.Lock()):
            expected = await asyncio.to_thread(self._registry.champion, model)
            if expected.version == version:
                raise Conflict(f"v{version} is already the champion of {model}")
            await self._prepare(model, version)
            promotion = await asyncio.to_thread(self._registry.promote, decision, expected)
            await self._commit(model, Champion(version=version, sequence=promotion.sequence))
        logger.info("%s: v%d took over (%s)", model, version, decision.kind, extra={"model": model, "version": version})
        return promotion

    async def rollback(self, model: str, to: int | None, reason: str) -> tuple[Decision, Promotion]:
        """Put the previous champion (or ``to``, which must have been one) back in service.

        Raises:
            NotFound: the version does not exist.
            Conflict: the model has no earlier champion, or ``to`` was never champion; or as `promote`.
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
        decision = manual_decision(DecisionKind.ROLLBACK, model, target, champion, reason)
        promotion = await self.promote(decision)
        return await asyncio.to_thread(self._registry.decision, promotion.decision_id), promotion

    async def states(self, model: str) -> list[ReplicaState]:
        """Return the state of every live replica; empty if there is none, or one does not respond in time."""
        return await _call_replicas(model, STATE_SECONDS, "state")

    async def _prepare(self, model: str, version: int) -> None:
        """Load ``version`` on every replica, beside the champion. Raise as `promote` if one cannot load it."""
        states: list[ReplicaState] = []
        for _ in range(PREPARE_TRIES):  # a replica that dies during a call spoils that call; Serve replaces the replica
            states = await _call_replicas(model, PREPARE_SECONDS, "prepare", version)
            if states:
                break
            await asyncio.sleep(RETRY_SECONDS)
        if not states:
            raise NotReady(f"{model}: no replica is running, or one does not respond; v{version} waits, the champion stays")
        failed = [state for state in states if state.error is not None]
        if failed and all(state.unavailable for state in failed):  # an outage is not evidence against the version: retry later
            raise NotReady(f"{model}: v{version} cannot take over now, the champion stays: {failed[0].error}")
        if failed:
            detail = f"v{version} cannot take over: {len(failed)} of {len(states)} replica(s) cannot load it: {failed[0].error}"
            await asyncio.to_thread(self._registry.history.add_incident, model, HistoryKind.ROLLOUT_FAILED, detail, version)
            raise Conflict(f"{model}: {detail}; the champion stays")

    async def _commit(self, model: str, champion: Champion) -> None:
        """Repeat the commit until every replica has confirmed it, including replicas that started during the move."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            states = await _call_replicas(model, COMMIT_SECONDS, "commit", champion.version, champion.sequence)
            confirmed = [state for state in states if state.sequence >= champion.sequence]
            counts = await asyncio.to_thread(_count_replicas, model)
            if len(confirmed) == len(states) >= counts.running > 0 and not counts.starting:
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


@dataclass(frozen=True, kw_only=True)
class _ReplicaCounts:
    """Replicas of one model, as Serve counts them."""

    running: int
    starting: int
    """Replicas that will run soon, and may have read the champion pointer before it moved."""

    @property
    def total(self) -> int:
        return self.running + self.starting


def _count_replicas(model: str) -> _ReplicaCounts:
    application_status = serve.status().applications.get(application(model))
    if application_status is None or DEPLOYMENT not in application_status.deployments:
        return _ReplicaCounts(running=0, starting=0)
    states = application_status.deployments[DEPLOYMENT].replica_states
    starting = sum(int(states.get(name, 0)) for name in ("STARTING", "UPDATING", "RECOVERING"))
    return _ReplicaCounts(running=int(states.get("RUNNING", 0)), starting=starting)


async def _call_replicas(
    model: str, timeout_s: float, method: Literal["state", "prepare", "commit"], *arguments: Any
) -> list[ReplicaState]:
    """Call ``method`` on every live replica and return all results; empty if none is alive, one died, or one was too slow."""
    try:
        handle = serve.get_deployment_handle(DEPLOYMENT, app_name=application(model))
        states: list[ReplicaState] = await asyncio.wait_for(handle.broadcast(method, *arguments).results_async(), timeout_s)
    except (RayServeException, RayError, TimeoutError):
        return []
    return states
