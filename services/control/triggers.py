"""Triggers of automatic retraining: when each one starts a run, and what it waits for. Pure: no registry, no clock.

To add a trigger, write a class and add it to `TRIGGERS`; its key goes into `RetrainSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from cronsim import CronSim

from baton.config.model_settings import RetrainSettings
from baton.quality.drift import Drift
from baton.quality.live import LiveQuality
from baton.wording import counted

MIN_SAMPLES = 50
"""Minimum number of answers for drift, and of corrected answers for live F1: fewer are no evidence of either."""


MAX_COOL_DOWN = timedelta(hours=23)
"""Maximum time from the beginning of a run to the end of a doubled cool-down: a model that never improves is tried once a day.

Less than a day by the time that a run may begin later than the one of the night before: a schedule's next time is not skipped.
"""

MIN_COOL_DOWN_AFTER_FAILURE = timedelta(seconds=30)
"""Minimum cool-down after a run without a new champion: otherwise ``cooldown_minutes: 0`` would repeat failing runs at once."""

MAX_DOUBLINGS = 20
"""Maximum exponent of the back-off. After 12, half a minute exceeds `MAX_COOL_DOWN`; far more overflow a timedelta."""


class TriggerName(StrEnum):
    """Name of a trigger. It is part of the key by which the registry remembers what held a run back."""

    EXAMPLES = "examples"
    SCHEDULE = "schedule"
    DRIFT = "drift"
    LIVE_F1 = "live F1"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Facts about one model at one moment, on which the choice whether to start a run is based."""

    now: datetime
    """When the facts were read (UTC)."""
    newest_run_created: datetime
    """When the newest run was created; without any run, when the model was declared. Schedules count from here."""
    last_run_ended: datetime | None
    """When the last run ended; None before the first. The cool-down counts from here."""
    runs_without_champion: int
    """Number of runs in a row, up to the last one, that failed or brought no new champion."""
    active: str | None
    """Id of the active run."""
    active_is_automatic: bool
    """Whether a trigger, and not a user, started the active run."""
    paused: str | None
    """Why a user paused retraining; None while it is not paused."""
    new_examples: int
    """Corrections that arrived after those that the run of the newest version read. A run that failed uses none up."""
    drift: Sequence[Drift]
    """Drift of the champion's answers, one entry per feature; empty while there is not enough to compare."""
    live: LiveQuality | None
    """Quality of the champion on corrected answers; None while none of its answers is corrected."""

    @property
    def drifted(self) -> Sequence[Drift]:
        """The features that drifted."""
        return [drift for drift in self.drift if drift.drifted]


def cooled_down_at(settings: RetrainSettings, situation: Situation) -> datetime | None:
    """Return when the cool-down after the last run ends, or ended; None before the first run.

    It is ``cooldown_minutes``, doubled for each run in a row without a new champion, but not beyond `MAX_COOL_DOWN`.
    """
    if situation.last_run_ended is None:
        return None
    pause, failures = timedelta(minutes=settings.cooldown_minutes), situation.runs_without_champion
    if failures:
        pause = max(pause, MIN_COOL_DOWN_AFTER_FAILURE)
    doubled = situation.last_run_ended + pause * (1 << min(failures, MAX_DOUBLINGS))
    latest = situation.newest_run_created + MAX_COOL_DOWN
    return max(situation.last_run_ended + min(pause, MAX_COOL_DOWN), min(doubled, latest))


class Trigger(Protocol):
    """One reason to start a run without a user."""

    name: TriggerName

    def enabled(self, settings: RetrainSettings) -> bool:
        """Return whether the settings use this trigger."""
        ...

    def fires(self, settings: RetrainSettings, situation: Situation) -> str | None:
        """Return why a run should start, as the beginning of a sentence; None if this trigger does not fire.

        Only called if the trigger is enabled.
        """
        ...

    def waits(self, settings: RetrainSettings, situation: Situation) -> str:
        """Return how far the trigger is from firing. Only called if it is enabled and does not fire."""
        ...


