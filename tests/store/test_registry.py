"""The registry on real SQLite and real PostgreSQL: who may move the champion pointer, and what stays written."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from baton.errors import Conflict, NotFound, RegistryError
from baton.store import schema
from baton.store.database import connect
from baton.store.migrations.upgrade import migrate
from baton.store.records import Champion, Decision, DecisionKind, HistoryKind, Promotion, RunStage, RunState, Verdict
from baton.store.registry import Registry
from tests.support.stores import raw_sql

HOLDOUT = "h" * 64
NOBODY = Champion(version=None, sequence=0)
STATISTICS = np.zeros((3, 2), dtype=np.int32)


@pytest.fixture
def url(either_url: str) -> str:
    """Every test here runs on both databases."""
    return either_url


def publish(registry: Registry, model: str = "m", run_id: str | None = None) -> int:
    """A published and evaluated version."""
    number = registry.versions.reserve(model, run_id)
    registry.versions.publish(
        model, number, uri=f"/v/{number}", manifest_sha256="a" * 64, metrics={"f1": 0.5}, lineage={"b": 1}
    )
    registry.evaluations.add(model, number, HOLDOUT, {"f1": 0.5}, STATISTICS)
    return number


def gate(
    candidate: int,
    champion: int | None,
    verdict: Verdict = Verdict.PROMOTE,
    holdout: str = HOLDOUT,
    sequence: int | None = None,
) -> Decision:
    """By default about the first move of the pointer, or the one after it if there is a champion."""
    return Decision(
        model="m",
        candidate=candidate,
        champion=champion,
        champion_sequence=int(champion is not None) if sequence is None else sequence,
        kind=DecisionKind.GATE,
        verdict=verdict,
        sentence=f"v{candidate} against {champion}",
        policy={"min_gain": 0.0},
        numbers={"holdout_hash": holdout},
    )


def act(
    kind: DecisionKind, candidate: int, champion: int | None, reason: str | None = "because", sequence: int | None = None
) -> Decision:
    return Decision(
        model="m",
        candidate=candidate,
        champion=champion,
        champion_sequence=int(champion is not None) if sequence is None else sequence,
        kind=kind,
        verdict=Verdict.PROMOTE,
        sentence="an act",
        reason=reason,
    )


def promote(registry: Registry, candidate: int) -> Promotion:
    """Through the gate, against whoever serves now."""
    now = registry.champion("m")
    return registry.promote(registry.add_decision(gate(candidate, now.version, sequence=now.sequence)), now)


def move(registry: Registry, kind: DecisionKind, candidate: int) -> Promotion:
    """By a person's act, against whoever serves now."""
    now = registry.champion("m")
    return registry.promote(act(kind, candidate, now.version, sequence=now.sequence), now)


def all_at_once(calls: list[Callable[[], object]]) -> list[object]:
    """Run the calls in threads that start together; results or exceptions, in order."""
    barrier = threading.Barrier(len(calls), timeout=60)

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def processes_at_once(code: str, arguments: list[list[str]]) -> list[str]:
    """Run ``code`` in real processes; each waits in ``ready()`` until all are there. Returns what they printed after."""
    prelude = "import sys\ndef ready():\n    print('ready', flush=True); sys.stdin.readline()\n"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", prelude + code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for words in arguments
    ]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0].strip() for process in running]


# --- compare-and-swap ----------------------------------------------------------------------------------------------------


def test_a_model_starts_without_champion(registry):
    assert registry.champion("m") == NOBODY
    assert registry.champion_version("m") is None


def test_a_passing_decision_moves_the_pointer_and_is_written_down(registry):
    version = publish(registry)
    decision = registry.add_decision(gate(version, None))
    promotion = registry.promote(decision, NOBODY)
    assert registry.champion("m") == Champion(version=version, sequence=1)
    assert registry.champion_version("m").number == version
    assert (promotion.version, promotion.previous, promotion.sequence) == (version, None, 1)
    assert (promotion.decision_id, promotion.kind) == (decision.id, DecisionKind.GATE)
    assert registry.promotions("m") == [promotion]


def test_of_two_threads_that_promote_at_once_exactly_one_wins(registry):
    promote(registry, publish(registry))
    rivals = [registry.add_decision(gate(publish(registry), 1)) for _ in range(2)]
    expected = registry.champion("m")
    results = all_at_once([lambda rival=rival: registry.promote(rival, expected) for rival in rivals])
    [winner] = [result for result in results if isinstance(result, Promotion)]
    [loser] = [result for result in results if isinstance(result, Conflict)]
    assert registry.champion("m") == Champion(version=winner.version, sequence=2)
    assert f"the champion is now v{winner.version} (move 2), not v1 (move 1); decide again" in str(loser)


