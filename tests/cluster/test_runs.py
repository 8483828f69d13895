"""Runs that are killed, cancelled, started twice, made to wait, or fed with bad data."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from baton.store.records import RunState
from tests.cluster.conftest import WORKER, Service, baton, write_rows
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

SLOW = ("training.batch_size=1", "training.epochs=3")
"""Epochs of some seconds, for tests that have to catch a run at work."""


def test_a_killed_worker_goes_on_from_its_last_epoch(runs: Service) -> None:
    run_id = runs.start_run("runs", *SLOW)
    runs.await_training(run_id, epoch=1.0)
    noted = Path(runs.storage.runs_path) / run_id / "checkpoint_manager_snapshot.json"
    until(lambda: noted.is_file() and "checkpoint_" in noted.read_text(), 30, "Ray Train has noted the first checkpoint")
    [worker] = runs.processes(WORKER)
    # Its threads must not spin where others need the processor. Not `worker.environ()`: Ray's titles tear gaps into it.
    assert b"OMP_WAIT_POLICY=PASSIVE\0" in Path(f"/proc/{worker.pid}/environ").read_bytes()
    worker.kill()
    run = runs.await_run(run_id)
    assert run.state is RunState.SUCCEEDED, run.reason
    reports = [event for event in runs.events(run_id) if event.get("stage") == "training" and "step" in event]
    epoch = reports[-1]["steps"] // reports[-1]["epochs"]
    [resumed] = [after["step"] for before, after in pairwise(reports) if after["step"] < before["step"]]
    assert resumed in (epoch, 2 * epoch)
    assert reports[-1]["step"] == reports[-1]["steps"]


def test_a_run_without_its_driver_fails_disturbs_nobody_and_the_next_is_refused_for_more_workers_than_processors(
    runs: Service,
) -> None:
    run_id = runs.start_run("runs", *SLOW)
    runs.await_training(run_id, epoch=0.0)
    [driver] = runs.drivers(run_id)
    driver.kill()
    run = runs.await_run(run_id)
    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert run.reason.startswith("its driver ended without a result: ")
    assert runs.predict("runs").headers["x-model-version"] == "1"
    newest = runs.http.get("/api/models/runs/history").json()["items"][0]
    assert newest["what"] == "run failed"
    assert run.reason in newest["text"]
    until(lambda: not runs.processes(WORKER), 30, "the training process goes with its driver")
    run = runs.await_run(runs.start_run("runs", "training.workers=999", "training.batch_size=999"))
    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert run.reason.startswith("training.workers is 999, but the cluster has ")


def test_whatever_finds_no_place_says_what_it_waits_for_and_takes_it_when_it_is_free(runs: Service) -> None:
    first = runs.start_run("runs", "training.batch_size=1", "training.epochs=1000", "training.early_stopping=1000")
    runs.await_training(first, epoch=0.0)
    [worker] = runs.processes(WORKER)
    worker.suspend()  # it keeps its place all the same, and leaves the processors to those that shall wait for it
    waiting = {
        "run": runs.start_run("loop", "training.epochs=1"),
        "search": runs.start_run("steady", "training.search={trials: 2, space: {seed: [1, 2]}}"),
        "folds": runs.start_run("online", "training.folds=2", "training.validation=null", "training.epochs=1"),
    }
    try:
        for what, run_id in waiting.items():

            def says(run_id: str = run_id) -> str | None:
                return runs.registry.runs.get(run_id).progress.get("waiting")

            said = until(says, 120, f"what the {what} waits for")
            assert re.fullmatch(r"waiting for \d workers? with \d+ CPUs?; 0 of \d+ CPUs are free", said), what
    finally:
        worker.resume()
    runs.registry.runs.finish(waiting["run"], RunState.CANCELLED, reason="Ray's job server does not answer")
    until(lambda: not runs.drivers(waiting["run"]), 30, "a driver that waits hears of it, although nobody stops its job")
    for run_id in (waiting["search"], first):
        assert runs.http.post(f"/api/runs/{run_id}/cancel").status_code == 200
    assert runs.await_run(waiting["folds"]).state is RunState.SUCCEEDED


def test_cancel_ends_a_run_at_once_and_leaves_neither_process_nor_version(runs: Service) -> None:
    before = [version.number for version in runs.registry.versions.list("runs")]
    run_id = runs.start_run("runs", *SLOW)
    runs.await_training(run_id, epoch=0.0)
    done = runs.baton("cancel", run_id)
    assert done.stdout.strip() == f"run {run_id} is cancelled"
    run = runs.registry.runs.get(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "cancelled")
    until(lambda: not runs.drivers(run_id) and not runs.processes(WORKER), 30, "driver and training process are gone")
    assert [version.number for version in runs.registry.versions.list("runs")] == before
    assert runs.registry.runs.get(run_id).state is RunState.CANCELLED
    again = runs.http.post(f"/api/runs/{run_id}/cancel")
    assert (again.status_code, again.json()["detail"]) == (409, f"run {run_id} is over: cancelled")


def test_one_run_at_a_time_and_one_run_a_key(runs: Service) -> None:
    def post(key: str | None = None) -> tuple[int, dict]:
        headers = {"Idempotency-Key": key} if key else {}
        answer = runs.http.post("/api/models/runs/runs", json={}, headers=headers)
        return answer.status_code, answer.json()

    status, first = post("monday")
    assert status == 202
    assert post("monday")[1]["id"] == first["id"]
    for key in (None, "tuesday"):
        status, problem = post(key)
        assert status == 409
        assert problem["detail"].startswith(f"runs: run {first['id']} is active; wait for it or cancel it")
    runs.http.post(f"/api/runs/{first['id']}/cancel")
    status, last = post("monday")
    assert (status, last["id"], last["state"]) == (202, first["id"], "cancelled")


def test_bad_data_fails_the_run_with_every_broken_row_and_exit_status_1(runs: Service, tmp_path: Path) -> None:
    rows = [{"text": "fine", "label": "bug"}, {"txt": "no text", "label": "bug"}, {"text": "", "label": "bug"}]
    broken = write_rows(tmp_path / "broken.jsonl", rows)
    done = baton("train", "runs", "--wait", "-c", runs.file, "--set", f"data.train={broken}")
    assert done.returncode == 1
    run = runs.registry.runs.list("runs", limit=1)[0]
    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert "2 rows cannot be used" in run.reason
    assert f"{broken} line 2: field 'text' is missing; the row has 'txt', 'label'; did you mean 'txt'?" in run.reason
    assert f"{broken} line 3, field 'text': '': text is empty" in run.reason
    assert " ".join(run.reason.split()) in " ".join(done.stdout.split())


def test_an_unknown_base_model_fails_the_run_with_what_can_be_done(runs: Service) -> None:
    done = baton("train", "runs", "--wait", "-c", runs.file, "--set", "base_model=nobody/knows-this")
    assert done.returncode == 1
    run = runs.registry.runs.list("runs", limit=1)[0]
    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert run.reason.startswith("model 'nobody/knows-this' is neither a directory nor in the local cache")
    assert " ".join(run.reason.split()) in " ".join(done.stdout.split())
    assert runs.predict("runs").status_code == 200
