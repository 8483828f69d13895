"""Canaries and shadows from the proposal to their end, with scripted replicas."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from baton.config.model_settings import RolloutSettings
from baton.errors import Conflict, NotFound, NotReady
from baton.quality.trials import TrialCounts
from baton.store.feedback.correction import Correction
from baton.store.records import HistoryKind, Rollout, RolloutMode, RolloutState, Trial
from services.control.rollouts import steps
from services.control.rollouts.driver import Rollouts
from services.control.rollouts.evidence import Evidence
from services.control.rollouts.replicas import Answers, ReplicaCounts
from services.control.rollouts.watch import Watch
from tests.control.rollouts.scripted import Scripted, incidents, waiting, won
from tests.support.answers import logged
from tests.support.local_control import LocalControl

AT_ONCE = 1e-6
"""Minutes of a trial that is over at the first look after it began."""


def configured_with(control: LocalControl, replicas: Scripted, **rollout: float) -> Rollouts:
    settings = control.config.model("m").model_copy(update={"rollout": RolloutSettings(**rollout)})
    return Rollouts(control.registry, replicas, {"m": settings}, lambda: "local")


def canary(control: LocalControl, version: int = 2, minutes: float | None = None) -> Rollout:
    return asyncio.run(
        control.rollouts.start_trial("m", version, Trial(mode=RolloutMode.CANARY, percent=10.0, minutes=minutes))
    )


def look(control: LocalControl) -> Rollout:
    """Let the loops look at the trial once more, and return the newest roll-out."""
    asyncio.run(control.rollouts.resume("m"))
    return control.registry.rollouts.list("m", limit=1)[0]


def test_a_canary_is_loaded_everywhere_and_told_to_all_replicas(control, replicas):
    found = canary(control)
    assert (found.state, found.percent, found.champion) == (RolloutState.CANARY, 10.0, 1)
    assert replicas.prepared == [(2, "r1"), (2, None)]
    assert replicas.trial is not None
    assert (replicas.trial.id, replicas.trial.state) == (found.id, RolloutState.CANARY)
    assert incidents(control) == [(HistoryKind.CANARY, 2, "v2 answers 10% of the requests until it is ended.")]
    assert control.registry.champion("m").version == 1


def test_what_replicas_measure_is_kept_also_of_those_that_are_gone(control, replicas):
    canary(control)
    replicas.measured = {"r1": TrialCounts(answers=5, ratios=(1.0,)), "r2": TrialCounts(answers=7)}
    look(control)
    replicas.measured = {"r2": TrialCounts(answers=9), "r3": TrialCounts(answers=1)}
    found = look(control)
    counts = Evidence.from_stored(found.evidence).replicas
    assert {replica: it.answers for replica, it in counts.items()} == {"r1": 5, "r2": 9, "r3": 1}
    assert counts["r1"].ratios == (1.0,)
    assert found.state is RolloutState.CANARY


def test_a_person_ends_a_canary_and_the_champion_answers_everything(control, replicas):
    canary(control)
    ended = asyncio.run(control.rollouts.end_trial("m", "seen enough"))
    assert (ended.state, ended.reason, replicas.trial) == (RolloutState.ROLLED_BACK, "seen enough", None)
    assert incidents(control)[0] == (HistoryKind.TRIAL_ENDED, 2, "v2 was taken back from its canary: seen enough")
    with pytest.raises(NotFound, match="m has no canary and no shadow"):
        asyncio.run(control.rollouts.end_trial("m", "again"))


def test_a_winner_whose_canary_a_person_ends_is_not_rolled_out_by_itself_again(control, replicas):
    control.rollouts = configured_with(control, replicas, canary=10.0)
    asyncio.run(control.rollouts.carry_out(won(control, 2)))
    asyncio.run(control.rollouts.end_trial("m", "seen enough"))
    assert (waiting(control), control.registry.champion("m").version) == ([], 1)
    asyncio.run(control.rollouts.promote(won(control, 3)))
    assert control.registry.overtaken_decisions() == []


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (TrialCounts(answers=10, errors=4, champion_answers=90), "of its 14 requests 4 raised an error"),
        (TrialCounts(answers=40, ratios=(9.5,) * 40), "it takes 9.5 times as long as the champion"),
        (TrialCounts(late=1, stalled_seconds=40.0), "it has not finished a batch in 40 s"),
    ],
)
def test_a_bad_canary_goes_back_by_itself_and_the_history_says_why_and_how_many_were_affected(
    control, replicas, measured, reason
):
    control.rollouts = configured_with(control, replicas, canary=10.0)
    asyncio.run(control.rollouts.carry_out(won(control, 2)))
    replicas.measured["r1"] = measured
    found = look(control)
    assert found.state is RolloutState.ROLLED_BACK
    assert replicas.trial is None
    kind, version, text = incidents(control)[0]
    assert (kind, version) == (HistoryKind.ROLLOUT_FAILED, 2)
    assert text.startswith(f"v2 was taken back from its canary: {reason}")
    assert f"It answered {measured.answers} requests" in text
    assert (control.registry.champion("m").version, waiting(control)) == (1, [])


def test_a_version_whose_replicas_die_while_it_answers_goes_back(control, replicas):
    canary(control)
    look(control)
    replicas.measured = {"r2": TrialCounts(), "r3": None}
    look(control)
    replicas.measured = {"r2": TrialCounts(), "r3": TrialCounts()}
    assert look(control).state is RolloutState.CANARY  # one may be an accident
    replicas.measured = {"r3": TrialCounts(), "r4": None}
    found = look(control)
    assert (found.state, (found.reason or "")[:39]) == (RolloutState.ROLLED_BACK, "2 replicas died while they ran it. It a")


def test_a_call_that_reaches_nobody_and_replicas_that_do_not_run_the_version_are_no_deaths(control, replicas):
    canary(control)
    running = dict(replicas.measured)
    for measured in ({}, {"r1": None, "r2": None}, {}, running):
        look(control)
        replicas.measured = measured
        assert look(control).state is RolloutState.CANARY


def test_only_time_in_which_replicas_run_the_version_counts(control, replicas):
    """A canary used to pass by the clock, for example while the service was down."""
    now = 0.0
    canary(control, minutes=1.0)
    control.rollouts._steps._watch = Watch(control.registry, replicas, {"m": control.config.model("m")}, lambda: now)
    running = dict(replicas.measured)
    for seconds, measured in ((0, running), (3600, running), (3600, {}), (3600, {"r1": None})):
        now += seconds
        replicas.measured = measured
        assert look(control).state is RolloutState.CANARY
    replicas.measured = running
    for _ in range(12):  # every look counts 5 seconds at most
        now += 60
        found = look(control)
    assert found.state is RolloutState.SETTLED


def test_a_version_that_passed_the_gate_takes_over_after_its_canary(control, replicas):
    control.rollouts = configured_with(control, replicas, canary=10.0, minutes=AT_ONCE)
    asyncio.run(control.rollouts.carry_out(won(control, 2)))
    found = look(control)
    assert (found.mode, found.state) == (RolloutMode.CANARY, RolloutState.SETTLED)
    assert control.registry.champion("m").version == 2
    assert set(replicas.serving.values()) == {(2, 2)}


def test_a_canary_without_a_decision_ends_and_moves_nothing(control, replicas):
    canary(control, minutes=AT_ONCE)
    assert look(control).state is RolloutState.SETTLED
    assert (control.registry.champion("m").version, replicas.trial) == (1, None)
    assert incidents(control)[0][:2] == (HistoryKind.CANARY, 2)


def test_a_shadow_is_described_by_its_copies(control, replicas):
    replicas.measured["r1"] = TrialCounts(answers=12)
    found = asyncio.run(control.rollouts.start_trial("m", 2, Trial(mode=RolloutMode.SHADOW, percent=20.0, minutes=AT_ONCE)))
    assert found.state is RolloutState.SHADOW
    found = look(control)
    assert (found.state, found.reason) == (
        RolloutState.SETTLED,
        "nothing speaks against it. It ran 12 copies; no request was affected.",
    )
    assert [kind for kind, _, _ in incidents(control)] == [HistoryKind.SHADOW, HistoryKind.SHADOW]


def shadowed(control: LocalControl, replicas: Scripted, *answers: tuple[str, str]) -> Rollout:
    """Start a shadow, let champion and shadow give each of ``answers`` to one request whose right answer is a, and look."""
    asyncio.run(control.rollouts.start_trial("m", 2, Trial(mode=RolloutMode.SHADOW, percent=20.0)))
    for number, (champions, shadows) in enumerate(answers):
        answer = logged(f"r{number}", label=champions)
        control.registry.predictions.log([answer])
        control.registry.predictions.log_shadow([logged(f"r{number}", version=2, label=shadows, at=answer.created_at)])
    corrections = [
        Correction(client_id=None, request_id=f"r{number}", position=0, example={"text": "hello", "label": "a"})
        for number in range(len(answers))
    ]
    control.registry.feedback.add("m", corrections)
    control.rollouts = configured_with(control, replicas)  # a new process does not wait before it reads feedback
    return look(control)


def test_a_shadow_that_is_worse_by_feedback_on_the_same_requests_goes_back_by_itself(control, replicas):
    for replica in replicas.measured:
        replicas.measured[replica] = TrialCounts(answers=10, champion_answers=10)
    found = shadowed(control, replicas, *[("a", "b")] * 13, ("b", "a"), *[("b", "b")] * 4, *[("a", "a")] * 2)
    assert found.state is RolloutState.ROLLED_BACK
    assert (found.reason or "").startswith(
        "of 20 corrected inputs that both versions ran, it alone was wrong on 13, and the champion alone on 1, F1 0."
    )
    assert (found.reason or "").endswith("It ran 20 copies; no request was affected.")
    assert incidents(control)[0] == (HistoryKind.ROLLOUT_FAILED, 2, f"v2 was taken back from its shadow: {found.reason}")
    feedback = Evidence.from_stored(found.evidence).feedback
    assert (feedback.wrong, feedback.champion_wrong, feedback.pairs) == (13, 1, 20)
    assert control.registry.champion("m").version == 1


def test_a_shadow_that_is_as_good_by_feedback_goes_on_although_it_is_wrong_often(control, replicas):
    found = shadowed(control, replicas, *[("a", "b")] * 13, *[("b", "a")] * 13, *[("b", "b")] * 40)
    assert found.state is RolloutState.SHADOW
    feedback = Evidence.from_stored(found.evidence).feedback
    assert (feedback.wrong, feedback.champion_wrong, feedback.pairs, feedback.f1) == (13, 13, 66, feedback.champion_f1)


def test_answers_of_a_shadow_from_before_it_began_do_not_speak_against_it(control, replicas):
    before = datetime.now(UTC) - timedelta(hours=1)
    for number in range(20):
        answer = logged(f"r{number}", at=before)
        control.registry.predictions.log([answer])
        control.registry.predictions.log_shadow([logged(f"r{number}", version=2, label="b", at=before)])
    found = shadowed(control, replicas, *[("a", "b")] * 20)  # with the same request ids: the first answers stay
    assert (found.state, Evidence.from_stored(found.evidence).feedback.pairs) == (RolloutState.SHADOW, 0)


def test_a_promotion_ends_the_canary_of_its_version(control, replicas):
    found = canary(control)
    asyncio.run(control.rollouts.promote(won(control, 2)))
    after = control.registry.rollouts.list("m")
    assert [(it.id, it.state) for it in after] == [(found.id, RolloutState.SETTLED)]
    assert (control.registry.champion("m").version, replicas.trial) == (2, None)


def test_another_version_waits_until_a_trial_is_over(control):
    canary(control)
    for move in (
        control.rollouts.promote(won(control, 3)),
        control.rollouts.start_trial("m", 3, Trial(mode=RolloutMode.SHADOW, percent=5.0)),
    ):
        with pytest.raises(Conflict, match=r"v2.*canary"):
            asyncio.run(move)
    assert control.registry.champion("m").version == 1


def test_a_rollback_during_a_canary_must_name_its_version_and_then_ends_it(control, replicas):
    asyncio.run(control.rollouts.promote(won(control, 2)))
    canary(control, version=3)
    with pytest.raises(Conflict, match="v3 of m is on trial \\(canary\\), and v2 is the champion: end the trial"):
        asyncio.run(control.rollouts.rollback("m", None, "worse"))
    asyncio.run(control.rollouts.rollback("m", 1, "worse"))
    assert control.registry.champion("m").version == 1
    assert [it.state for it in control.registry.rollouts.list("m")][1] is RolloutState.ROLLED_BACK
    assert replicas.trial is None


def test_a_rejection_ends_the_canary(control, replicas):
    canary(control)
    ended = asyncio.run(control.rollouts.reject("m", 2, "it insults people"))
    assert (ended.mode, ended.state) == (RolloutMode.CANARY, RolloutState.ROLLED_BACK)
    assert control.registry.rollouts.list("m")[0].state is RolloutState.ROLLED_BACK
    assert replicas.trial is None
    with pytest.raises(Conflict, match="v2 of m was rejected: it insults people"):
        canary(control)


def test_the_first_version_has_nothing_to_be_compared_with(control, replicas):
    with pytest.raises(Conflict, match="v1 is already the champion of m"):
        canary(control, version=1)
    with pytest.raises(NotFound):
        canary(control, version=9)


def test_a_silent_replica_delays_the_next_look_and_nothing_else(control, replicas):
    canary(control)
    before = control.registry.rollouts.active("m")

    class Silent(Scripted):
        async def trials(self, model: str, timeout_s: float, rollout: Rollout) -> dict[str, TrialCounts | None]:
            return {}

    control.rollouts = Rollouts(control.registry, Silent(), {"m": control.config.model("m")}, lambda: "local")
    assert look(control) == before


def test_a_replica_that_never_starts_holds_up_no_later_roll_out(control, replicas, monkeypatch):
    monkeypatch.setattr(steps, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(Scripted, "count", lambda self, model: ReplicaCounts(running=2, starting=1))
    with pytest.raises(NotReady, match=r"v2 is champion, but it serves on only 2 of 3 replicas; the others will follow"):
        asyncio.run(control.rollouts.promote(won(control, 2)))
    [found] = control.registry.rollouts.list("m")
    assert found.state is RolloutState.SETTLED
    assert "2 of 3" in (found.reason or "")


def test_a_version_that_is_rejected_right_before_its_move_does_not_take_over(control, replicas):
    async def reject_late(version: int, only: str | None) -> Answers:
        if only is None:
            control.registry.history.add_incident("m", HistoryKind.REJECTED, "wrong file", 2)
        return replicas.answers()

    replicas.on_prepare = reject_late
    with pytest.raises(Conflict, match="v2 of m was rejected: wrong file"):
        asyncio.run(control.rollouts.promote(won(control, 2)))
    assert control.registry.champion("m").version == 1
    assert control.registry.rollouts.active("m") is None


def test_a_promotion_during_an_outage_before_the_canary_ends_in_a_promotion(control, replicas):
    control.rollouts = configured_with(control, replicas, canary=10.0)
    decision = won(control, 2)

    async def away(version: int, only: str | None) -> Answers:
        return replicas.answers(error="the storage is away", unavailable=True)

    replicas.on_prepare = away
    with pytest.raises(NotReady):
        asyncio.run(control.rollouts.carry_out(decision))
    replicas.on_prepare = None
    asyncio.run(control.rollouts.promote(decision))
    assert control.registry.champion("m").version == 2