def test_of_two_processes_that_promote_at_once_exactly_one_wins(registry, url):
    rivals = [registry.add_decision(gate(publish(registry), None)) for _ in range(2)]
    code = """
from baton.errors import Conflict
from baton.store.records import Champion
from baton.store.registry import Registry
registry = Registry(sys.argv[1])
decision = registry.decision(int(sys.argv[2]))
ready()
try:
    print('won', registry.promote(decision, Champion(version=None, sequence=0)).version)
except Conflict as error:
    print('Conflict', error)
"""
    printed = sorted(processes_at_once(code, [[url, str(rival.id)] for rival in rivals]))
    assert printed[0].startswith("Conflict m: the champion is now v")
    assert printed[1] == f"won {registry.champion('m').version}"
    assert len(registry.promotions("m")) == 1


def test_a_lost_swap_leaves_no_trace(registry):
    first, second = publish(registry), publish(registry)
    stale = registry.champion("m")
    promote(registry, first)
    with pytest.raises(Conflict):
        registry.promote(act(DecisionKind.FORCE, second, None), stale)
    assert len(registry.promotions("m")) == 1
    assert [entry.version for entry in registry.history.list("m")] == [first]


def test_a_right_move_number_with_a_wrong_champion_is_refused(registry):
    for _ in range(3):
        publish(registry)
    promote(registry, 1)
    old = registry.add_decision(gate(3, 1))
    promote(registry, 2)
    with pytest.raises(Conflict, match=r"the champion is now v2 \(move 2\), not v1"):
        registry.promote(old, Champion(version=1, sequence=2))


def test_a_pointer_that_went_there_and_back_is_not_the_one_expected(registry):
    publish(registry), publish(registry), publish(registry)
    promote(registry, 1)
    seen = registry.champion("m")
    decision = registry.add_decision(gate(3, 1))
    promote(registry, 2)
    move(registry, DecisionKind.ROLLBACK, 1)
    with pytest.raises(Conflict, match="move 3"):
        registry.promote(decision, seen)


# --- what a decision allows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.REJECT, Verdict.INCONCLUSIVE])
def test_a_decision_that_did_not_pass_promotes_nothing(registry, verdict):
    decision = registry.add_decision(gate(publish(registry), None, verdict))
    with pytest.raises(Conflict, match=f"does not allow a promotion: {verdict}"):
        registry.promote(decision, NOBODY)
    assert registry.champion("m") == NOBODY


def test_a_gate_decision_that_was_never_stored_promotes_nothing(registry):
    with pytest.raises(Conflict, match="must be stored before it can promote"):
        registry.promote(gate(publish(registry), None), NOBODY)
    assert registry.champion("m") == NOBODY


def test_the_stored_verdict_counts_not_the_one_in_hand(registry):
    rejected = registry.add_decision(gate(publish(registry), None, Verdict.REJECT))
    forged = Decision(**{**vars(rejected), "verdict": Verdict.PROMOTE})
    with pytest.raises(Conflict, match="does not allow a promotion: reject"):
        registry.promote(forged, NOBODY)


def test_a_decision_about_another_version_promotes_nothing(registry):
    first, second = publish(registry), publish(registry)
    passing = registry.add_decision(gate(first, None))
    with pytest.raises(Conflict, match="is about another move"):
        registry.promote(Decision(**{**vars(passing), "candidate": second}), NOBODY)


def test_a_stored_act_of_a_person_does_not_pass_as_a_gate_decision(registry):
    stored = registry.add_decision(act(DecisionKind.FORCE, publish(registry), None))
    with pytest.raises(Conflict, match="does not allow a promotion"):
        registry.promote(Decision(**{**vars(stored), "kind": DecisionKind.GATE}), NOBODY)


def test_a_decision_against_another_champion_promotes_nothing(registry):
    for _ in range(3):
        publish(registry)
    promote(registry, 1)
    against_v1 = registry.add_decision(gate(3, 1))
    promote(registry, 2)
    with pytest.raises(Conflict, match=r"is against v1 \(move 1\), but the champion is v2 \(move 2\); decide again"):
        registry.promote(against_v1, registry.champion("m"))
    assert registry.champion("m").version == 2


def test_a_decision_whose_candidate_was_not_evaluated_on_its_holdout_promotes_nothing(registry):
    decision = registry.add_decision(gate(publish(registry), None, holdout="another"))
    with pytest.raises(Conflict, match="v1 has no evaluation on its holdout"):
        registry.promote(decision, NOBODY)


def test_a_decision_whose_champion_was_not_evaluated_on_its_holdout_promotes_nothing(registry):
    promote(registry, publish(registry))
    second = publish(registry)
    registry.evaluations.add("m", second, "new", {"f1": 0.9}, STATISTICS)
    decision = registry.add_decision(gate(second, 1, holdout="new"))
    with pytest.raises(Conflict, match="v1 has no evaluation on its holdout"):
        registry.promote(decision, registry.champion("m"))


