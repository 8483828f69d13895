"""Calls to all replicas of a model, and how each of them ended. Knows Ray Serve; knows neither the registry nor decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from baton.quality.trials import TrialCounts
from baton.store.records import ReplicaState, Rollout
from services.names import DEPLOYMENT, application


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How a call to all live replicas ended."""

    states: Sequence[ReplicaState] = ()
    """Of those that answered."""
    died: int = 0
    """Number of replicas that died during the call."""
    silent: bool = False
    """Whether one did not answer in time. Then ``states`` is empty: Serve tells nothing about the others."""

    @property
    def whole(self) -> bool:
        """Whether there are replicas, and all of them answered."""
        return bool(self.states) and not self.died and not self.silent


@dataclass(frozen=True, kw_only=True)
class ReplicaCounts:
    """Replicas of one model, as Serve counts them."""

    running: int
    starting: int
    """Replicas that will run soon, and may have read the champion pointer before it moved."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.running + self.starting


class Replicas:
    """The replicas of every model, called over Serve's handles."""

    async def call(
        self, model: str, timeout_s: float, method: Literal["state", "prepare", "commit"], *arguments: Any
    ) -> Answers:
        """Call ``method`` on every live replica. No replica is no error: then nobody answers."""
        results = await self._broadcast(model, timeout_s, method, *arguments)
        if results is None:
            return Answers(silent=True)
        states = [result for result in results if isinstance(result, ReplicaState)]
        return Answers(states=states, died=len(results) - len(states))

    async def trials(self, model: str, timeout_s: float, rollout: Rollout) -> Mapping[str, TrialCounts | None]:
        """Let every live replica follow the trial in ``rollout``, or end it, and return what each has measured, by replica.

        None for a replica that does not run it (yet). Empty if nobody answers, or one does not in time.
        """
        results = await self._broadcast(model, timeout_s, "try_out", rollout) or ()
        return dict(result for result in results if isinstance(result, tuple))

    async def _broadcast(self, model: str, timeout_s: float, method: str, *arguments: Any) -> Sequence[Any] | None:
        """Return what each live replica returned or raised; empty without any; None: one did not answer in time."""
        try:
            handle = serve.get_deployment_handle(DEPLOYMENT, app_name=application(model))
            collecting = handle.broadcast(method, *arguments).results_async(return_exceptions=True)
            results: Sequence[Any] = await asyncio.wait_for(collecting, timeout_s)
        except TimeoutError:
            return None
        except (RayServeException, RayError):  # the application is not there, or Serve's own actors are not
            return ()
        return results

    def count(self, model: str) -> ReplicaCounts:
        """Return how many replicas run and start. Blocks on a call to Serve's controller."""
        status = serve.status().applications.get(application(model))
        if status is None or DEPLOYMENT not in status.deployments:
            return ReplicaCounts(running=0, starting=0)
        states = status.deployments[DEPLOYMENT].replica_states
        starting = sum(int(states.get(name, 0)) for name in ("STARTING", "UPDATING", "RECOVERING"))
        return ReplicaCounts(running=int(states.get("RUNNING", 0)), starting=starting)
