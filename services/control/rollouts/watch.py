"""Looks at a trial: lets the replicas run it, gathers what they measured, and says when it is over. Moves nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from baton.config.model_settings import ModelSettings
from baton.quality.live import live_quality
from baton.quality.shadow_feedback import shadow_feedback
from baton.quality.trials import TrialCounts, TrialFeedback, complaint
from baton.store.records import Rollout, RolloutState
from baton.store.registry import Registry
from services.control.rollouts.evidence import Evidence
from services.control.rollouts.machine import Event
from services.control.rollouts.preparation import DEATHS, STATE_SECONDS
from services.control.rollouts.replicas import Replicas

FEEDBACK_SECONDS = 10.0
"""Pause between two readings of the feedback: scoring all of it takes longer than asking the replicas."""

FEEDBACK_LIMIT = 100_000
"""Most corrected answers of a version that are read: far more than a trial gets. Of a champion with more, too few
wrong answers would count."""

LOOK_SECONDS = 5.0
"""Longest time between two looks that counts as time on trial: what nobody saw does not count."""

DEATH_SECONDS = 600.0
"""How long the death of a replica counts: nodes are lost now and then, whatever runs on them."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Why a trial is over."""

    event: Event
    """`Event.PASSED` or `Event.FAULTY`."""
    reason: str


@dataclass(kw_only=True)
class _Watched:
    """What this process knows of a trial. A new process starts with nothing, and the trial lasts a little longer."""

    running: set[str] = field(default_factory=set)
    """The replicas that ran it at the last look."""
    deaths: list[float] = field(default_factory=list)
    """When replicas that ran it were missed."""
    seconds: float = 0.0
    """How long replicas have run it."""
    looked_at: float | None = None
    feedback_at: float | None = None


class Watch:
    """Watches the canaries and shadows of all models."""

    def __init__(
        self,
        registry: Registry,
        replicas: Replicas,
        models: Mapping[str, ModelSettings],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._replicas, self._models, self._clock = registry, replicas, models, clock
        self._watched: dict[int, _Watched] = {}
        """By roll-out."""

    async def look(self, rollout: Rollout) -> Found | None:
        """Return why the trial is over; None while it goes on. Replicas that do not run it yet are told to.

        What they measured is stored with the roll-out.
        """
        reports = await self._replicas.trials(rollout.model, STATE_SECONDS, rollout)
        if not reports:  # nobody answers, or Serve does not: look again
            return None
        now, watched = self._clock(), self._watched.setdefault(rollout.id, _Watched())
        running = {replica: counts for replica, counts in reports.items() if counts is not None}
        if running and watched.looked_at is not None:
            watched.seconds += min(now - watched.looked_at, LOOK_SECONDS)
        watched.looked_at = now
        evidence = Evidence.from_stored(rollout.evidence).seen(running)
        if watched.feedback_at is None or now - watched.feedback_at >= FEEDBACK_SECONDS:
            settings, watched.feedback_at = self._models[rollout.model], now
            feedback = await asyncio.to_thread(feedback_on, self._registry, settings, rollout)
            evidence = replace(evidence, feedback=feedback)
        if evidence.stored() != rollout.evidence:
            await asyncio.to_thread(self._registry.rollouts.note, rollout, evidence.stored())
        counts = evidence.total
        reason = self._deaths(watched, reports, running, now) or self._complaint(rollout, counts, evidence.feedback)
        if reason is not None:
            return Found(event=Event.FAULTY, reason=f"{reason}. {affected(rollout, counts)}")
        if rollout.minutes is not None and running and watched.seconds >= rollout.minutes * 60:
            return Found(event=Event.PASSED, reason=f"nothing speaks against it. {affected(rollout, counts)}")
        return None

    async def close(self, rollout: Rollout) -> None:
        """Let the replicas end a trial that is over. One that does not hear of it finds out when it reads the registry."""
        await self._replicas.trials(rollout.model, STATE_SECONDS, rollout)
        self._watched.pop(rollout.id, None)

    def _deaths(
        self,
        watched: _Watched,
        reports: Mapping[str, TrialCounts | None],
        running: Mapping[str, TrialCounts],
        now: float,
    ) -> str | None:
        """Return a complaint if replicas that ran the version are gone. One may have been an accident."""
        watched.deaths += [now] * len(watched.running - reports.keys())
        watched.deaths = [at for at in watched.deaths if now - at < DEATH_SECONDS]
        watched.running = set(running)
        died = len(watched.deaths)
        return f"{died} replicas died while they ran it" if died >= DEATHS else None

    def _complaint(self, rollout: Rollout, counts: TrialCounts, feedback: TrialFeedback) -> str | None:
        settings = self._models[rollout.model].rollout
        return complaint(
            counts,
            feedback,
            share=share_of(rollout, counts),
            confidence=settings.confidence,
            max_latency_ratio=settings.max_latency_ratio,
        )


def share_of(rollout: Rollout, counts: TrialCounts) -> float:
    """Return the version's share of the requests: what was asked for or, if that is more, what it got.

    It gets more if a few keys send most of the requests. In a shadow both versions answer each request.
    """
    if rollout.state is RolloutState.SHADOW:
        return 0.5
    mine = counts.answers + counts.failures
    everything = mine + counts.champion_answers + counts.champion_errors
    return min(0.9, max(rollout.percent / 100, mine / everything if everything else 0.0))


def affected(rollout: Rollout, counts: TrialCounts) -> str:
    """Return a sentence about how many requests the trial touched."""
    if rollout.state is RolloutState.SHADOW:
        return f"It ran {counts.answers} copies; no request was affected."
    instead = f"; the champion was asked {counts.failures} times instead of it" if counts.failures else ""
    return f"It answered {counts.answers} requests{instead}."


def feedback_on(registry: Registry, settings: ModelSettings, rollout: Rollout) -> TrialFeedback:
    """Return what feedback says of the answers that both versions gave since the trial began.

    A canary and the champion have answered different requests, a shadow and the champion the same ones.
    """
    if rollout.champion is None or not rollout.state.trial:
        return TrialFeedback()
    since = rollout.changed_at
    mine, champions = (registry.versions.get(settings.name, number) for number in (rollout.version, rollout.champion))
    if rollout.state is RolloutState.SHADOW:
        return shadow_feedback(registry, settings, mine, champions, FEEDBACK_LIMIT, since=since)
    new, champion = (live_quality(registry, settings, version, FEEDBACK_LIMIT, since) for version in (mine, champions))
    return TrialFeedback(
        wrong=new.wrong if new else 0,
        champion_wrong=champion.wrong if champion else 0,
        f1=new.f1 if new else None,
        champion_f1=champion.f1 if champion else None,
    )
