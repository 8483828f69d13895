"""Two control planes on one database: each looks after what is its own, and takes over what nobody looks after any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.errors import Conflict, RegistryError
from baton.store.feedback.correction import Correction
from baton.store.records import Decision, RunState
from services.control.ownership import RENEW_SECONDS
from services.control.silence import LONGEST_LOOK_SECONDS, SILENCE_SECONDS
from tests.support.local_control import LocalControl, configured, control_of, decide, loops_of, publish
from tests.support.stores import Postgres

OVER = -1.0
"""A lease for this many seconds has ended when it is taken."""


class Clock:
    """Passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Planes:
    """The control planes of the clusters ``old`` and ``new`` with model ``m``. ``old`` was there first."""

    def __init__(self, directory: Path, database: str) -> None:
        raw = configured(directory, "m").model_dump(mode="json") | {"database": database}
        raw["models"][0]["retrain"] = {"after_examples": 1, "cooldown_minutes": 0}
        self.config = type(configured(directory, "m")).model_validate(raw)
        self.clock = Clock()
        self.old, self.new = self.plane("old"), self.plane("new")
        self.registry = self.old.registry
        assert self.old.ownership.models() == {"m"}

    def plane(self, cluster: str) -> LocalControl:
        return control_of(self.config, cluster, self.clock)

    def look(self, *planes: LocalControl, seconds: float = 0.0) -> None:
        """Let the planes look after the runs again and again, for so long."""
        looks = int(seconds / LONGEST_LOOK_SECONDS) + 1
        for _ in range(looks):
            for plane in planes:
                for run in plane.jobs.active_runs():
                    plane.jobs.look_after(run)
            self.clock.seconds += LONGEST_LOOK_SECONDS

    def lose(self, plane: LocalControl) -> None:
        """A control plane is gone: its leases have run out."""
        cluster = plane.ownership.cluster
        self.registry.leases.acquire(["model m", f"cluster {cluster}"], cluster, OVER)
        self.clock.seconds += RENEW_SECONDS

    def close(self) -> None:
        for plane in (self.old, self.new):
            plane.registry.close()


@pytest.fixture
def planes(tmp_path: Path, either_url: str) -> Iterator[Planes]:
    """On both databases."""
    planes = Planes(tmp_path, either_url)
    yield planes
    planes.close()


def look_for_work(plane: LocalControl) -> None:
    """Let the background loops look once for roll-outs and for runs to start, and wait for what they begin."""

    async def look() -> None:
        loops = loops_of(plane)
        await loops._start_roll_outs()
        await asyncio.gather(*loops._moving.values())
        await loops._check_triggers()

    asyncio.run(look())