@pytest.mark.parametrize("kind", [DecisionKind.FORCE, DecisionKind.ROLLBACK])
@pytest.mark.parametrize("reason", [None, "", "  "])
def test_an_act_without_a_reason_moves_nothing(registry, kind, reason):
    publish(registry), publish(registry)
    promote(registry, 1)
    promote(registry, 2)
    with pytest.raises(Conflict, match=f"a {kind} needs a reason"):
        registry.promote(act(kind, 1, 2, reason, sequence=2), registry.champion("m"))
    assert registry.champion("m").version == 2


def test_force_moves_the_pointer_without_the_gate_and_keeps_its_reason(registry):
    version = registry.versions.reserve("m", None)
    registry.versions.publish("m", version, uri="/v", manifest_sha256="a" * 64, metrics={}, lineage={})
    promotion = registry.promote(act(DecisionKind.FORCE, version, None, "hotfix 7"), NOBODY)
    assert registry.decision(promotion.decision_id).reason == "hotfix 7"
    [entry] = registry.history.list("m")
    assert entry.text == "an act Reason: hotfix 7"
    assert entry.details["kind"] == DecisionKind.FORCE


def test_rollback_goes_only_to_past_champions(registry):
    promote(registry, publish(registry))
    never = publish(registry)
    with pytest.raises(Conflict, match=f"v{never} has never been champion of m; use promote"):
        move(registry, DecisionKind.ROLLBACK, never)


def test_the_champion_of_another_model_is_no_past_champion_of_this_one(registry):
    registry.declare_model("other")
    for model in ("other", "m", "m"):
        publish(registry, model)
    other = Decision(**{**vars(act(DecisionKind.FORCE, 1, None)), "model": "other"})
    registry.promote(other, NOBODY)
    promote(registry, 2)
    with pytest.raises(Conflict, match="has never been champion of m"):
        move(registry, DecisionKind.ROLLBACK, 1)


@pytest.mark.parametrize(
    ("moves", "previous"),
    [
        ("", None),
        ("p1", None),
        ("p1 p2", 1),
        ("p1 p2 p3", 2),
        ("p1 p2 r1", None),
        ("p1 p2 p3 r2", 1),
        ("p1 p2 p3 r2 r1", None),
        ("p1 p2 p3 r1", None),
        ("p1 p2 r1 p3", 1),
        ("p1 p2 r1 f2", 1),
        ("p1 p2 r1 p3 r1 p4", 1),
        ("p1 p2 r1 r2", 1),
    ],
)
def test_the_previous_champion_is_the_one_before_with_rollbacks_undone(registry, moves, previous):
    for _ in range(4):
        publish(registry)
    for letter, number in moves.split():
        if letter == "p":
            promote(registry, int(number))
        else:
            move(registry, DecisionKind.ROLLBACK if letter == "r" else DecisionKind.FORCE, int(number))
    assert registry.previous_champion("m") == previous


@pytest.mark.parametrize("statement", ["UPDATE promotions SET version = 9", "DELETE FROM promotions"])
def test_promotions_cannot_be_changed_even_by_raw_sql(registry, url, statement):
    promote(registry, publish(registry))
    with pytest.raises(sa.exc.DBAPIError, match="promotions is append-only"):
        raw_sql(url, statement)
    assert registry.promotions("m")[0].version == 1


# --- versions ------------------------------------------------------------------------------------------------------------


def test_the_same_run_always_gets_the_same_number(registry):
    assert registry.versions.reserve("m", "run-1") == 1
    assert registry.versions.reserve("m", "run-2") == 2
    assert registry.versions.reserve("m", "run-1") == 1


def test_numbers_reserved_at_once_are_distinct(registry):
    numbers = all_at_once([lambda: registry.versions.reserve("m", None)] * 12)
    assert sorted(numbers) == list(range(1, 13))


def test_numbers_are_per_model(registry):
    registry.declare_model("other")
    assert (registry.versions.reserve("m", None), registry.versions.reserve("other", None)) == (1, 1)


def test_an_unpublished_version_cannot_be_seen_or_promoted(registry):
    number = registry.versions.reserve("m", None)
    assert registry.versions.list("m") == []
    with pytest.raises(NotFound, match="m has no version 1; it has no versions yet"):
        registry.versions.get("m", number)
    with pytest.raises(NotFound):
        registry.promote(act(DecisionKind.FORCE, number, None), NOBODY)
    assert registry.champion("m") == NOBODY


def test_a_number_that_the_storage_holds_already_is_passed_over(registry):
    """The database was restored from a backup that is older than the files."""
    assert registry.versions.reserve("m", "run-1") == 1
    assert registry.versions.reserve("m", "run-2", above=4) == 5
    assert registry.versions.reserve("m", "run-2", above=5) == 5
    assert registry.versions.reserve("m", "run-3", above=2) == 6


