"""Automatic runs: over a real registry and the real control plane, with jobs that live in this process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton.quality.drift import make_reference
from baton.store.feedback.correction import Correction
from baton.store.records import DatasetVersion, RunState
from services.control.retrain import Choice, choose
from services.control.triggers import MIN_COOL_DOWN_AFTER_FAILURE
from tests.support.answers import logged
from tests.support.local_control import LocalControl, configured, control_of, decide, publish

LABELS = ("a", "b")


def control_with(tmp_path: Path, **retrain: Any) -> LocalControl:
    """A control plane of one model, ``m``, with these retraining settings."""
    config = configured(tmp_path, "m")
    raw = config.model_dump(mode="json")
    raw["models"][0]["retrain"] = {"cooldown_minutes": 0, **retrain}
    return control_of(type(config).model_validate(raw))


def correct(control: LocalControl, count: int, *, start: int = 0, label: str = "a") -> None:
    """``count`` corrections, each of the answer to request ``r0``, ``r1``, …"""
    control.registry.feedback.add(
        "m",
        [
            Correction(
                client_id=f"c{number}",
                request_id=f"r{number}",
                position=0,
                example={"text": f"text {number:05}", "label": label},
            )
            for number in range(start, start + count)
        ],
    )


def answer(control: LocalControl, count: int, *, label: str = "a", version: int = 1, length: int = 10) -> None:
    """``count`` logged answers of a version, to requests ``r0``, ``r1``, …"""
    control.registry.predictions.log(
        [logged(f"r{number}", version=version, text=f"text {number:05}", label=label, length=length) for number in range(count)]
    )


def promoted(control: LocalControl, right: int, **metrics: Any) -> int:
    """A new champion."""
    version = publish(control.registry, "m", right, **metrics)
    decision = decide(control.registry, "m", version.number)
    control.registry.promote(decision, control.registry.champion("m"))
    return version.number


def look(control: LocalControl) -> Choice:
    """Check the model once."""
    return asyncio.run(control.retrainer.check_once(control.config.model("m")))


def started_by_corrections(control: LocalControl, count: int) -> str:
    """The id of the run that ``count`` corrections start; its driver has begun."""
    correct(control, count)
    look(control)
    [run] = control.registry.runs.list("m")
    control.registry.runs.start(run.id)
    return run.id


def told(control: LocalControl, kind: str) -> list[str]:
    """The history's entries of one kind, oldest first."""
    return [entry.text for entry in control.registry.history.list("m") if entry.what == kind][::-1]


def test_the_wanted_number_of_corrections_starts_one_run_with_its_cause(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=3)
    correct(control, 2)
    assert not look(control).starts_run
    correct(control, 1, start=2)
    assert look(control).starts_run
    [run] = control.registry.runs.list("m")
    assert run.cause == "3 new corrections (3 wanted)"
    assert control.jobs.submitted == [run.id]
    assert told(control, "retrain started") == [f"Run {run.id}: 3 new corrections (3 wanted)."]


def test_while_a_run_is_active_none_other_starts_and_the_history_says_so_once(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=1)
    run = control.registry.runs.create("m", {})  # by hand
    correct(control, 1)
    for _ in range(3):
        assert not look(control).starts_run
    assert len(control.registry.runs.list("m")) == 1
    assert told(control, "retrain held back") == [f"1 new corrections (1 wanted); but run {run.id} is active."]


def test_the_run_that_corrections_started_is_not_said_to_hold_them_back(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=1)
    correct(control, 1)
    look(control)
    for _ in range(3):
        assert not look(control).starts_run
    assert len(control.registry.runs.list("m")) == 1
    assert told(control, "retrain held back") == []


def test_corrections_that_a_version_has_looked_at_are_new_no_more(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=2)
    run_id = started_by_corrections(control, 2)
    version = publish(control.registry, "m", 90, run_id, feedback_until=2)
    decision = decide(control.registry, "m", version.number)
    control.registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    assert not look(control).starts_run
    correct(control, 2, start=2)
    assert look(control).starts_run
    assert len(control.registry.runs.list("m")) == 2


def test_a_run_that_fails_uses_no_correction_up_and_is_tried_again_after_a_pause(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=2)
    run_id = started_by_corrections(control, 2)
    frozen = DatasetVersion(
        hash="a" * 64,
        holdout_hash="b" * 64,
        uri="models/m/datasets/a",
        labels=LABELS,
        train_rows=2,
        holdout_rows=2,
        removed_leaks=0,
        removed_duplicates=0,
        feedback_until=2,
    )
    control.registry.datasets.add("m", frozen, {})
    control.registry.runs.finish(run_id, RunState.FAILED, reason="out of memory, say")
    choice = look(control)
    assert (choice.trigger, choice.hold) == ("examples", "cool-down")
    situation, _ = control.retrainer.assess(control.config.model("m"))
    later = replace(situation, now=situation.now + 3 * MIN_COOL_DOWN_AFTER_FAILURE)
    assert choose(control.config.model("m").retrain, later).starts_run


