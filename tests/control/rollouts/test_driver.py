"""Roll-outs of versions that kill, block or break the replicas which load them, with scripted replicas."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from baton.config.model_settings import RolloutSettings
from baton.errors import Conflict, InvalidInput, NotFound, NotReady
from baton.store.records import HistoryKind, RolloutMode, Trial
from services.control.rollouts.driver import Rollouts
from services.control.rollouts.replicas import Answers
from services.names import replacing
from tests.control.rollouts.scripted import Scripted, incidents, waiting, won
from tests.support.stores import raw_sql

# --- versions that kill --------------------------------------------------------------------------------------------------


def test_a_version_is_loaded_by_one_replica_before_all_load_it(control, replicas):
    asyncio.run(control.rollouts.promote(won(control, 2)))
    assert replicas.prepared == [(2, "r1"), (2, None)]
    assert replicas.serving == {"r1": (2, 2), "r2": (2, 2)}


def test_a_version_that_kills_two_replicas_is_given_up_and_no_other_replica_has_tried_it(control, replicas):
    """It used to be sent to all replicas again for ever, without a trace (review H2)."""
    decision = won(control, 2)
    replicas.on_prepare = replicas.kill
    with pytest.raises(Conflict, match="2 replicas died while they loaded it; the champion stays"):
        asyncio.run(control.rollouts.promote(decision))
    assert [only for _, only in replicas.prepared] == ["r1", "r1"]
    assert incidents(control) == [(HistoryKind.ROLLOUT_FAILED, 2, "v2 cannot take over: 2 replicas died while they loaded it")]
    assert (waiting(control), control.registry.champion("m").version) == ([], 1)


def test_deaths_are_counted_over_tries_between_which_no_replica_was_there(control, replicas):
    decision = won(control, 2)

    async def die_for_long(version: int, only: str | None) -> Answers:
        answers = await replicas.kill(version, only)
        replicas.corpses = 10**6
        return answers

    replicas.on_prepare = die_for_long
    with pytest.raises(NotReady, match="v2 waits"):
        asyncio.run(control.rollouts.promote(decision))
    assert ([kind for kind, _, _ in incidents(control)], waiting(control)) == ([HistoryKind.ROLLOUT_ENDED], [2])
    replicas.corpses = 0
    with pytest.raises(Conflict, match="2 replicas died"):
        asyncio.run(control.rollouts.promote(decision))


def test_while_replicas_are_replaced_people_can_roll_back_and_nothing_else(control, replicas):
    first, second = won(control, 2), won(control, 3)
    asyncio.run(control.rollouts.promote(first))
    control.registry.leases.acquire([replacing("m")], "apply", 60.0)
    with pytest.raises(Conflict, match="`baton apply` is replacing the replicas of m; try again when it has ended"):
        asyncio.run(control.rollouts.promote(second))
    with pytest.raises(Conflict, match="is replacing the replicas of m"):
        asyncio.run(control.rollouts.start_trial("m", 3, Trial(mode=RolloutMode.CANARY, percent=10.0)))
    assert control.registry.rollouts.active("m") is None
    asyncio.run(control.rollouts.rollback("m", 1, "v2 is slow"))
    assert control.registry.champion("m").version == 1
    control.registry.leases.release("apply")
    asyncio.run(control.rollouts.promote(won(control, 3)))
    assert control.registry.champion("m").version == 3


def test_one_death_may_be_an_accident(control, replicas):
    lives = iter([replicas.kill])

    async def first_dies(version: int, only: str | None) -> Answers:
        die = next(lives, None)
        return replicas.answers() if die is None else await die(version, only)

    replicas.on_prepare = first_dies
    asyncio.run(control.rollouts.promote(won(control, 2)))
    assert control.registry.champion("m").version == 2
    assert incidents(control) == []


def test_the_corpse_of_one_death_is_not_a_second(control, replicas):
    replicas.corpses = 10
    asyncio.run(control.rollouts.promote(won(control, 2)))
    assert incidents(control) == []


def test_a_death_of_another_replica_while_one_loads_is_not_the_versions(control, replicas):
    async def other_dies(version: int, only: str | None) -> Answers:
        return replace(replicas.answers("r1"), died=1) if only else replicas.answers()

    replicas.on_prepare = other_dies
    asyncio.run(control.rollouts.promote(won(control, 2)))
    assert control.registry.champion("m").version == 2


# --- versions that block -------------------------------------------------------------------------------------------------


def test_a_version_that_is_not_loaded_in_time_is_given_up_at_once(control, replicas):
    """A time-out used to be tried 25 times, 300 s each, under the model's lock (review H3)."""

    async def silence(version: int, only: str | None) -> Answers:
        return Answers(silent=True)

    replicas.on_prepare = silence
    with pytest.raises(Conflict, match=r"a replica did not load it in 60 s \(serving\.prepare_seconds and its download\)"):
        asyncio.run(control.rollouts.promote(won(control, 2)))
    assert len(replicas.prepared) == 1
    assert (waiting(control), control.rollouts.running("m")) == ([], False)