def test_a_version_that_was_not_reserved_cannot_be_published(registry):
    with pytest.raises(Conflict, match="m v7 is not waiting to be published"):
        registry.versions.publish("m", 7, uri="/v", manifest_sha256="a" * 64, metrics={}, lineage={})


def test_a_published_version_never_changes(registry):
    registry.versions.reserve("m", "run-1")
    stored = registry.versions.publish("m", 1, uri="/v", manifest_sha256="a" * 64, metrics={}, lineage={})
    with pytest.raises(Conflict, match="m v1 is not waiting to be published"):
        registry.versions.publish("m", 1, uri="/w", manifest_sha256="b" * 64, metrics={}, lineage={})
    assert registry.versions.get("m", 1) == stored


def test_a_published_version_comes_back_as_it_was_stored(registry):
    registry.versions.reserve("m", "run-1")
    lineage = {"dataset": {"hash": "x", "rows": [1, 2]}, "π": None}
    stored = registry.versions.publish("m", 1, uri="s3://b/1", manifest_sha256="f" * 64, metrics={"f1": 0.1}, lineage=lineage)
    assert registry.versions.get("m", 1) == stored
    assert (stored.run_id, stored.uri, stored.metrics, stored.lineage) == ("run-1", "s3://b/1", {"f1": 0.1}, lineage)
    assert stored.created_at.tzinfo is not None


def test_versions_are_listed_newest_first_in_pages(registry):
    for _ in range(5):
        publish(registry)
    assert [version.number for version in registry.versions.list("m", limit=2)] == [5, 4]
    assert [version.number for version in registry.versions.list("m", limit=2, before=4)] == [3, 2]


# --- evaluations and decisions -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=arrays(np.int32, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_evaluation_statistics_of_any_shape_come_back_exactly(registry, array):
    holdout = f"holdout-{array.shape}-{hash(array.tobytes())}"
    stored = registry.evaluations.add("m", 1, holdout, {"f1": 0.5}, array)
    assert stored.statistics.dtype == np.int32
    assert stored.statistics.shape == array.shape
    assert np.array_equal(stored.statistics, array)


def test_statistics_in_column_order_come_back_as_the_same_matrix(registry):
    array = np.asfortranarray(np.arange(12, dtype=np.int32).reshape(4, 3))
    assert np.array_equal(registry.evaluations.add("m", 1, HOLDOUT, {}, array).statistics, array)


def test_the_first_evaluation_of_a_version_on_a_holdout_stays(registry):
    first = registry.evaluations.add("m", 1, HOLDOUT, {"f1": 0.5}, STATISTICS)
    second = registry.evaluations.add("m", 1, HOLDOUT, {"f1": 0.9}, STATISTICS)
    assert (second.id, second.metrics) == (first.id, {"f1": 0.5})


def test_a_match_that_was_not_played_has_no_evaluation_and_no_decision(registry):
    registry.add_decision(gate(2, 1))
    assert registry.evaluations.get("m", 1, HOLDOUT) is None
    assert registry.gate_decision("m", 2, 1, {"min_gain": 0.0}) is not None
    assert registry.gate_decision("m", 2, None, {"min_gain": 0.0}) is None
    assert registry.gate_decision("m", 2, 1, {"min_gain": 0.1}) is None
    assert registry.gate_decision("m", 3, 1, {"min_gain": 0.0}) is None


def test_the_newest_gate_decision_on_a_match_is_found(registry):
    registry.add_decision(gate(2, None, Verdict.REJECT))
    newest = registry.add_decision(gate(2, None))
    assert registry.gate_decision("m", 2, None, {"min_gain": 0.0}) == newest


# --- runs ----------------------------------------------------------------------------------------------------------------


def test_a_model_has_at_most_one_active_run(registry):
    active = registry.runs.create("m", {})
    with pytest.raises(Conflict, match=rf"run {active.id} is active; wait for it or cancel it \(`baton cancel {active.id}`\)"):
        registry.runs.create("m", {})
    registry.runs.finish(active.id, RunState.FAILED, reason="no disk")
    assert registry.runs.create("m", {}).state is RunState.QUEUED


def test_a_stage_of_an_earlier_version_of_baton_is_read_and_one_of_a_later_version_says_what_to_do(registry, url):
    run = registry.runs.create("m", {})
    raw_sql(url, "UPDATE runs SET stage = 'evaluating v3'")
    assert registry.runs.get(run.id).stage is RunStage.EVALUATING
    assert [it.stage for it in registry.runs.list("m")] == [RunStage.EVALUATING]
    raw_sql(url, "UPDATE runs SET stage = 'dreaming'")
    with pytest.raises(RegistryError, match="stage 'dreaming', which this version of Baton does not know; upgrade Baton"):
        registry.runs.get(run.id)


