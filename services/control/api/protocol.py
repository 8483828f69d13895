"""What the routes of the control API need of the control plane, as one protocol: the API decides nothing and asks it.

The real one is `services.control.plane.ControlPlane`, which imports the API; the API does not import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.store.records import Decision, Evaluation, Promotion, ReplicaState, Rollout, Run, Source, Trial
from baton.store.registry import Registry
from services.control.live_cache import LiveQualityCache
from services.control.retrain import Retrainer
from services.keyring import Keyring


class Rollouts(Protocol):
    """Moves models from one version to another. ``by``: name of the API key of who asks; None if the service needs none."""

    async def rollback(self, model: str, to: int | None, reason: str, by: str | None) -> tuple[Decision, Promotion]:
        """Put the previous champion, or version ``to``, back in service; raise as `services.control.rollouts.driver` does."""
        ...

    async def reject(self, model: str, version: int, reason: str, by: str | None) -> Rollout | None:
        """Keep a version out of service, and return the roll-out that ended; raise as `services.control.rollouts.driver`."""
        ...

    async def start_trial(self, model: str, version: int, trial: Trial) -> Rollout:
        """Begin a canary or a shadow; raise as `services.control.rollouts.driver` does."""
        ...

    async def end_trial(self, model: str, reason: str, by: str | None) -> Rollout:
        """End the canary or shadow of ``model``. Raise ``NotFound`` if there is none."""
        ...

    async def states(self, model: str) -> list[ReplicaState]:
        """Return the state of every live replica of ``model``."""
        ...


class ControlPlane(Protocol):
    """The control plane behind the API."""

    config: BatonConfig
    registry: Registry
    keyring: Keyring

    @property
    def retrainer(self) -> Retrainer:
        """Starts runs when triggers fire."""
        ...

    @property
    def live(self) -> LiveQualityCache:
        """Live F1 of the models."""
        ...

    @property
    def rollouts(self) -> Rollouts:
        """Moves models from one version to another."""
        ...

    async def start_run(self, model: str, assignments: list[str], idempotency_key: str | None, traceparent: str = "") -> Run:
        """Queue a run with ``KEY=VALUE`` overrides and submit its job. Raise ``Conflict`` while one of ``model`` is active."""
        ...

    async def register(self, model: str, source: Source, idempotency_key: str | None) -> Run:
        """Queue a run that registers a version from elsewhere. Raise ``Conflict`` while a run of ``model`` is active."""
        ...

    async def evaluate(self, model: str, version: int) -> Evaluation:
        """Return the scores of a version on the newest holdout, computed now unless they are stored."""
        ...

    async def cancel_run(self, run_id: str) -> Run:
        """End an active run now. Raise ``Conflict`` if it is over."""
        ...

    async def run_log(self, run_id: str, lines: int) -> Sequence[str]:
        """Return the last lines of a run's log; none if it cannot be read here."""
        ...

    async def promote(
        self, model: str, version: int, *, force: bool, reason: str | None, by: str | None
    ) -> tuple[Decision, Promotion | None]:
        """Ask the gate, and swap if it agrees; ``None`` instead of a promotion if it refuses."""
        ...

    async def describe(self, settings: ModelSettings) -> dict[str, object]:
        """Return one model as JSON values: champion, replicas, active run."""
        ...

    async def unready(self) -> list[str]:
        """Return the reasons why the service is not ready; none when it is."""
        ...
