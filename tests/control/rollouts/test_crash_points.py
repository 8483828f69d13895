"""The process that acts is killed before and after every step, and another one goes on: nothing is half done at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from baton.config.model_settings import ModelSettings, RolloutSettings
from baton.errors import Conflict
from baton.quality.trials import TrialCounts
from baton.store.records import HistoryKind, RolloutMode, RolloutState, Trial
from services.control.rollouts import driver, steps, watch
from services.control.rollouts.driver import Rollouts
from tests.control.rollouts.scripted import Scripted, won
from tests.support.local_control import LocalControl

MOST_STEPS = 60
"""More than any of the moves below takes. A test that reaches it fails."""


class Killed(BaseException):
    """The end of the process: no handler of errors runs anything after it."""


class Steps:
    """Counts the calls of the registry and of the replicas, and kills before or after the one with number ``at``."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.taken, self.dead = at, after, 0, False

    async def take(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do one step. A dead process does none."""
        self.taken += 1
        if self.dead or (self.taken == self.at and not self.after):
            self.dead = True
            raise Killed
        result = await work()
        if self.taken == self.at:
            self.dead = True
            raise Killed
        return result


class Mortal(Scripted):
    """Scripted replicas, asked by a process that may die before or after it asks."""

    def __init__(self, replicas: Scripted, steps: Steps) -> None:
        self.__dict__ = replicas.__dict__
        self._steps = steps

    async def call(self, model: str, timeout_s: float, method: str, *arguments: Any) -> Any:
        return await self._steps.take(lambda: Scripted.call(self, model, timeout_s, method, *arguments))

    async def trials(self, model: str, timeout_s: float, rollout: Any) -> Any:
        return await self._steps.take(lambda: Scripted.trials(self, model, timeout_s, rollout))


class _Asyncio:
    """The module asyncio, with a `to_thread` that is a step."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def to_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def work() -> Any:
            return function(*arguments)

        return await self._steps.take(work)


MOVES: dict[str, Callable[[LocalControl, Rollouts], Awaitable[Any]]] = {
    "a version that passed the gate": lambda control, rollouts: rollouts.carry_out(won(control, 2)),
    "a version that somebody promotes": lambda control, rollouts: rollouts.promote(won(control, 2)),
    "a rollback": lambda control, rollouts: rollouts.rollback("m", 1, "v2 is bad"),
}


def rollouts(control: LocalControl, replicas: Scripted, settings: dict[str, ModelSettings]) -> Rollouts:
    """The roll-outs of a process that has just started."""
    return Rollouts(control.registry, replicas, settings, lambda: "local")


async def go_on(control: LocalControl, rollouts: Rollouts) -> None:
    """Do what the loops of another process do, until there is nothing to do."""
    for _ in range(5):
        if control.registry.rollouts.active("m") is not None:
            await rollouts.resume("m")
        for decision in control.registry.pending_decisions():
            await rollouts.carry_out(decision)


@pytest.mark.parametrize("canary", [0.0, 10.0])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("move", MOVES)
def test_a_killed_process_leaves_nothing_half_done(control, replicas, monkeypatch, move, after, canary):
    settings = {"m": control.config.model("m").model_copy(update={"rollout": RolloutSettings(canary=canary, minutes=1e-6)})}
    if move == "a rollback":
        asyncio.run(rollouts(control, replicas, settings).promote(won(control, 2)))
    before = control.registry.champion("m")
    for at in range(1, MOST_STEPS):
        taken = Steps(at, after=after)
        for module in (driver, steps, watch):
            monkeypatch.setattr(module, "asyncio", _Asyncio(taken))
        try:
            asyncio.run(MOVES[move](control, rollouts(control, Mortal(replicas, taken), settings)))
        except Killed:
            died = True
        else:
            died = False
        for module in (driver, steps, watch):
            monkeypatch.setattr(module, "asyncio", asyncio)
        asyncio.run(go_on(control, rollouts(control, replicas, settings)))
        champion = control.registry.champion("m")
        assert control.registry.rollouts.active("m") is None, at
        assert replicas.trial is None, at
        assert {version for version, _ in replicas.serving.values()} == {champion.version}, at
        assert champion.sequence - before.sequence == len(control.registry.promotions("m")) - before.sequence, at
        assert all(it.state is not RolloutState.COMMITTING for it in control.registry.rollouts.list("m")), at
        if not died:
            break
        if champion != before:  # start over for the next point
            back = driver.manual_decision(driver.DecisionKind.FORCE, "m", before.version, champion, "the next crash point")
            asyncio.run(rollouts(control, replicas, settings).promote(back))
            before = control.registry.champion("m")
    assert not died
    assert at > 8


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_canary_that_is_taken_back_is_told_once_and_does_not_begin_again(control, replicas, monkeypatch, after):
    """Its end and its line in the history used to be two transactions: killed between them, it began again."""
    settings = {"m": control.config.model("m").model_copy(update={"rollout": RolloutSettings(canary=10.0)})}
    for at in range(1, MOST_STEPS):
        replicas.measured = {"r1": TrialCounts(), "r2": TrialCounts()}
        decision = won(control, 2)
        asyncio.run(rollouts(control, replicas, settings).carry_out(decision))
        told = len(control.registry.history.incidents("m", limit=1000))
        replicas.measured["r1"] = TrialCounts(errors=9, champion_answers=81)
        taken = Steps(at, after=after)
        for module in (driver, steps, watch):
            monkeypatch.setattr(module, "asyncio", _Asyncio(taken))
        with contextlib.suppress(Killed):
            asyncio.run(rollouts(control, Mortal(replicas, taken), settings).resume("m"))
        for module in (driver, steps, watch):
            monkeypatch.setattr(module, "asyncio", asyncio)
        asyncio.run(go_on(control, rollouts(control, replicas, settings)))
        assert control.registry.rollouts.active("m") is None, at
        assert control.registry.pending_decisions() == [], at
        assert len(control.registry.history.incidents("m", limit=1000)) == told + 1, at
        assert control.registry.champion("m").version == 1, at
        if not taken.dead:
            break
    assert 3 < at < MOST_STEPS - 1


TRIALS: dict[str, tuple[RolloutMode | None, Callable[[Rollouts], Awaitable[Any]]]] = {
    "a shadow begins": (None, lambda rollouts: rollouts.start_trial("m", 2, Trial(mode=RolloutMode.SHADOW, percent=20.0))),
    "a canary begins": (None, lambda rollouts: rollouts.start_trial("m", 2, Trial(mode=RolloutMode.CANARY, percent=10.0))),
    "somebody ends a shadow": (RolloutMode.SHADOW, lambda rollouts: rollouts.end_trial("m", "seen enough")),
    "somebody ends a canary": (RolloutMode.CANARY, lambda rollouts: rollouts.end_trial("m", "seen enough")),
    "somebody rejects a shadow": (RolloutMode.SHADOW, lambda rollouts: rollouts.reject("m", 2, "it insults people")),
    "somebody rejects a canary": (RolloutMode.CANARY, lambda rollouts: rollouts.reject("m", 2, "it insults people")),
    "a canary kills replicas": (
        None,
        lambda rollouts: rollouts.start_trial("m", 2, Trial(mode=RolloutMode.CANARY, percent=10.0)),
    ),
}
"""What people do with trials: the trial that runs before, and the act."""


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", TRIALS)
def test_a_process_that_is_killed_while_somebody_acts_on_a_trial_leaves_a_whole_trial_or_none(
    control, replicas, monkeypatch, what, after, at
):
    settings = {"m": control.config.model("m")}
    running, act = TRIALS[what]
    if running is not None:
        asyncio.run(rollouts(control, replicas, settings).start_trial("m", 2, Trial(mode=running, percent=10.0)))
    if what == "a canary kills replicas":
        replicas.on_prepare = replicas.kill
    taken = Steps(at, after=after)
    for module in (driver, steps, watch):
        monkeypatch.setattr(module, "asyncio", _Asyncio(taken))
    with contextlib.suppress(Killed, Conflict):
        asyncio.run(act(rollouts(control, Mortal(replicas, taken), settings)))
    for module in (driver, steps, watch):
        monkeypatch.setattr(module, "asyncio", asyncio)
    with contextlib.suppress(Conflict):  # the version is to blame: whoever goes on is told so
        asyncio.run(go_on(control, rollouts(control, replicas, settings)))
    assert taken.dead or at > 3
    active = control.registry.rollouts.active("m")
    if active is not None:
        assert (active.state.trial, replicas.trial and replicas.trial.version) == (True, 2)
    elif not taken.dead:  # replicas that were not told find out when they read the registry
        assert replicas.trial is None
    assert control.registry.champion("m").version == 1
    assert {version for version, _ in replicas.serving.values()} == {1}
    if not taken.dead:
        assert (active is not None) == (what in ("a shadow begins", "a canary begins"))
    if control.registry.history.rejection("m", 2) is not None:
        told = [incident.kind for incident in control.registry.history.incidents("m", limit=100)]
        assert told.count(HistoryKind.REJECTED) == 1