def test_of_runs_created_at_once_exactly_one_is(registry):
    results = all_at_once([lambda: registry.runs.create("m", {})] * 6)
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert len(registry.runs.list("m", active=True)) == 1


def test_another_model_may_run_at_the_same_time(registry):
    registry.declare_model("other")
    registry.runs.create("m", {})
    registry.runs.create("other", {})
    assert {run.model for run in registry.runs.list(active=True)} == {"m", "other"}


def test_the_same_idempotency_key_gives_the_same_run_whatever_became_of_it(registry):
    run = registry.runs.create("m", {"a": 1}, "key")
    assert registry.runs.create("m", {"a": 2}, "key") == run
    registry.runs.finish(run.id, RunState.SUCCEEDED)
    assert registry.runs.create("m", {}, "key").state is RunState.SUCCEEDED
    assert registry.runs.create("m", {}, "another key").id != run.id


def test_the_same_idempotency_key_at_once_gives_one_run(registry):
    runs = all_at_once([lambda: registry.runs.create("m", {}, "key")] * 6)
    assert len({run.id for run in runs}) == 1


def test_a_run_goes_from_queued_over_running_to_its_end(registry):
    run = registry.runs.create("m", {"epochs": 3})
    assert (run.state, run.stage, run.spec, run.started_at) == (RunState.QUEUED, "queued", {"epochs": 3}, None)
    run = registry.runs.start(run.id)
    assert (run.state, run.stage) == (RunState.RUNNING, "preparing")
    assert run.created_at <= run.started_at
    registry.runs.report(run.id, "training", {"epoch": 1})
    assert registry.runs.get(run.id).progress == {"epoch": 1}
    run = registry.runs.finish(run.id, RunState.SUCCEEDED, version=4, decision_id=None)
    assert (run.state, run.version, run.progress) == (RunState.SUCCEEDED, 4, {"epoch": 1})
    assert run.started_at <= run.heartbeat_at <= run.finished_at


def test_a_run_starts_only_once(registry):
    run = registry.runs.create("m", {})
    results = all_at_once([lambda: registry.runs.start(run.id)] * 4)
    assert sum(isinstance(result, Conflict) for result in results) == 3


def test_a_run_that_ends_after_it_was_cancelled_stays_cancelled(registry):
    run = registry.runs.start(registry.runs.create("m", {}).id)
    registry.runs.finish(run.id, RunState.CANCELLED, reason="by a user")
    with pytest.raises(Conflict, match=f"run {run.id} is cancelled"):
        registry.runs.finish(run.id, RunState.SUCCEEDED, version=1)
    after = registry.runs.get(run.id)
    assert (after.state, after.reason, after.version) == (RunState.CANCELLED, "by a user", None)


def test_a_cancelled_run_learns_it_at_its_next_sign_of_life(registry):
    run = registry.runs.start(registry.runs.create("m", {}).id)
    registry.runs.finish(run.id, RunState.CANCELLED)
    events = registry.runs.events(run.id)
    for call in (
        lambda: registry.runs.beat(run.id),
        lambda: registry.runs.report(run.id, "x", {}),
        lambda: registry.runs.start(run.id),
    ):
        with pytest.raises(Conflict, match="is cancelled"):
            call()
    assert registry.runs.events(run.id) == events


def test_a_queued_run_cannot_report(registry):
    run = registry.runs.create("m", {})
    with pytest.raises(Conflict, match="is queued"):
        registry.runs.report(run.id, "training", {})


def test_run_events_come_in_order_and_continue_after_an_id(registry):
    run = registry.runs.start(registry.runs.create("m", {}).id)
    registry.runs.report(run.id, "training", {"epoch": 1})
    registry.runs.report(run.id, "training", {"epoch": 2})
    registry.runs.finish(run.id, RunState.FAILED, reason="boom")
    events = registry.runs.events(run.id)
    assert [event.data.get("epoch") for event in events] == [1, 2, None]
    assert events[-1].data == {"stage": "failed", "reason": "boom", "version": None}
    assert registry.runs.events(run.id, after=events[0].id) == events[1:]


def test_runs_are_listed_newest_first_in_pages(registry):
    created = []
    for _ in range(4):
        created.insert(0, registry.runs.create("m", {}).id)
        registry.runs.finish(created[0], RunState.SUCCEEDED)
    assert [run.id for run in registry.runs.list("m", limit=3)] == created[:3]
    assert [run.id for run in registry.runs.list("m", before=created[2])] == created[3:]
    assert registry.runs.list("m", active=True) == []


# --- history -------------------------------------------------------------------------------------------------------------


