"""The states of a roll-out, and what leads from one to the next. Pure: it asks and changes nothing.

::

    proposed ── taken ──> preparing ── loaded ──> canary ── passed ──> committing ── followed ──> settled
        │                     │   │               shadow ── passed ───────────────────────────────> settled
        │                     │   └── loaded (direct) ──> committing
        └── ended ──> rejected <── faulty, ended          canary, shadow ── faulty, ended ──> rolled back

A canary without a decision, which somebody started to look at a version, is settled when it passed, and moves nothing.
"""

from __future__ import annotations

from enum import StrEnum

from baton.errors import Conflict
from baton.store.records import Rollout, RolloutMode, RolloutState


class Event(StrEnum):
    """What happens to a roll-out."""

    TAKEN = "taken"
    """Its turn has come."""
    LOADED = "loaded"
    """Every replica has the version in memory."""
    PASSED = "passed"
    """The time of the canary or shadow is over, or somebody promoted the version, and nothing speaks against it."""
    FOLLOWED = "followed"
    """Every replica serves the version."""
    FAULTY = "faulty"
    """Something speaks against the version."""
    ENDED = "ended"
    """Somebody ended it, or something else came first."""


_FIXED = {
    (RolloutState.PROPOSED, Event.TAKEN): RolloutState.PREPARING,
    (RolloutState.PROPOSED, Event.ENDED): RolloutState.REJECTED,
    (RolloutState.PREPARING, Event.FAULTY): RolloutState.REJECTED,
    (RolloutState.PREPARING, Event.ENDED): RolloutState.REJECTED,
    (RolloutState.CANARY, Event.FAULTY): RolloutState.ROLLED_BACK,
    (RolloutState.CANARY, Event.ENDED): RolloutState.ROLLED_BACK,
    (RolloutState.SHADOW, Event.FAULTY): RolloutState.ROLLED_BACK,
    (RolloutState.SHADOW, Event.ENDED): RolloutState.ROLLED_BACK,
    (RolloutState.COMMITTING, Event.FOLLOWED): RolloutState.SETTLED,
    (RolloutState.COMMITTING, Event.ENDED): RolloutState.SETTLED,
}
_AFTER_LOADING = {
    RolloutMode.DIRECT: RolloutState.COMMITTING,
    RolloutMode.CANARY: RolloutState.CANARY,
    RolloutMode.SHADOW: RolloutState.SHADOW,
}


def next_state(rollout: Rollout, event: Event) -> RolloutState:
    """Return the state that ``event`` leads to. Raises ``Conflict`` if it cannot happen in the present state."""
    state = rollout.state
    if (state, event) in _FIXED:
        return _FIXED[state, event]
    if (state, event) == (RolloutState.PREPARING, Event.LOADED):
        return _AFTER_LOADING[rollout.mode]
    if state.trial and event is Event.PASSED:
        return RolloutState.SETTLED if rollout.decision_id is None else RolloutState.COMMITTING
    raise Conflict(f"the roll-out of {rollout.model} v{rollout.version} is {state}: it cannot be {event}")