def test_runs_that_fail_or_lose_lengthen_the_pause_and_a_new_champion_ends_it(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=1, cooldown_minutes=60)
    registry = control.registry
    promoted(control, 80)
    correct(control, 1)
    for right in (None, 50):  # a failure, then a loser
        run = registry.runs.create("m", {}, started=True)
        if right is None:
            registry.runs.finish(run.id, RunState.FAILED, reason="a test ends it")
            continue
        loser = publish(registry, "m", right, run.id)
        decision = decide(registry, "m", loser.number)
        registry.runs.finish(run.id, RunState.SUCCEEDED, version=loser.number, decision_id=decision.id)
    situation, choice = control.retrainer.assess(control.config.model("m"))
    assert situation.runs_without_champion == 2
    assert choice.hold == "cool-down"
    assert "after 2 runs without a new champion" in choice.text
    run = registry.runs.create("m", {}, started=True)
    winner = publish(registry, "m", 99, run.id)
    registry.runs.finish(run.id, RunState.SUCCEEDED, version=winner.number, decision_id=decide(registry, "m", winner.number).id)
    assert control.retrainer.assess(control.config.model("m"))[0].runs_without_champion == 0


def test_a_pause_lasts_over_a_restart_and_is_explained(tmp_path: Path) -> None:
    control = control_with(tmp_path, after_examples=1)
    correct(control, 1)
    control.registry.retrain.pause("m", "the labels are being cleaned")
    again = LocalControl(control.config)
    assert not look(again).starts_run
    assert "paused: the labels are being cleaned" in told(again, "retrain held back")[0]
    again.registry.retrain.pause("m", None)
    assert look(again).starts_run


@pytest.fixture
def watched(tmp_path: Path) -> LocalControl:
    """A model whose champion answered half a and half b, all ten characters long, on its holdout."""
    control = control_with(tmp_path, on_drift=True, window=100)
    reference = make_reference(["a", "b"] * 100, np.linspace(0.8, 1, 200).tolist(), [10] * 200)
    promoted(control, 90, reference=reference)
    return control


def test_drift_is_told_once_and_starts_a_run_as_soon_as_there_is_a_correction(watched: LocalControl) -> None:
    champion = watched.registry.champion("m").version
    assert champion is not None
    answer(watched, 100, version=champion)  # nothing but a
    for _ in range(2):
        assert not look(watched).starts_run
    [entry] = told(watched, "drift")
    assert entry.startswith("Drift of label (PSI ")
    correct(watched, 1)
    choice = look(watched)
    assert (choice.starts_run, choice.trigger) == (True, "drift")


def test_the_corrected_answers_of_the_champion_are_its_live_f1(tmp_path: Path) -> None:
    control = control_with(tmp_path, live_f1_below=0.6)
    number = promoted(control, 90)
    answer(control, 100, version=number)
    correct(control, 50)  # right
    correct(control, 50, start=50, label="b")  # wrong: it said a
    situation, choice = control.retrainer.assess(control.config.model("m"))
    assert situation.live is not None
    assert situation.live.corrections == 100
    assert situation.live.f1 == pytest.approx((2 / 3 + 0) / 2)  # a: precision 1/2, recall 1; b: never said
    assert (choice.starts_run, choice.trigger) == (True, "live F1")


def test_a_schedule_counts_from_the_last_run(tmp_path: Path) -> None:
    control = control_with(tmp_path, every="* * * * *")
    settings = control.config.model("m")
    situation, _ = control.retrainer.assess(settings)
    later = replace(situation, now=situation.newest_run_created + timedelta(minutes=2))
    assert choose(settings.retrain, later).trigger == "schedule"
    assert choose(settings.retrain, replace(later, newest_run_created=later.now)).trigger is None


def test_metrics_are_told_of_the_last_look_and_look_themselves_only_when_it_is_old(tmp_path: Path, monkeypatch: Any) -> None:
    from services.control import retrain

    control = control_with(tmp_path, after_examples=10)
    settings = control.config.model("m")
    correct(control, 1)
    assert control.retrainer.recent_situation(settings).new_examples == 1
    correct(control, 1, start=1)
    assert control.retrainer.recent_situation(settings).new_examples == 1
    look(control)
    assert control.retrainer.recent_situation(settings).new_examples == 2
    correct(control, 1, start=2)
    monkeypatch.setattr(retrain, "FRESH", timedelta(0))
    assert control.retrainer.recent_situation(settings).new_examples == 3