def test_history_tells_promotions_refusals_and_incidents_newest_first(registry):
    for _ in range(3):
        publish(registry)
    promote(registry, 1)
    registry.add_decision(gate(2, 1, Verdict.REJECT))
    registry.add_decision(gate(2, 1, Verdict.INCONCLUSIVE))
    promote(registry, 2)
    registry.history.add_incident("m", "prepare failed", "replica 3: no memory", version=2)
    move(registry, DecisionKind.ROLLBACK, 1)
    story = [(entry.what, entry.version) for entry in registry.history.list("m")]
    assert story == [
        ("rolled back", 1),
        ("prepare failed", 2),
        ("promoted", 2),
        ("inconclusive", 2),
        ("refused", 2),
        ("promoted", 1),
    ]
    assert [entry.what for entry in registry.history.list("m", limit=2)] == ["rolled back", "prepare failed"]
    assert len({entry.id for entry in registry.history.list("m")}) == len(story)


def test_incidents_and_promotions_of_other_models_stay_out(registry):
    registry.declare_model("other")
    registry.history.add_incident("other", "boom", "x")
    assert registry.history.list("m") == []
    assert registry.history.incidents("m") == []
    assert registry.history.incidents("other")[0].detail == "x"


def test_promotions_are_listed_newest_first_in_pages(registry):
    for _ in range(3):
        promote(registry, publish(registry))
    newest, *_ = registry.promotions("m", limit=1)
    assert newest.version == 3
    assert [promotion.version for promotion in registry.promotions("m", before=newest.id)] == [2, 1]


# --- unknown names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda registry: registry.champion("x"),
        lambda registry: registry.champion_version("x"),
        lambda registry: registry.settings("x"),
        lambda registry: registry.versions.reserve("x", None),
        lambda registry: registry.runs.create("x", {}),
        lambda registry: registry.history.add_incident("x", "boom", "detail"),
        lambda registry: registry.evaluations.add("x", 1, HOLDOUT, {}, STATISTICS),
        lambda registry: registry.add_decision(Decision(**{**vars(gate(1, None)), "model": "x"})),
    ],
)
def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(registry, call):
    registry.declare_model("faq")
    with pytest.raises(NotFound, match="unknown model 'x'; known models: faq, m"):
        call(registry)


def test_an_unknown_version_is_told_which_exist(registry):
    publish(registry), publish(registry)
    with pytest.raises(NotFound, match="m has no version 9; its versions go from 1 to 2"):
        registry.versions.get("m", 9)


@pytest.mark.parametrize("name", ["get", "start", "beat"])
def test_an_unknown_run_is_not_found(registry, name):
    with pytest.raises(NotFound, match="no run 'nope'"):
        getattr(registry.runs, name)("nope")


def test_an_unknown_decision_is_not_found(registry):
    with pytest.raises(NotFound, match="no decision 42"):
        registry.decision(42)


def test_declaring_a_model_again_keeps_its_champion_and_renews_its_settings(registry):
    promote(registry, publish(registry))
    registry.declare_model("m", {"task": "classification"})
    assert registry.champion("m").version == 1
    assert registry.settings("m") == {"task": "classification"}
    registry.declare_model("m")
    assert registry.settings("m") == {"task": "classification"}


# --- the database --------------------------------------------------------------------------------------------------------


def test_migrations_produce_exactly_the_schema_in_the_code(bare_url):
    engine = connect(bare_url)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_migrating_twice_changes_nothing(registry):
    promote(registry, publish(registry))
    registry.migrate()
    registry.check()
    assert registry.champion("m").version == 1


def test_a_schema_newer_than_the_code_is_refused_with_what_to_do(registry, url):
    raw_sql(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RegistryError, match=r"at schema '9999', which .* does not know; upgrade Baton"):
        registry.migrate()
    with pytest.raises(RegistryError, match="at schema '9999'"):
        registry.check()


def test_a_database_without_schema_is_told_how_to_get_one(bare_url):
    registry = Registry(bare_url)
    with pytest.raises(RegistryError, match=r"at schema None, this code needs '.*'; `baton up` migrates it"):
        registry.check()
    registry.close()


def test_processes_that_migrate_at_once_all_succeed(bare_url):
    code = """
from baton.store.registry import Registry
registry = Registry(sys.argv[1])
ready()
registry.migrate()
registry.check()
print('migrated')
"""
    assert processes_at_once(code, [[bare_url]] * 3) == ["migrated"] * 3


def test_everything_is_still_there_after_reopening(registry, url):
    promote(registry, publish(registry, run_id="run-1"))
    run = registry.runs.create("m", {"a": [1]}, "key")
    registry.close()
    again = Registry(url)
    again.check()
    assert again.champion("m") == Champion(version=1, sequence=1)
    assert again.promotions("m") == registry.promotions("m")
    assert again.runs.get(run.id) == run
    assert np.array_equal(again.evaluations.get("m", 1, HOLDOUT).statistics, STATISTICS)
    again.close()


