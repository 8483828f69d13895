"""A version that won against a champion that another version has replaced is judged again (review M5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from baton.store.records import ModelVersion, RunState, Source
from services.names import replacing
from tests.support.local_control import LocalControl, configured, control_of, decide, loops_of, publish


def won(control: LocalControl, right: int) -> ModelVersion:
    """A version of a finished run that the gate would promote."""
    registry = control.registry
    run = registry.runs.create("m", {}, started=True)
    version = publish(registry, "m", right, run.id)
    decision = decide(registry, "m", version.number)
    assert decision.verdict == "promote", decision.sentence
    registry.runs.finish(run.id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    return version


def look_once(control: LocalControl) -> None:
    """Let the background loop look at pending decisions once, and wait for what it starts."""

    async def look() -> None:
        loops = loops_of(control)
        await loops._start_roll_outs()
        await asyncio.gather(*loops._moving.values())

    asyncio.run(look())


def test_of_two_winners_the_better_one_serves_and_the_other_is_judged_again(tmp_path: Path) -> None:
    control = control_of(configured(tmp_path, "m"))
    won(control, 60)
    look_once(control)
    older, newer = won(control, 75), won(control, 95)
    look_once(control)
    assert control.registry.champion("m").version == newer.number
    look_once(control)
    assert control.registry.champion("m").version == newer.number
    assert control.registry.overtaken_decisions() == []
    told = control.registry.history.list("m")[0]
    assert (told.what, told.version) == ("refused", older.number)
    assert f"against v{newer.number}" in told.text


def test_an_overtaken_version_that_beats_the_new_champion_takes_over(tmp_path: Path) -> None:
    control = control_of(configured(tmp_path, "m"))
    won(control, 70)
    look_once(control)
    best = won(control, 98)
    other = publish(control.registry, "m", 60)
    asyncio.run(control.promote("m", other.number, force=True, reason="a test wants it"))
    assert control.registry.pending_decisions() == []
    look_once(control)  # judges it again
    look_once(control)  # rolls it out
    assert control.registry.champion("m").version == best.number


def test_a_run_that_was_to_register_the_version_again_gets_no_decision_of_it(tmp_path: Path) -> None:
    control = control_of(configured(tmp_path, "m"))
    won(control, 60)
    look_once(control)
    older = won(control, 75)
    again = control.registry.runs.create("m", {}, started=True, source=Source(location="/own"))
    control.registry.runs.finish(again.id, RunState.SUCCEEDED, version=older.number, reason="these files are v2 already")
    won(control, 95)
    look_once(control)
    look_once(control)  # judges the older winner again
    assert control.registry.newest_gate_decision("m", older.number).verdict == "reject"
    assert control.registry.runs.get(again.id).decision_id is None


def test_no_version_takes_over_while_replicas_are_replaced(tmp_path: Path) -> None:
    """The roll-out would take the replicas that end for victims of its version."""
    control = control_of(configured(tmp_path, "m"))
    version = won(control, 80)
    control.registry.leases.acquire([replacing("m")], "apply", 60.0)
    look_once(control)
    assert control.registry.champion("m").version is None
    control.registry.leases.release("apply")
    look_once(control)
    assert control.registry.champion("m").version == version.number
