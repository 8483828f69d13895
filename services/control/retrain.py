"""Automatic retraining: whether a run starts now, and what delays it (pause, active run, cool-down with back-off).

`choose` is pure; `services.control.triggers` has the triggers. `Retrainer` reads the registry, chooses, starts runs, and writes
into the history what it did and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from baton.config.model_settings import ModelSettings, RetrainSettings
from baton.errors import Conflict
from baton.quality.drift import Drift, compare
from baton.store.records import HistoryKind, ModelVersion, Run, RunState, Verdict
from baton.store.registry import Registry
from baton.wording import counted
from services.control.live_cache import LiveQualityCache
from services.control.triggers import MIN_SAMPLES, TRIGGERS, Situation, TriggerName, cooled_down_at, describe_drift

FRESH = timedelta(seconds=15)
"""Maximum age of the cached situation that ``GET /metrics`` and the overview may use. The control plane renews it every few
seconds anyway."""

RUNS_SEEN = 20
"""Number of recent runs that the back-off considers. It reaches `MAX_COOL_DOWN` well before this many."""


class Hold(StrEnum):
    """What keeps a run from starting although a trigger fires."""

    PAUSED = "paused"
    ACTIVE = "active"
    COOL_DOWN = "cool-down"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Whether a run starts, and why or why not."""

    trigger: TriggerName | None
    """The trigger that fires, if any."""
    hold: Hold | None
    """What keeps the run of ``trigger`` from starting, if anything does."""
    text: str
    """The explanation for users."""

    @property
    def starts_run(self) -> bool:
        """Whether a run starts."""
        return self.trigger is not None and self.hold is None


@dataclass(frozen=True, kw_only=True)
class _Firing:
    """A trigger that fires."""

    name: TriggerName
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Blocker:
    """What blocks a run that a trigger wants to start."""

    hold: Hold
    reason: str


def choose(settings: RetrainSettings, situation: Situation) -> Choice:
    """Return whether a run should start in this situation, and why or why not."""
    firing = _firing_trigger(settings, situation)
    if firing is None:
        return Choice(trigger=None, hold=None, text=_waiting(settings, situation))
    blocker = _blocker(settings, situation)
    if blocker is None:
        return Choice(trigger=firing.name, hold=None, text=firing.reason)
    return Choice(trigger=firing.name, hold=blocker.hold, text=f"{firing.reason}; but {blocker.reason}")


def _firing_trigger(settings: RetrainSettings, situation: Situation) -> _Firing | None:
    for trigger in TRIGGERS:
        if trigger.enabled(settings) and (reason := trigger.fires(settings, situation)) is not None:
            return _Firing(name=trigger.name, reason=reason)
    return None


def _blocker(settings: RetrainSettings, situation: Situation) -> _Blocker | None:
    if situation.paused is not None:
        return _Blocker(hold=Hold.PAUSED, reason=f"retraining is paused: {situation.paused}")
    if situation.active is not None:
        return _Blocker(hold=Hold.ACTIVE, reason=f"run {situation.active} is active")
    failures = situation.runs_without_champion
    until = cooled_down_at(settings, situation)
    if until is not None and situation.now < until:
        after = f" after {counted(failures, 'run')} without a new champion" if failures else ""
        return _Blocker(hold=Hold.COOL_DOWN, reason=f"cooling down until {until:%Y-%m-%d %H:%M:%S} UTC{after}")
    return None


def _waiting(settings: RetrainSettings, situation: Situation) -> str:
    """Return what the enabled triggers wait for."""
    enabled = [trigger for trigger in TRIGGERS if trigger.enabled(settings)]
    if not enabled:
        return "no trigger is set (retrain: in baton.yaml); only users start runs"
    return "waiting: " + ", ".join(trigger.waits(settings, situation) for trigger in enabled)


