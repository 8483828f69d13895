"""The states of a roll-out: every one ends, and only a move of the pointer leads to committing."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from baton.errors import Conflict
from baton.store.records import Rollout, RolloutMode, RolloutState
from services.control.rollouts.machine import Event, next_state

AT = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(state: RolloutState, mode: RolloutMode = RolloutMode.CANARY, decision_id: int | None = 1) -> Rollout:
    return Rollout(
        id=1,
        model="m",
        version=2,
        champion=1,
        mode=mode,
        percent=10,
        minutes=None,
        decision_id=decision_id,
        state=state,
        reason=None,
        evidence={},
        owner="local",
        asked=None,
        created_at=AT,
        changed_at=AT,
    )


def walk(mode: RolloutMode, *events: Event, decision_id: int | None = 1) -> list[RolloutState]:
    state, states = RolloutState.PROPOSED, []
    for event in events:
        state = next_state(rollout(state, mode, decision_id), event)
        states.append(state)
    return states


def test_a_direct_roll_out_prepares_and_commits():
    assert walk(RolloutMode.DIRECT, Event.TAKEN, Event.LOADED, Event.FOLLOWED) == [
        RolloutState.PREPARING,
        RolloutState.COMMITTING,
        RolloutState.SETTLED,
    ]


def test_a_canary_comes_before_the_commit():
    assert walk(RolloutMode.CANARY, Event.TAKEN, Event.LOADED, Event.PASSED, Event.FOLLOWED)[1:3] == [
        RolloutState.CANARY,
        RolloutState.COMMITTING,
    ]


@pytest.mark.parametrize("mode", [RolloutMode.CANARY, RolloutMode.SHADOW])
def test_a_trial_without_a_decision_never_moves_the_pointer(mode):
    assert walk(mode, Event.TAKEN, Event.LOADED, Event.PASSED, decision_id=None)[-1] is RolloutState.SETTLED


@pytest.mark.parametrize("event", [Event.FAULTY, Event.ENDED])
def test_a_trial_goes_back_and_an_unprepared_version_is_rejected(event):
    for state in (RolloutState.CANARY, RolloutState.SHADOW):
        assert next_state(rollout(state), event) is RolloutState.ROLLED_BACK
    assert next_state(rollout(RolloutState.PREPARING), event) is RolloutState.REJECTED


def test_whatever_can_happen_leads_on_and_nothing_leads_out_of_a_final_state():
    order = list(RolloutState)
    for state, event, mode, decision_id in product(RolloutState, Event, RolloutMode, (1, None)):
        try:
            after = next_state(rollout(state, mode, decision_id), event)
        except Conflict:
            continue
        assert not state.final
        assert order.index(after) > order.index(state)


def test_an_event_that_cannot_happen_is_told():
    with pytest.raises(Conflict, match="the roll-out of m v2 is settled: it cannot be loaded"):
        next_state(rollout(RolloutState.SETTLED), Event.LOADED)
