"""Looks at a trial: lets the replicas run it, gathers what they measured, and says when it is over. Moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.quality.live import LiveQuality, live_quality
from baton.quality.trials import TrialCounts, TrialFeedback, complaint, total
from baton.store.records import Rollout, RolloutState
from baton.store.registry import Registry
from services.control.rollouts.machine import Event
from services.control.rollouts.preparation import DEATHS, STATE_SECONDS
from services.control.rollouts.replicas import Replicas

FEEDBACK_WINDOW = 2000
"""Number of newest corrected answers of each version that count: more would not change what they say."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Why a trial is over."""

    event: Event
    """`Event.PASSED` or `Event.FAULTY`."""
    reason: str


class Watch:
    """Watches the canaries and shadows of all models."""

    def __init__(self, registry: Registry, replicas: Replicas, models: Mapping[str, ModelSettings]) -> None:
        self._registry, self._replicas, self._models = registry, replicas, models
        self._live: dict[int, set[str]] = {}
        """By roll-out: the replicas that ran it at the last look."""
        self._died: dict[int, set[str]] = {}
        """By roll-out: the replicas that ran it and are gone."""

    async def look(self, rollout: Rollout) -> Found | None:
        """Return why the trial is over; None while it goes on. Replicas that do not run it yet are told to.

        What they measured is stored with the roll-out.
        """
        reports = await self._replicas.trials(rollout.model, STATE_SECONDS, rollout)
        if reports is None:  # one is silent: look again
            return None
        evidence = {**rollout.evidence, **{replica: asdict(counts) for replica, counts in reports.items()}}
        if evidence != rollout.evidence:
            await asyncio.to_thread(self._registry.rollouts.note, rollout, evidence)
        counts = total_of(evidence)
        feedback = await asyncio.to_thread(feedback_on, self._registry, self._models[rollout.model], rollout)
        reason = self._deaths(rollout, reports.keys()) or self._complaint(rollout, counts, feedback)
        if reason is not None:
            return Found(event=Event.FAULTY, reason=f"{reason}. {affected(rollout, counts)}")
        if rollout.minutes is not None and datetime.now(UTC) - rollout.changed_at >= timedelta(minutes=rollout.minutes):
            return Found(event=Event.PASSED, reason=f"nothing speaks against it. {affected(rollout, counts)}")
        return None

    async def close(self, rollout: Rollout) -> None:
        """Let the replicas end a trial that is over. One that does not hear of it finds out when it reads the registry."""
        await self._replicas.trials(rollout.model, STATE_SECONDS, rollout)
        self._live.pop(rollout.id, None)
        self._died.pop(rollout.id, None)

    def _deaths(self, rollout: Rollout, live: Sequence[str] | Any) -> str | None:
        """Return a complaint if replicas that ran the version are gone. One may have been an accident."""
        died = self._died.setdefault(rollout.id, set())
        died |= self._live.get(rollout.id, set()) - set(live)
        self._live[rollout.id] = set(live)
        return f"{len(died)} replicas died while they ran it" if len(died) >= DEATHS else None

    def _complaint(self, rollout: Rollout, counts: TrialCounts, feedback: TrialFeedback) -> str | None:
        settings = self._models[rollout.model].rollout
        return complaint(
            counts,
            feedback,
            share=rollout.percent / 100 if rollout.state is RolloutState.CANARY else 0.5,
            confidence=settings.confidence,
            max_latency_ratio=settings.max_latency_ratio,
        )


def total_of(evidence: Mapping[str, Any]) -> TrialCounts:
    """Return the sum of what the replicas measured, from the form in which it is stored."""
    return total(
        TrialCounts(**{**counts, "ratios": tuple(counts["ratios"]), "examples": tuple(counts["examples"])})
        for counts in evidence.values()
    )


def affected(rollout: Rollout, counts: TrialCounts) -> str:
    """Return a sentence about how many requests the trial touched."""
    if rollout.state is RolloutState.SHADOW:
        return f"It ran {counts.answers} copies; no request was affected."
    instead = f"; the champion answered {counts.failures} instead of it" if counts.failures else ""
    return f"It answered {counts.answers} requests{instead}."


def feedback_on(registry: Registry, settings: ModelSettings, rollout: Rollout) -> TrialFeedback:
    """Return what feedback says of the answers of both versions since the trial began. A shadow gives none."""
    if rollout.champion is None or rollout.state is RolloutState.SHADOW:
        return TrialFeedback()

    def live(number: int) -> LiveQuality | None:
        version = registry.versions.get(settings.name, number)
        return live_quality(registry, settings, version, FEEDBACK_WINDOW, since=rollout.changed_at)

    new, champion = live(rollout.version), live(rollout.champion)
    return TrialFeedback(
        wrong=new.wrong if new else 0,
        champion_wrong=champion.wrong if champion else 0,
        f1=new.f1 if new else None,
        champion_f1=champion.f1 if champion else None,
    )