def test_a_large_version_may_take_the_time_of_its_download(control, replicas):
    async def silence(version: int, only: str | None) -> Answers:
        return Answers(silent=True)

    replicas.on_prepare = silence
    raw_sql(control.config.database, """UPDATE versions SET metrics = '{"f1": 0.9, "megabytes": 2500.0}' WHERE number = 2""")
    with pytest.raises(Conflict, match="a replica did not load it in 560 s"):
        asyncio.run(control.rollouts.promote(won(control, 2)))


def hang_on(replicas: Scripted, version: int) -> None:
    async def hang(asked: int, only: str | None) -> Answers:
        if asked == version:
            await asyncio.Event().wait()
        return replicas.answers()

    replicas.on_prepare = hang


def test_a_rollback_interrupts_a_version_that_is_being_prepared(control, replicas):
    asyncio.run(control.rollouts.promote(won(control, 2)))
    decision = won(control, 3)
    hang_on(replicas, 3)

    async def roll_back_meanwhile() -> None:
        replicas.asked.clear()
        move = asyncio.create_task(control.rollouts.promote(decision))
        await replicas.asked.wait()
        await control.rollouts.rollback("m", None, "v2 is bad")
        with pytest.raises(NotReady, match="somebody ended the preparation of v3"):
            await move

    asyncio.run(asyncio.wait_for(roll_back_meanwhile(), 30))
    assert control.registry.champion("m").version == 1
    assert waiting(control) == []
    assert [(kind, version) for kind, version, _ in incidents(control)] == [(HistoryKind.ROLLOUT_ENDED, 3)]


def test_nothing_new_is_prepared_while_a_rollback_waits_for_its_turn(control, replicas):
    first, second = won(control, 2), won(control, 3)
    hang_on(replicas, 3)
    replicas.may_commit.clear()

    async def queue() -> None:
        commits = asyncio.create_task(control.rollouts.promote(first))
        await replicas.committing.wait()
        waits = asyncio.create_task(control.rollouts.promote(second))
        await asyncio.sleep(0)  # it is in the queue before the rollback
        back = asyncio.create_task(control.rollouts.rollback("m", None, "v2 is bad"))
        while not control.rollouts._steps.rollbacks["m"]:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)
        replicas.may_commit.set()
        await commits
        with pytest.raises(NotReady, match="a rollback comes before v3"):
            await waits
        await back

    asyncio.run(asyncio.wait_for(queue(), 30))
    assert control.registry.champion("m").version == 1
    assert 3 not in {version for version, _ in replicas.prepared}


# --- versions that people reject -----------------------------------------------------------------------------------------


def test_a_rejection_ends_a_roll_out_and_only_force_promotes_the_version_then(control, replicas):
    decision = won(control, 2)
    hang_on(replicas, 2)

    async def reject_meanwhile() -> None:
        move = asyncio.create_task(control.rollouts.promote(decision))
        await replicas.asked.wait()
        await control.rollouts.reject("m", 2, "it hangs")
        with pytest.raises(NotReady):
            await move

    asyncio.run(asyncio.wait_for(reject_meanwhile(), 30))
    assert waiting(control) == []
    rejected, ended = incidents(control)
    assert rejected == (HistoryKind.REJECTED, 2, "it hangs")
    assert ended[:2] == (HistoryKind.ROLLOUT_ENDED, 2)
    replicas.on_prepare = None
    with pytest.raises(Conflict, match="v2 of m was rejected: it hangs"):
        asyncio.run(control.promote("m", 2, force=False, reason=None))
    asyncio.run(control.promote("m", 2, force=True, reason="mended the host"))
    assert control.registry.champion("m").version == 2


