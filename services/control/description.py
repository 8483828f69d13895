"""What the API says of a model: from the registry, and from the states of its replicas. Knows no cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.quality.matches import left_after
from baton.store.records import ReplicaState
from baton.store.registry import Registry
from services.control.live_cache import LiveQualityCache


def describe(
    settings: ModelSettings, registry: Registry, live: LiveQualityCache, replicas: Sequence[ReplicaState]
) -> dict[str, Any]:
    """Return one model as JSON values: champion, replicas, active run. Blocks: it asks the database."""
    name = settings.name
    champion = registry.champion(name)
    version = registry.champion_version(name)
    quality = live.get(settings, version) if version else None
    active = registry.runs.list(name, active=True, limit=1)
    return {
        "name": name,
        "task": settings.task,
        "base_model": settings.base_model,
        "champion": champion.version,
        "sequence": champion.sequence,
        "f1": version.metrics.get("f1") if version else None,
        "live_f1": quality.f1 if quality else None,
        "corrections": quality.corrections if quality else 0,
        "replicas": [asdict(state) for state in replicas],
        "replicas_wanted": settings.serving.replicas,
        "rollout": _active_rollout(registry, name),
        "active_run": active[0].id if active else None,
        "matches": _matches(registry, settings, champion.version),
        "retrain_paused": registry.retrain.paused(name),
    }


def _active_rollout(registry: Registry, model: str) -> dict[str, Any] | None:
    active = registry.rollouts.active(model)
    if active is None:
        return None
    return {"version": active.version, "mode": active.mode, "state": active.state, "percent": active.percent}


def _matches(registry: Registry, settings: ModelSettings, champion: int | None) -> dict[str, Any]:
    """Return how often the champion was challenged on its holdout, and what is left of 1 − confidence."""
    played = registry.matches.played(settings.name, champion)
    return {"played": played, "left": left_after(settings.gate.confidence, played), "of": 1 - settings.gate.confidence}
