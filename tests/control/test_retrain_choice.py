"""When an automatic run starts: every trigger, everything that delays a run, and the explanations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from baton.config.model_settings import RetrainSettings
from baton.quality.drift import Drift
from baton.quality.live import LiveQuality
from services.control.retrain import choose
from services.control.triggers import MAX_COOL_DOWN, MIN_SAMPLES, Situation

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday
MOVED = Drift(feature="label", psi=0.51, alarm=0.2, now=500, reference=500)
STILL = Drift(feature="length", psi=0.02, alarm=0.2, now=500, reference=500)


def situation(**changes: Any) -> Situation:
    """Nothing has happened for a day."""
    quiet: dict[str, Any] = {
        "now": NOW,
        "newest_run_created": NOW - timedelta(days=1),
        "last_run_ended": NOW - timedelta(days=1),
        "runs_without_champion": 0,
        "active": None,
        "active_is_automatic": False,
        "paused": None,
        "new_examples": 0,
        "drift": (),
        "live": None,
    }
    return Situation(**quiet | changes)


def test_without_triggers_nothing_starts_whatever_happens() -> None:
    choice = choose(
        RetrainSettings(),
        situation(new_examples=10**6, drift=[MOVED], live=LiveQuality(version=1, f1=0.0, corrections=10**6, wrong=0)),
    )
    assert not choice.starts_run
    assert "no trigger is set" in choice.text


@pytest.mark.parametrize(("new", "runs"), [(199, False), (200, True), (5000, True)])
def test_enough_corrections_start_a_run(new: int, runs: bool) -> None:
    choice = choose(RetrainSettings(after_examples=200), situation(new_examples=new))
    assert choice.starts_run is runs
    assert str(new) in choice.text
    assert "200" in choice.text


@pytest.mark.parametrize(
    ("began", "runs"), [(datetime(2026, 3, 2, 2, 49, tzinfo=UTC), True), (datetime(2026, 3, 2, 3, 0, 1, tzinfo=UTC), False)]
)
def test_a_schedule_is_due_once_its_time_has_passed_since_the_last_run_began(began: datetime, runs: bool) -> None:
    choice = choose(RetrainSettings(every="0 3 * * *"), situation(newest_run_created=began, last_run_ended=began))
    assert choice.starts_run is runs
    assert ("due since 2026-03-02 03:00" if runs else "next by schedule 2026-03-03 03:00") in choice.text


@pytest.mark.parametrize(
    ("ended", "failures", "expected"),
    [
        (datetime(2026, 3, 2, 2, 55, tzinfo=UTC), 0, "2026-03-03 03:00"),  # cooling down until 03:05
        (datetime(2026, 3, 1, 3, 20, tzinfo=UTC), 3, "due since 2026-03-02 03:00"),
        (datetime(2026, 3, 1, 3, 20, tzinfo=UTC), 500, "due since 2026-03-02 03:00"),  # nightly, however often it failed
        (datetime(2026, 3, 1, 22, 20, tzinfo=UTC), 7, "2026-03-03 03:00"),  # cooling down until 19:40
    ],
)
def test_a_scheduled_time_within_the_cool_down_is_skipped_and_does_not_move_runs_into_the_day(
    ended, failures, expected
) -> None:
    """A nightly run that failed came twenty minutes later each day (cool-down counts from its end)."""
    changes = {"newest_run_created": ended - timedelta(minutes=10), "last_run_ended": ended, "runs_without_champion": failures}
    choice = choose(RetrainSettings(every="0 3 * * *"), situation(**changes))
    assert expected in choice.text
    assert choice.starts_run is expected.startswith("due")


def test_a_run_of_an_hourly_schedule_that_never_improves_is_tried_once_a_day() -> None:
    settings = RetrainSettings(every="0 * * * *")
    began, times = NOW, []
    for _ in range(3):
        minutes = (began + timedelta(minutes=minute) for minute in range(10, 3000))
        ended = {"newest_run_created": began, "last_run_ended": began + timedelta(minutes=9), "runs_without_champion": 9}
        began = next(now for now in minutes if choose(settings, situation(now=now, **ended)).starts_run)
        times.append(began)
    assert times == [NOW + timedelta(hours=hours) for hours in (24, 48, 72)]


def test_drift_starts_a_run_when_there_is_something_new_to_learn() -> None:
    settings = RetrainSettings(on_drift=True)
    choice = choose(settings, situation(drift=[MOVED, STILL], new_examples=1))
    assert choice.starts_run
    assert "drift of label (PSI 0.51, alarm at 0.20)" in choice.text
    assert "length" not in choice.text
    assert not choose(settings, situation(drift=[STILL], new_examples=1)).starts_run


def test_drift_without_new_examples_is_told_but_starts_nothing() -> None:
    choice = choose(RetrainSettings(on_drift=True), situation(drift=[MOVED]))
    assert not choice.starts_run
    assert "no new corrections to learn from" in choice.text


@pytest.mark.parametrize(
    ("live", "runs"),
    [
        (LiveQuality(version=1, f1=0.69, corrections=MIN_SAMPLES, wrong=0), True),
        (LiveQuality(version=1, f1=0.70, corrections=MIN_SAMPLES, wrong=0), False),
        (LiveQuality(version=1, f1=0.1, corrections=MIN_SAMPLES - 1, wrong=0), False),
        (None, False),
    ],
)
def test_a_low_live_f1_starts_a_run_once_it_rests_on_enough_corrections(live: LiveQuality | None, runs: bool) -> None:
    assert choose(RetrainSettings(live_f1_below=0.7), situation(live=live, new_examples=3)).starts_run is runs


@pytest.mark.parametrize(("failures", "minutes"), [(0, 10), (1, 20), (3, 80), (500, MAX_COOL_DOWN / timedelta(minutes=1))])
def test_every_run_without_a_new_champion_doubles_the_cool_down_up_to_almost_a_day(failures: int, minutes: float) -> None:
    settings = RetrainSettings(after_examples=1, cooldown_minutes=10)
    for early, runs in ((timedelta(seconds=1), False), (timedelta(0), True)):
        ended = NOW - timedelta(minutes=minutes) + early
        times = {"newest_run_created": ended, "last_run_ended": ended}
        choice = choose(settings, situation(new_examples=1, runs_without_champion=failures, **times))
        assert choice.starts_run is runs
        assert runs or "cooling down until 2026-03-02 12:00:01 UTC" in choice.text


@pytest.mark.parametrize(
    ("change", "words"), [({"paused": "by Ada: holidays"}, "by Ada: holidays"), ({"active": "m-7"}, "run m-7")]
)
def test_a_pause_or_an_active_run_holds_a_trigger_back_and_says_so(change: dict[str, str], words: str) -> None:
    choice = choose(RetrainSettings(after_examples=1), situation(new_examples=1, **change))
    assert (choice.starts_run, choice.trigger, choice.hold) == (False, "examples", next(iter(change)))
    assert words in choice.text