def test_nobody_rolls_back_to_a_rejected_version_by_mistake(control):
    asyncio.run(control.rollouts.promote(won(control, 2)))
    asyncio.run(control.rollouts.reject("m", 1, "bad for German"))
    for to in (None, 1):
        with pytest.raises(Conflict, match="v1 of m was rejected: bad for German; roll back to another version"):
            asyncio.run(control.rollouts.rollback("m", to, "to see"))
    assert control.registry.champion("m").version == 2


def test_a_version_is_rejected_once(control):
    for reason in ("bad for German", "bad for Dutch"):
        assert asyncio.run(control.rollouts.reject("m", 2, reason)) is None
    assert incidents(control) == [(HistoryKind.REJECTED, 2, "bad for German")]


def test_what_cannot_be_rejected_is_told(control):
    for version, reason, error in ((1, "bad", Conflict), (9, "bad", NotFound), (2, "  ", InvalidInput)):
        with pytest.raises(error):
            asyncio.run(control.rollouts.reject("m", version, reason))
    assert incidents(control) == []


# --- faults and outages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only_first", "count"), [(True, "1 of 1 replica"), (False, "2 of 2 replicas")])
def test_a_version_that_replicas_cannot_load_is_given_up_with_the_reason(control, replicas, only_first, count):
    async def fail(version: int, only: str | None) -> Answers:
        if only is None:
            return replicas.answers(error="altered")
        failed = replicas.answers("r1", error="altered" if only_first else None)
        return Answers(states=[*failed.states, *replicas.answers("r2").states])

    replicas.on_prepare = fail
    with pytest.raises(Conflict, match=f"{count} cannot load it: altered"):
        asyncio.run(control.rollouts.promote(won(control, 2)))
    assert len(replicas.prepared) == (1 if only_first else 2)


def test_an_outage_is_no_evidence_against_a_version(control, replicas):
    async def away(version: int, only: str | None) -> Answers:
        return replicas.answers(error="the storage does not answer", unavailable=True)

    replicas.on_prepare = away
    with pytest.raises(NotReady, match="cannot take over now, the champion stays: the storage does not answer"):
        asyncio.run(control.rollouts.promote(won(control, 2)))
    assert waiting(control) == [2]
    [(kind, _, text)] = incidents(control)
    assert (kind, text[:24]) == (HistoryKind.ROLLOUT_ENDED, "v2 did not take over: m:")


# --- winners that come late ----------------------------------------------------------------------------------------------


def test_a_promotion_that_a_newer_winner_overtakes_has_its_line_in_the_history_and_is_judged_again(control):
    late = won(control, 2)
    asyncio.run(control.rollouts.promote(won(control, 3)))
    with pytest.raises(Conflict, match="decide again"):
        asyncio.run(control.rollouts.promote(late))
    [(kind, version, text)] = incidents(control)
    assert (kind, version) == (HistoryKind.ROLLOUT_ENDED, 2)
    assert text.startswith("v2 did not take over: m: this decision is against v1")
    assert [decision.candidate for decision in control.registry.overtaken_decisions()] == [2]


def test_a_canary_that_another_promotion_forestalls_has_its_line_in_the_history(control, replicas):
    decision = won(control, 3)

    async def away(version: int, only: str | None) -> Answers:
        return replicas.answers(error="the storage does not answer", unavailable=True)

    replicas.on_prepare = away
    settings = control.config.model("m").model_copy(update={"rollout": RolloutSettings(canary=10.0)})
    control.rollouts = Rollouts(control.registry, replicas, {"m": settings}, lambda: "local")
    with pytest.raises(NotReady):
        asyncio.run(control.rollouts.carry_out(won(control, 2)))
    replicas.on_prepare = None
    asyncio.run(control.rollouts.promote(decision))
    assert incidents(control) == [(HistoryKind.ROLLOUT_ENDED, 2, "v2 did not begin its canary: v3 came first")]