def won(planes: Planes, right: int) -> Decision:
    """A version of a finished run that the gate would promote, and that waits for its roll-out."""
    run = planes.registry.runs.create("m", {}, started=True)
    version = publish(planes.registry, "m", right, run.id)
    decision = decide(planes.registry, "m", version.number)
    planes.registry.runs.finish(run.id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    return decision


def correct(planes: Planes) -> None:
    correction = Correction(client_id="c", request_id=None, position=0, example={"text": "new", "label": "a"})
    planes.registry.feedback.add("m", [correction])


# --- runs ----------------------------------------------------------------------------------------------------------------


def test_a_queued_run_is_submitted_by_the_cluster_that_queued_it_and_by_no_other(planes):
    """The other one submitted it as well, and ended the record when its own driver was refused (review H13)."""
    run = asyncio.run(planes.old.start_run("m", [], None))
    assert run.owner == "old"
    planes.look(planes.new, planes.old, seconds=10 * SILENCE_SECONDS)  # it waits for resources, say
    assert (planes.old.jobs.submitted, planes.new.jobs.submitted) == ([run.id], [])
    planes.registry.runs.start(run.id)
    planes.look(planes.new, planes.old)
    assert planes.registry.runs.get(run.id).state is RunState.RUNNING


def test_a_request_repeated_at_the_other_cluster_gets_the_run_and_submits_nothing(planes):
    run = asyncio.run(planes.old.start_run("m", [], "monday"))
    assert asyncio.run(planes.new.start_run("m", [], "monday")) == run
    assert planes.new.jobs.submitted == []


def test_a_run_whose_submission_was_lost_is_submitted_by_the_control_plane_that_comes_back(planes):
    run = planes.registry.runs.create("m", {}, owner="old")
    again = planes.plane("old")
    planes.look(planes.new, again)
    assert (again.jobs.submitted, planes.new.jobs.submitted) == ([run.id], [])
    again.registry.close()


def test_a_run_outlives_its_control_plane_as_long_as_its_driver_gives_signs_of_life(planes):
    run = asyncio.run(planes.old.start_run("m", [], None))
    planes.registry.runs.start(run.id)
    checkpoint = Path(planes.config.storage) / "runs" / run.id / "checkpoint"
    checkpoint.mkdir(parents=True)
    planes.lose(planes.old)
    for _ in range(4):
        planes.look(planes.new, seconds=SILENCE_SECONDS / 2)
        planes.registry.runs.beat(run.id)
    assert planes.registry.runs.get(run.id).state is RunState.RUNNING
    planes.look(planes.new, seconds=SILENCE_SECONDS + LONGEST_LOOK_SECONDS)
    ended = planes.registry.runs.get(run.id)
    assert ended.state is RunState.FAILED
    assert ended.reason == (
        "its Ray cluster (old) is gone: for 30 s no control plane was there, and its driver sent no heartbeat"
    )
    assert not checkpoint.exists()


def test_a_queued_run_of_a_cluster_that_is_gone_ends_and_another_can_start(planes):
    run = asyncio.run(planes.old.start_run("m", [], None))
    planes.lose(planes.old)
    planes.look(planes.new, seconds=SILENCE_SECONDS - LONGEST_LOOK_SECONDS)
    assert planes.registry.runs.get(run.id).state is RunState.QUEUED
    planes.look(planes.new, seconds=SILENCE_SECONDS)
    assert planes.registry.runs.get(run.id).reason == (
        "its Ray cluster (old) is gone: for 30 s no control plane was there, and nobody was there to start it"
    )
    assert planes.new.jobs.submitted == []
    assert asyncio.run(planes.new.start_run("m", [], None)).owner == "new"


def test_a_run_can_be_cancelled_at_either_cluster(planes):
    run = asyncio.run(planes.old.start_run("m", [], None))
    planes.registry.runs.start(run.id)
    assert asyncio.run(planes.new.cancel_run(run.id)).state is RunState.CANCELLED
    with pytest.raises(Conflict, match="is cancelled"):
        planes.registry.runs.beat(run.id)  # which makes its driver stop


# --- silence -------------------------------------------------------------------------------------------------------------


def test_a_run_by_hand_whose_driver_is_gone_ends(planes):
    run = planes.registry.runs.create("m", {}, started=True)
    planes.look(planes.old, planes.new, seconds=SILENCE_SECONDS - LONGEST_LOOK_SECONDS)
    assert planes.registry.runs.get(run.id).state is RunState.RUNNING
    planes.look(planes.old, planes.new, seconds=SILENCE_SECONDS)
    assert planes.registry.runs.get(run.id).reason == "its driver sent no heartbeat for 30 s"


def test_a_heartbeat_counts_whatever_the_clock_of_its_machine_says(planes, monkeypatch):
    """The age of a heartbeat was that of another machine's clock."""
    from baton.store import run_store

    class Slow(run_store.datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def]
            return super().now(tz).replace(year=2020)

    monkeypatch.setattr(run_store, "datetime", Slow)
    run = planes.registry.runs.create("m", {}, started=True)
    for _ in range(4):
        planes.look(planes.new, seconds=SILENCE_SECONDS / 2)
        planes.registry.runs.beat(run.id)
    assert planes.registry.runs.get(run.id).state is RunState.RUNNING


def test_the_time_of_an_outage_is_no_silence(stoppable_postgres: Postgres, tmp_path: Path):
    """A run by hand was declared dead at the first look after an outage of half a minute (review M7)."""
    planes = Planes(tmp_path, stoppable_postgres.url(stoppable_postgres.create()))
    run = planes.registry.runs.create("m", {}, started=True)
    planes.look(planes.new)
    stoppable_postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(RegistryError):
                planes.look(planes.new)
            planes.clock.seconds += SILENCE_SECONDS
    finally:
        stoppable_postgres.start()
    planes.look(planes.new, seconds=LONGEST_LOOK_SECONDS)
    assert planes.registry.runs.get(run.id).state is RunState.RUNNING
    planes.registry.runs.beat(run.id)
    planes.look(planes.new, seconds=SILENCE_SECONDS - LONGEST_LOOK_SECONDS)
    assert planes.registry.runs.get(run.id).state is RunState.RUNNING
    planes.close()


# --- roll-outs and retraining --------------------------------------------------------------------------------------------


def test_one_cluster_rolls_out_and_retrains_a_model_and_the_other_takes_over_when_it_is_gone(planes):
    decision = won(planes, 60)
    correct(planes)
    look_for_work(planes.new)
    assert planes.registry.champion("m").version is None
    assert planes.registry.runs.list("m", active=True) == []
    planes.lose(planes.old)
    look_for_work(planes.new)
    assert planes.registry.champion("m").version == decision.candidate
    assert planes.new.replicas.serving == {"m": decision.candidate}
    [run] = planes.registry.runs.list("m", active=True)
    assert run.owner == "new"
    planes.clock.seconds += RENEW_SECONDS
    assert planes.old.ownership.models() == set()  # it was late: the model is not its own any more


def test_a_cluster_that_was_stopped_leaves_its_models_to_the_other_one_at_the_next_renewal(planes):
    assert planes.new.ownership.models() == set()
    planes.registry.leases.release("old")
    assert planes.new.ownership.models() == set()
    planes.clock.seconds += RENEW_SECONDS
    assert planes.new.ownership.models() == {"m"}


def test_a_control_plane_that_comes_back_goes_on_with_its_models_at_once(planes):
    again = planes.plane("old")
    assert again.ownership.models() == {"m"}
    again.registry.close()


def test_clusters_with_different_models_do_not_stand_in_each_others_way(planes, tmp_path):
    other = configured(tmp_path, "other").model_copy(update={"database": planes.config.database})
    plane = control_of(other, "new", planes.clock)
    assert plane.ownership.models() == {"other"}
    assert planes.old.ownership.models() == {"m"}
    plane.registry.close()


def test_people_can_move_the_champion_at_either_cluster(planes):
    first, second = (publish(planes.registry, "m", right) for right in (60, 70))
    asyncio.run(planes.new.promote("m", first.number, force=True, reason="a test wants it"))
    asyncio.run(planes.old.promote("m", second.number, force=True, reason="a test wants it"))
    asyncio.run(planes.new.rollouts.rollback("m", None, "a test wants it"))
    assert planes.registry.champion("m").version == first.number
