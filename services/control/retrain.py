"""When a model is trained anew, and why it is not: triggers, cool-down, back-off, pause.

`choose` is pure. `Retrainer` looks at the registry, chooses, starts runs, and tells the history what it did and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cronsim import CronSim

from baton.config.model_settings import ModelSettings, RetrainSettings
from baton.errors import Conflict
from baton.quality.drift import Drift, compare
from baton.quality.live import LiveQuality
from baton.store.records import HistoryKind, ModelVersion, Run, RunState, Verdict
from baton.store.registry import Registry
from services.control.live_cache import LiveQualityCache

LONGEST_PAUSE = timedelta(days=1)
"""Where the doubling of the cool-down ends."""

AFTER_FAILURE = timedelta(seconds=30)
"""Where the doubling begins at least: without any cool-down, runs that fail would follow each other at once."""

ENOUGH = 50
"""Answers, or corrections, below which neither drift nor live F1 says anything."""

FRESH = timedelta(seconds=15)
"""How old a situation may be that metrics tell of: the control plane looks every few seconds anyway."""

RUNS_SEEN = 20
"""Runs that are looked back at for the back-off: it is at its longest before."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a choice rests on. ``ended``: when the last run did; ``since``: when it began, or the model was declared;
    ``fruitless``: runs in a row, up to the last, that brought no new champion; ``by_itself``: a trigger started the ``active``
    one; ``new_examples``: corrections that came after those that the newest version's run had looked at. A run that made no
    version has used nothing up.
    """

    now: datetime
    since: datetime
    ended: datetime | None
    fruitless: int
    active: str | None
    by_itself: bool
    paused: str | None
    new_examples: int
    drift: Sequence[Drift]
    live: LiveQuality | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Whether to start a run, and why or why not. ``cause`` is the trigger, None when there is none; ``held`` what keeps it."""

    cause: str | None
    held: str | None
    text: str

    @property
    def run(self) -> bool:
        return self.cause is not None and self.held is None


def _looked_at(version: ModelVersion) -> int:
    """The id of the last correction that the data of this version may hold; 0 for one from before there was feedback."""
    return int(version.lineage.get("dataset", {}).get("feedback_until", 0))


def choose(settings: RetrainSettings, situation: Situation) -> Choice:
    """Whether this situation calls for a run."""
    cause = _cause(settings, situation)
    if cause is None:
        return Choice(cause=None, held=None, text=_waiting(settings, situation))
    trigger, text = cause
    held = _held(settings, situation)
    return Choice(cause=trigger, held=held[0] if held else None, text=f"{text}; {held[1]}" if held else text)


def _cause(settings: RetrainSettings, now: Situation) -> tuple[str, str] | None:
    """The first trigger that fires, and its sentence. Without a single new example only the schedule does: the same data would
    make the same model.
    """
    if settings.after_examples and now.new_examples >= settings.after_examples:
        return "examples", f"{now.new_examples} new corrections ({settings.after_examples} wanted)"
    if settings.every and (due := next(CronSim(settings.every, now.since))) <= now.now:
        return "schedule", f"due since {due:%Y-%m-%d %H:%M} UTC by schedule {settings.every!r}"
    if not now.new_examples:
        return None
    moved = [drift for drift in now.drift if drift.drifted]
    if settings.on_drift and moved:
        return "drift", f"{_moved(moved)}, and {now.new_examples} new correction(s)"
    live = now.live
    if settings.live_f1_below and live and live.corrections >= ENOUGH and live.f1 < settings.live_f1_below:
        return "live F1", (
            f"live F1 {live.f1:.4f} over {live.corrections} corrections is below {settings.live_f1_below}, "
            f"and {now.new_examples} new correction(s)"
        )
    return None


def _held(settings: RetrainSettings, now: Situation) -> tuple[str, str] | None:
    """What keeps a run that a trigger wants from starting, and its sentence."""
    if now.paused is not None:
        return "paused", f"but retraining is paused: {now.paused}"
    if now.active is not None:
        return "active", f"but run {now.active} is active"
    if now.ended is not None:
        usual = timedelta(minutes=settings.cooldown_minutes)
        pause = min(max(usual, AFTER_FAILURE if now.fruitless else usual) * 2 ** min(now.fruitless, 20), LONGEST_PAUSE)
        if now.now < (until := now.ended + pause):
            after = f" after {now.fruitless} run(s) without a new champion" if now.fruitless else ""
            return "cool-down", f"but cooling down until {until:%Y-%m-%d %H:%M:%S} UTC{after}"
    return None