class EnoughExamples:
    """Fires when enough new corrections have arrived (``after_examples``)."""

    name = TriggerName.EXAMPLES

    def enabled(self, settings: RetrainSettings) -> bool:
        return settings.after_examples is not None

    def fires(self, settings: RetrainSettings, situation: Situation) -> str | None:
        if settings.after_examples is None or situation.new_examples < settings.after_examples:
            return None
        return f"{situation.new_examples} new corrections ({settings.after_examples} wanted)"

    def waits(self, settings: RetrainSettings, situation: Situation) -> str:
        return f"{situation.new_examples} of {settings.after_examples} new corrections"


class Schedule:
    """Fires when a cron time has passed since the last run was created (``every``), also without new corrections.

    A time during the cool-down is skipped: a run that starts late would move the next one, and nightly runs into the day.
    """

    name = TriggerName.SCHEDULE

    def enabled(self, settings: RetrainSettings) -> bool:
        return bool(settings.every)

    def fires(self, settings: RetrainSettings, situation: Situation) -> str | None:
        due = self._due(settings, situation)
        return f"due since {due:%Y-%m-%d %H:%M} UTC by schedule {settings.every!r}" if due <= situation.now else None

    def waits(self, settings: RetrainSettings, situation: Situation) -> str:
        return f"next by schedule {self._due(settings, situation):%Y-%m-%d %H:%M} UTC"

    def _due(self, settings: RetrainSettings, situation: Situation) -> datetime:
        assert settings.every is not None
        cooled_down = cooled_down_at(settings, situation)
        since = situation.newest_run_created if cooled_down is None else max(situation.newest_run_created, cooled_down)
        return next(CronSim(settings.every, since))


class DriftAlarm:
    """Fires when the champion's answers drifted (``on_drift``) and there is a new correction to learn from.

    Without a new correction, the same data would make the same model.
    """

    name = TriggerName.DRIFT

    def enabled(self, settings: RetrainSettings) -> bool:
        return settings.on_drift

    def fires(self, settings: RetrainSettings, situation: Situation) -> str | None:
        if not situation.drifted or not situation.new_examples:
            return None
        return f"{describe_drift(situation.drifted)}, and {counted(situation.new_examples, 'new correction')}"

    def waits(self, settings: RetrainSettings, situation: Situation) -> str:
        if not situation.drifted:
            return "no drift"
        return f"{describe_drift(situation.drifted)}, but no new corrections to learn from"


class LowLiveF1:
    """Fires when the champion's live F1 is too low (``live_f1_below``) and there is a new correction to learn from."""

    name = TriggerName.LIVE_F1

    def enabled(self, settings: RetrainSettings) -> bool:
        return settings.live_f1_below is not None

    def fires(self, settings: RetrainSettings, situation: Situation) -> str | None:
        floor, live = settings.live_f1_below, _reliable(situation.live)
        if floor is None or live is None or live.f1 >= floor or not situation.new_examples:
            return None
        return (
            f"live F1 {live.f1:.4f} over {live.corrections} corrections is below {floor}, "
            f"and {counted(situation.new_examples, 'new correction')}"
        )

    def waits(self, settings: RetrainSettings, situation: Situation) -> str:
        live = _reliable(situation.live)
        return f"live F1 {live.f1:.4f}" if live is not None else f"fewer than {MIN_SAMPLES} corrected answers"


TRIGGERS: tuple[Trigger, ...] = (EnoughExamples(), Schedule(), DriftAlarm(), LowLiveF1())
"""All triggers. If several fire, the first one is the cause of the run."""


def describe_drift(drifts: Sequence[Drift]) -> str:
    """Return the features of ``drifts`` with their stability indices and alarm thresholds, for users."""
    return "drift of " + ", ".join(f"{drift.feature} (PSI {drift.psi:.2f}, alarm at {drift.alarm:.2f})" for drift in drifts)


def _reliable(live: LiveQuality | None) -> LiveQuality | None:
    return live if live is not None and live.corrections >= MIN_SAMPLES else None