def test_many_threads_may_write_at_once(registry):
    run = registry.runs.start(registry.runs.create("m", {}).id)

    def write(writer: int) -> None:
        for turn in range(10):
            registry.runs.report(run.id, "training", {"writer": writer, "turn": turn})
            registry.history.add_incident("m", "note", f"{writer}/{turn}")

    results = all_at_once([lambda writer=writer: write(writer) for writer in range(8)])
    assert results == [None] * 8
    assert len(registry.runs.events(run.id)) == 80
    assert len(registry.history.incidents("m", limit=100)) == 80


def test_readers_and_health_checks_do_not_wait_for_a_writer(registry, url):
    publish(registry)
    engine = connect(url)
    with engine.begin() as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(schema.models.update().values(champion_version=7))
        assert pool.submit(registry.champion, "m").result(timeout=10) == NOBODY
        pool.submit(registry.check).result(timeout=10)
        writer.rollback()
    engine.dispose()


@pytest.mark.parametrize("wrong", ["not a url", "nosuchdb://host/x", "sqlite:////dev/null/baton.db"])
def test_a_database_that_cannot_be_opened_is_a_registry_error(wrong):
    with pytest.raises(RegistryError, match=r"cannot be opened.*examples: sqlite:///"):
        Registry(wrong)


def test_a_file_that_is_no_database_is_a_registry_error(tmp_path):
    (tmp_path / "baton.db").write_text("not a database, but long enough to be read as one" * 20)
    registry = Registry(f"sqlite:///{tmp_path}/baton.db")
    for call in (registry.migrate, registry.check, lambda: registry.champion("m"), lambda: registry.declare_model("m")):
        with pytest.raises(RegistryError, match="does not answer: file is not a database"):
            call()
    registry.close()


def test_times_are_stored_in_utc(registry, url):
    run = registry.runs.create("m", {})
    in_utc = "created_at" if url.startswith("sqlite") else "created_at AT TIME ZONE 'UTC'"
    [(stored,)] = raw_sql(url, f"SELECT CAST({in_utc} AS TEXT) FROM runs")
    assert stored.startswith(run.created_at.strftime("%Y-%m-%d %H:%M:%S"))


# --- decisions that wait to be acted on ----------------------------------------------------------------------------------


def decided_by_a_run(registry: Registry, champion: int | None, gain: float = 0.01) -> Decision:
    """A passing decision against today's pointer, at the end of a finished run."""
    run = registry.runs.create("m", {}, started=True)
    number = publish(registry, run_id=run.id)
    decision = gate(number, champion, sequence=registry.champion("m").sequence)
    decision = registry.add_decision(replace(decision, numbers={**decision.numbers, "gain": gain}))
    registry.runs.finish(run.id, RunState.SUCCEEDED, version=number, decision_id=decision.id)
    return decision


def test_a_winner_waits_until_somebody_acts_on_it(registry):
    decision = decided_by_a_run(registry, None)
    assert registry.pending_decisions() == [decision]
    registry.promote(decision, NOBODY)
    assert registry.pending_decisions() == []


def test_a_winner_that_another_move_has_overtaken_stays_out_when_its_champion_serves_again(registry):
    promote(registry, publish(registry))
    overtaken = decided_by_a_run(registry, 1)
    move(registry, DecisionKind.FORCE, publish(registry))
    assert registry.pending_decisions() == []
    move(registry, DecisionKind.ROLLBACK, 1)
    assert registry.champion("m").version == overtaken.champion
    assert registry.pending_decisions() == []


def test_of_several_winners_the_one_with_the_largest_gain_goes_first(registry):
    for gain in (0.02, 0.05, 0.03):
        decided_by_a_run(registry, None, gain)
    assert [decision.numbers["gain"] for decision in registry.pending_decisions()] == [0.05, 0.03, 0.02]


def test_a_clock_that_is_late_on_one_machine_drops_no_winner(registry, url):
    """The decision was stored by a driver whose clock is 90 s behind that of the service (review M5)."""
    promote(registry, publish(registry))
    decision = decided_by_a_run(registry, 1)
    raw_sql(url, "UPDATE decisions SET created_at = '2020-01-01 00:00:00' WHERE id = 2")
    assert [pending.id for pending in registry.pending_decisions()] == [decision.id]


def test_a_clock_that_is_ahead_on_one_machine_revives_no_winner_that_was_given_up(registry, url):
    promote(registry, publish(registry))
    decision = decided_by_a_run(registry, 1)
    raw_sql(url, "UPDATE decisions SET created_at = '2090-01-01 00:00:00' WHERE id = 2")
    registry.history.add_incident("m", HistoryKind.ROLLOUT_FAILED, "it cannot be loaded", decision.candidate)
    assert registry.pending_decisions() == []
    again = registry.add_decision(replace(decision, id=None), of_run=True)
    assert [pending.id for pending in registry.pending_decisions()] == [again.id]