def _waiting(settings: RetrainSettings, now: Situation) -> str:
    """What the triggers wait for."""
    if not settings.triggers:
        return "no trigger is set (retrain: in baton.yaml); runs start by hand only"
    parts = []
    if settings.after_examples:
        parts.append(f"{now.new_examples} of {settings.after_examples} new corrections")
    if settings.every:
        parts.append(f"next by schedule {next(CronSim(settings.every, now.since)):%Y-%m-%d %H:%M} UTC")
    if settings.on_drift:
        moved = [drift for drift in now.drift if drift.drifted]
        parts.append(f"{_moved(moved)}, but no new corrections to learn from" if moved else "no drift")
    if settings.live_f1_below:
        known = now.live is not None and now.live.corrections >= ENOUGH
        parts.append(f"live F1 {now.live.f1:.4f}" if known and now.live else f"fewer than {ENOUGH} corrected answers")
    return "waiting: " + ", ".join(parts)


def _moved(drifts: Sequence[Drift]) -> str:
    return "drift of " + ", ".join(f"{drift.feature} (PSI {drift.psi:.2f}, alarm at {drift.alarm:.2f})" for drift in drifts)


class Retrainer:
    """Starts runs by itself. Holds no truth: killed at any point, its next round finds everything in the registry."""

    def __init__(self, registry: Registry, live: LiveQualityCache, start: Callable[[str, str], Awaitable[Run]]) -> None:
        """``start``: (model, cause) → the run that was started; raises ``Conflict`` where one is active."""
        self._registry, self._live = registry, live
        self._start = start
        self._situations: dict[str, Situation] = {}

    async def round(self, settings: ModelSettings) -> Choice:
        """Look at one model, start a run if its triggers want one, and tell the history what is new."""
        situation, choice = await asyncio.to_thread(self.look, settings)
        if not choice.run:
            expected = choice.held == "active" and situation.by_itself  # the run that these very corrections started
            key = choice.held if choice.cause and not expected else None
            await asyncio.to_thread(
                self._tell, settings.name, HistoryKind.RETRAIN_HELD, key and f"{choice.cause}: {key}", choice.text
            )
        else:
            try:
                run = await self._start(settings.name, choice.text)
            except Conflict:  # somebody was faster by a moment
                return choice
            await asyncio.to_thread(
                self._registry.add_incident, settings.name, HistoryKind.RETRAIN_STARTED, f"Run {run.id}: {choice.text}."
            )
        moved = ", ".join(drift.feature for drift in situation.drift if drift.drifted) or None
        text = _moved([drift for drift in situation.drift if drift.drifted])
        await asyncio.to_thread(self._tell, settings.name, HistoryKind.DRIFT, moved, text)
        return choice

    def look(self, settings: ModelSettings) -> tuple[Situation, Choice]:
        """How things stand for one model, and what follows. Blocks on the database."""
        situation = self._situations[settings.name] = self._situation(settings)
        return situation, choose(settings.retrain, situation)

    def situation(self, settings: ModelSettings) -> Situation:
        """How things stood when they were last looked at, `FRESH` at most ago: for whom that is good enough."""
        known = self._situations.get(settings.name)
        return known if known and datetime.now(UTC) - known.now < FRESH else self.look(settings)[0]

    def _tell(self, model: str, kind: HistoryKind, key: str | None, text: str) -> None:
        """One entry in the history when ``key`` is not what it was in the round before; none where it is None."""
        if self._registry.retrain.changed(model, kind, key) and key is not None:
            self._registry.add_incident(model, kind, f"{text[:1].upper()}{text[1:]}.")

    def _situation(self, settings: ModelSettings) -> Situation:
        registry, name = self._registry, settings.name
        runs = registry.runs.list(name, limit=RUNS_SEEN)
        active = next((run for run in runs if not run.state.final), None)
        ended = max((run.finished_at for run in runs if run.finished_at), default=None)
        newest = registry.versions(name, limit=1)
        champion = registry.champion_version(name)
        return Situation(
            now=datetime.now(UTC),
            since=runs[0].created_at if runs else registry.declared_at(name),
            ended=ended,
            fruitless=self._fruitless(runs),
            active=active.id if active else None,
            by_itself=active is not None and active.cause is not None,
            paused=registry.retrain.paused(name),
            new_examples=registry.feedback.count_after(name, _looked_at(newest[0]) if newest else 0),
            drift=self._drift(name, champion, settings.retrain.window) if champion else (),
            live=self._live.of(settings, champion) if champion else None,
        )

    def _fruitless(self, runs: Sequence[Run]) -> int:
        """How many runs in a row, up to the newest, failed or were refused. Cancelled ones say nothing."""
        count = 0
        for run in runs:
            if not run.state.final or run.state is RunState.CANCELLED:
                continue
            if run.decision_id is not None and self._registry.decision(run.decision_id).verdict is Verdict.PROMOTE:
                break
            count += 1
        return count

    def _drift(self, model: str, champion: ModelVersion, window: int) -> list[Drift]:
        reference: dict[str, Any] | None = champion.metrics.get("reference")
        if reference is None:
            return []
        answers = self._registry.feedback.summaries(model, champion.number, window)
        if len(answers) < ENOUGH:
            return []
        labels, confidences, lengths = zip(*answers, strict=True)
        return compare(reference, labels, confidences, lengths)