class Retrainer:
    """Starts runs when triggers fire. All its state is in the registry: after a restart, the next check continues."""

    def __init__(self, registry: Registry, live: LiveQualityCache, start: Callable[[str, str], Awaitable[Run]]) -> None:
        """``start``: starts a run, given the model and the cause; raises ``Conflict`` if one is active."""
        self._registry, self._live = registry, live
        self._start = start
        self._situations: dict[str, Situation] = {}

    async def check_once(self, settings: ModelSettings) -> Choice:
        """Check one model, start a run if a trigger fires and nothing blocks it, and record in the history what is new."""
        situation, choice = await asyncio.to_thread(self.assess, settings)
        if choice.starts_run:
            try:
                run = await self._start(settings.name, choice.text)
            except Conflict:  # a run was created after the registry was read
                return choice
            await asyncio.to_thread(
                self._registry.history.add_incident, settings.name, HistoryKind.RETRAIN_STARTED, f"Run {run.id}: {choice.text}."
            )
        else:
            await asyncio.to_thread(self._record_hold, settings.name, situation, choice)
        await asyncio.to_thread(self._record_drift, settings.name, situation)
        return choice

    def assess(self, settings: ModelSettings) -> tuple[Situation, Choice]:
        """Read the situation of one model from the database, and choose. Blocks."""
        situation = self._situations[settings.name] = self._read_situation(settings)
        return situation, choose(settings.retrain, situation)

    def recent(self, settings: ModelSettings) -> tuple[Situation, Choice]:
        """Return the situation as `recent_situation`, and choose. Blocks."""
        situation = self.recent_situation(settings)
        return situation, choose(settings.retrain, situation)

    def recent_situation(self, settings: ModelSettings) -> Situation:
        """Return the last situation that was read, if it is younger than `FRESH`; otherwise read it again. Blocks."""
        known = self._situations.get(settings.name)
        return known if known and datetime.now(UTC) - known.now < FRESH else self.assess(settings)[0]

    def _record_hold(self, model: str, situation: Situation, choice: Choice) -> None:
        expected = choice.hold is Hold.ACTIVE and situation.active_is_automatic  # the run that these very corrections started
        key = f"{choice.trigger}: {choice.hold}" if choice.trigger is not None and not expected else None
        self._record_change(model, HistoryKind.RETRAIN_HELD, key, choice.text)

    def _record_drift(self, model: str, situation: Situation) -> None:
        key = ", ".join(drift.feature for drift in situation.drifted) or None
        self._record_change(model, HistoryKind.DRIFT, key, describe_drift(situation.drifted))

    def _record_change(self, model: str, kind: HistoryKind, key: str | None, text: str) -> None:
        """Add ``text`` to the history if ``key`` differs from that of the last check and is not None.

        The registry remembers the keys, so that a restart repeats no entry.
        """
        if self._registry.retrain.changed(model, kind, key) and key is not None:
            self._registry.history.add_incident(model, kind, f"{text[:1].upper()}{text[1:]}.")

    def _read_situation(self, settings: ModelSettings) -> Situation:
        registry, name = self._registry, settings.name
        recent = registry.runs.list(name, limit=RUNS_SEEN)
        active = next((run for run in recent if not run.state.final), None)
        runs = [run for run in recent if run.source is None]  # a version from elsewhere says nothing about training
        newest = registry.versions.list(name, limit=1)
        champion = registry.champion_version(name)
        return Situation(
            now=datetime.now(UTC),
            newest_run_created=runs[0].created_at if runs else registry.declared_at(name),
            last_run_ended=max((run.finished_at for run in runs if run.finished_at), default=None),
            runs_without_champion=self._runs_without_champion(runs),
            active=active.id if active else None,
            active_is_automatic=active is not None and active.cause is not None,
            paused=registry.retrain.paused(name),
            new_examples=registry.feedback.count_after(name, _last_feedback_id(newest[0]) if newest else 0),
            drift=self._measure_drift(name, champion, settings.retrain.window) if champion else (),
            live=self._live.get(settings, champion) if champion else None,
        )

    def _runs_without_champion(self, runs: Sequence[Run]) -> int:
        """Count the newest runs in a row that failed or that the gate refused; skip cancelled and active ones.

        ``runs``: newest first.
        """
        verdicts = self._registry.verdicts([run.decision_id for run in runs if run.decision_id is not None])
        count = 0
        for run in runs:
            if not run.state.final or run.state is RunState.CANCELLED:
                continue
            if run.decision_id is not None and verdicts[run.decision_id] is Verdict.PROMOTE:
                break
            count += 1
        return count

    def _measure_drift(self, model: str, champion: ModelVersion, window: int) -> Sequence[Drift]:
        """Compare the champion's newest answers with those on its holdout; empty if there are too few, or no reference."""
        reference: dict[str, Any] | None = champion.metrics.get("reference")
        if reference is None:
            return ()
        answers = self._registry.predictions.summaries(model, champion.number, window)
        if len(answers) < MIN_SAMPLES:
            return ()
        labels, confidences, lengths = zip(*answers, strict=True)
        return compare(reference, labels, confidences, lengths)


def _last_feedback_id(version: ModelVersion) -> int:
    """Return the id of the last correction that the version's data may contain; 0 for versions older than feedback."""
    return int(version.lineage.get("dataset", {}).get("feedback_until", 0))