def test_an_overtaken_winner_is_to_be_judged_again_until_there_is_a_new_decision_on_it(registry):
    promote(registry, publish(registry))
    waiting = decided_by_a_run(registry, 1)
    assert registry.overtaken_decisions() == []
    promote(registry, publish(registry))
    assert (registry.pending_decisions(), registry.overtaken_decisions()) == ([], [waiting])
    registry.add_decision(gate(waiting.candidate, 3, Verdict.REJECT, sequence=2))
    assert registry.overtaken_decisions() == []
    assert registry.history.list("m")[0].what == HistoryKind.REFUSED


def test_of_several_overtaken_winners_each_is_judged_again_the_largest_gain_first(registry):
    promote(registry, publish(registry))
    waiting = [decided_by_a_run(registry, 1, gain=gain) for gain in (0.01, 0.03, 0.02)]
    promote(registry, publish(registry))
    assert [decision.id for decision in registry.overtaken_decisions()] == [waiting[1].id, waiting[2].id, waiting[0].id]
    promote(registry, publish(registry))
    assert len(registry.overtaken_decisions()) == 3


def test_what_was_overtaken_long_ago_is_not_judged_again(registry, url):
    promote(registry, publish(registry))
    decided_by_a_run(registry, 1)
    promote(registry, publish(registry))
    raw_sql(url, "UPDATE decisions SET created_at = '2020-01-01 00:00:00' WHERE id = 2")
    assert registry.overtaken_decisions() == []


def test_after_a_rollback_no_waiting_winner_is_judged_again(registry):
    promote(registry, publish(registry))
    promote(registry, publish(registry))
    decided_by_a_run(registry, 2)
    move(registry, DecisionKind.ROLLBACK, 1)
    assert (registry.pending_decisions(), registry.overtaken_decisions()) == ([], [])


def test_a_newer_no_on_the_same_version_ends_a_waiting_win(registry):
    promote(registry, publish(registry))
    waiting = decided_by_a_run(registry, 1)
    registry.add_decision(gate(waiting.candidate, 1, Verdict.INCONCLUSIVE, holdout="larger"))
    assert registry.pending_decisions() == []


def test_a_decision_that_no_run_made_waits_for_nobody(registry):
    """`python -m training judge` compares and stores; it must not move the champion."""
    promote(registry, publish(registry))
    run = registry.runs.create("m", {}, started=True)
    number = publish(registry, run_id=run.id)
    refused = registry.add_decision(gate(number, 1, Verdict.REJECT))
    registry.runs.finish(run.id, RunState.SUCCEEDED, version=number, decision_id=refused.id)
    registry.add_decision(gate(number, 1))
    assert registry.pending_decisions() == []
    again = registry.add_decision(gate(number, 1), of_run=True)
    assert registry.pending_decisions() == [again]
    assert registry.runs.get(run.id).decision_id == again.id


def test_a_winner_whose_roll_out_failed_is_not_tried_again(registry):
    decision = decided_by_a_run(registry, None)
    registry.history.add_incident("m", HistoryKind.ROLLOUT_FAILED, "a file is missing", decision.candidate)
    assert registry.pending_decisions() == []


def test_an_older_incident_of_the_same_number_holds_no_winner_back(registry):
    registry.history.add_incident("m", HistoryKind.ROLLOUT_FAILED, "there was no such version then", 1)
    decision = decided_by_a_run(registry, None)
    assert registry.pending_decisions() == [decision]


def test_the_newest_decisions_of_several_versions_are_those_of_each(registry):
    for _ in range(3):
        publish(registry)
    for version in (1, 2, 2):
        registry.add_decision(gate(version, None))
    found = registry.newest_gate_decisions("m", [1, 2, 3, 99])
    assert found == {version: registry.newest_gate_decision("m", version) for version in (1, 2)}
    assert registry.newest_gate_decisions("m", []) == {}


def test_two_versions_are_paired_on_the_holdout_that_both_saw_last(registry):
    for _ in range(3):
        publish(registry)
    for version, holdout in ((1, "a"), (2, "a"), (1, "b"), (2, "b"), (1, "c"), (3, "z")):
        registry.evaluations.add("m", version, holdout * 64, {"f1": 0.5}, STATISTICS)
    first, second = registry.evaluations.newest_pair("m", (1, 2))
    assert [(it.version, it.holdout_hash[0]) for it in (first, second)] == [(1, "b"), (2, "b")]
    assert [it.version for it in registry.evaluations.newest_pair("m", (2, 1))] == [2, 1]
    assert registry.evaluations.newest_pair("m", (1, 3))[1].holdout_hash == HOLDOUT
    assert registry.evaluations.newest_pair("m", (1, 99)) is None
    assert registry.evaluations.newest_pair("m", (1, 1))[0].holdout_hash[0] == "c"
