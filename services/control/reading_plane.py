"""A control plane that only reads: the control API over the database alone, for a command while no service runs.

Implements `services.control.api.protocol.ControlPlane`. Has no cluster, and therefore no replicas; changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.errors import NotReady
from baton.store.records import ReplicaState
from baton.store.registry import Registry
from services.control.description import describe
from services.control.live_cache import LiveQualityCache
from services.control.retrain import Retrainer
from services.keyring import Keyring


class _NoReplicas:
    """The roll-outs of a service that does not run."""

    async def states(self, model: str) -> list[ReplicaState]:
        """Return no state: there are no replicas."""
        return []

    async def rollback(self, *_: Any) -> NoReturn:
        """Raise ``NotReady``, as all other changes do."""
        raise _not_running()

    reject = start_trial = end_trial = rollback


class ReadingPlane:
    """Answers what the database knows, and refuses everything else."""

    def __init__(self, config: BatonConfig, registry: Registry) -> None:
        """``registry``: opened for reading only."""
        self.config = config
        self.registry = registry
        # Who may read the database itself needs no key.
        self.keyring = Keyring(registry.keys, required=False)
        self.rollouts = _NoReplicas()
        self.live = LiveQualityCache(registry)
        self.retrainer = Retrainer(registry, self.live, self.start_run)

    async def describe(self, settings: ModelSettings) -> dict[str, object]:
        """Return one model as JSON values."""
        return await asyncio.to_thread(describe, settings, self.registry, self.live, [])

    async def unready(self) -> list[str]:
        """Return why the service is not ready."""
        return [str(_not_running())]

    async def run_log(self, run_id: str, lines: int) -> list[str]:
        """Return no lines: logs are with the service. `baton logs` reads those that it left."""
        return []

    async def start_run(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ``NotReady``, as all other changes do."""
        raise _not_running()

    register = evaluate = cancel_run = promote = start_run


def _not_running() -> NotReady:
    return NotReady("no service runs; `baton up` starts it")
