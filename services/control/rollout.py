"""The hand-over: prepare on every replica, move the pointer, commit on every replica.

Nothing is remembered here: killed at any point, the registry's pointer is the truth and the replicas follow it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from baton.errors import Conflict, InvalidInput, NotReady
from baton.store.records import Champion, Decision, DecisionKind, HistoryKind, Promotion, Verdict
from baton.store.registry import Registry
from services.names import DEPLOYMENT, application

logger = logging.getLogger("ray.serve")

STATE_SECONDS = 5.0
PREPARE_SECONDS = 300.0
COMMIT_SECONDS = 10.0
PREPARE_TRIES = 25
SETTLE_SECONDS = 60.0
RETRY_SECONDS = 0.2

State = dict[str, Any]
"""What a replica says of itself: `ModelReplica.state`."""


class Rollouts:
    """Moves models from one version to the next, one move a model at a time. Lives in the control replica's event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._locks: dict[str, asyncio.Lock] = {}

    def running(self, model: str) -> bool:
        """Whether a hand-over of ``model`` is under way here."""
        return model in self._locks and self._locks[model].locked()

    async def promote(self, decision: Decision) -> Promotion:
        """Put ``decision.candidate`` in service everywhere. On return no replica answers with another version.

        Raises:
            Conflict: the champion is no longer the one decided against, or a replica cannot load the version; the
                champion stays, and the reason is in the history.
            NotReady: no replica answers, or the storage or the database does not; or the pointer moved,
                but not every replica has followed within a minute: they
                go on trying.
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
            NotFound: there is no such version.
            Conflict: there is no earlier champion, or ``to`` never was one; otherwise as `promote`.
            InvalidInput: the reason is blank.
        """
        if not reason.strip():
            raise InvalidInput("a rollback needs a reason; it stays in the history")
        champion = await asyncio.to_thread(self._registry.champion, model)
        target = to if to is not None else await asyncio.to_thread(self._registry.previous_champion, model)
        if target is None:
            raise Conflict(f"{model} has no earlier champion to roll back to")
        await asyncio.to_thread(self._registry.version, model, target)
        if target not in await asyncio.to_thread(self._registry.past_champions, model):
            raise Conflict(f"v{target} has never been champion of {model}; use promote")
        decision = by_hand(DecisionKind.ROLLBACK, model, target, champion, reason)
        promotion = await self.promote(decision)
        return await asyncio.to_thread(self._registry.decision, promotion.decision_id), promotion

    async def states(self, model: str) -> list[State]:
        """What every live replica says of itself; empty when none is there."""
        return await _ask(model, STATE_SECONDS, "state")

    async def _prepare(self, model: str, version: int) -> None:
        states: list[State] = []
        for _ in range(PREPARE_TRIES):  # a replica that dies meanwhile spoils one round; Serve replaces it
            states = await _ask(model, PREPARE_SECONDS, "prepare", version)
            if states:
                break
            await asyncio.sleep(RETRY_SECONDS)
        if not states:
            raise NotReady(f"{model}: no replica is running, or one does not answer; v{version} waits, the champion stays")
        broken = [state["error"] for state in states if state["error"] is not None]
        if broken and all(
            state["unavailable"] for state in states if state["error"] is not None
        ):  # it says nothing of the version
            raise NotReady(f"{model}: v{version} cannot take over now, the champion stays: {broken[0]}")
        if broken:
            detail = f"v{version} cannot take over: {len(broken)} of {len(states)} replica(s) cannot load it: {broken[0]}"
            await asyncio.to_thread(self._registry.add_incident, model, HistoryKind.ROLLOUT_FAILED, detail, version)
            raise Conflict(f"{model}: {detail}; the champion stays")

    async def _commit(self, model: str, champion: Champion) -> None:
        """Commit until every replica has confirmed, those included that were born during the move."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            states = await _ask(model, COMMIT_SECONDS, "commit", champion.version, champion.sequence)
            confirmed = [state for state in states if state["sequence"] >= champion.sequence]
            running, others = await asyncio.to_thread(replicas, model)
            if len(confirmed) == len(states) >= running > 0 and not others:
                return
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{model}: v{champion.version} is champion, but only {len(confirmed)} of {running + others} replica(s) "
                    "serve it; the others will follow by themselves"
                )
            await asyncio.sleep(RETRY_SECONDS)


def by_hand(kind: DecisionKind, model: str, version: int, champion: Champion, reason: str) -> Decision:
    """The decision of a person: to force a version or to roll back to one."""
    did = "Forced" if kind is DecisionKind.FORCE else "Rolled back to"
    instead = f" in place of v{champion.version}" if champion.version is not None else ""
    return Decision(
        model=model,
        candidate=version,
        champion=champion.version,
        kind=kind,
        verdict=Verdict.PROMOTE,
        sentence=f"{did} v{version}{instead}.",
        reason=reason,
    )


def replicas(model: str) -> tuple[int, int]:
    """How many replicas Serve counts as running, and how many are on their way there (and may have read an old pointer)."""
    found = serve.status().applications.get(application(model))
    if found is None or DEPLOYMENT not in found.deployments:
        return 0, 0
    states = found.deployments[DEPLOYMENT].replica_states
    return int(states.get("RUNNING", 0)), sum(int(states.get(name, 0)) for name in ("STARTING", "UPDATING", "RECOVERING"))


async def _ask(model: str, timeout_s: float, method: str, *arguments: Any) -> list[State]:
    """Every live replica's answer; empty when none is alive, when one died while it was asked, or did not answer in time."""
    try:
        handle = serve.get_deployment_handle(DEPLOYMENT, app_name=application(model))
        answers: list[State] = await asyncio.wait_for(handle.broadcast(method, *arguments).results_async(), timeout_s)
    except (RayServeException, RayError, TimeoutError):
        return []
    return answers
