"""`baton up` and `baton down`: twice, on a busy port, after a crash, with Ctrl-C, and on somebody else's cluster."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from baton.keys import Scope
from baton.store.records import RunState
from services.host import cluster, processes
from services.host.instance import StateDirectory
from tests.cluster.conftest import BATON, Service, baton, environment, marked, write_config
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.cluster


@pytest.fixture
def small(tiny_base: Path, data: Path, tmp_path: Path) -> Iterator[Service]:
    """A minimal service that does not run yet; whatever a test leaves behind is removed."""
    model = {
        "name": "small",
        "task": "classification",
        "base_model": str(tiny_base),
        "data": {"train": str(data / "small.jsonl"), "holdout": str(data / "holdout.jsonl")},
    }
    service = Service(write_config(tmp_path / "small", free_port(), [model]))
    yield service
    baton("down", "-c", service.file)
    service.close()


def test_up_stops_at_a_busy_port_and_names_who_holds_it(service: Service, tmp_path: Path) -> None:
    config = yaml.safe_load(service.file.read_text())
    done = baton("up", "-c", write_config(tmp_path, service.config.http.port, config["models"]))
    assert done.returncode == 1
    assert f"port {service.config.http.port} is taken by haproxy (pid " in done.stderr
    assert "choose another port with http.port or BATON_HTTP_PORT" in done.stderr


def test_up_runs_once_clears_up_after_a_crash_and_stops_without_a_trace_at_ctrl_c(small: Service, tmp_path: Path) -> None:
    command = [str(BATON), "up", "--detach", "-c", str(small.file)]
    options = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in "ab"]  # at the same moment
    said = [process.communicate(timeout=900) for process in both]
    [(winner, _), (_, loser)] = sorted(said, key=lambda it: f"ready at {small.url}" not in it[0])
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert f"ready at {small.url}" in winner
    assert "another `baton up` is using " in loser or f"already running at {small.url}" in loser, loser
    assert small.http.get("/readyz").status_code == 200
    crashed = small.instance

    again = baton("up", "--detach", "-c", small.file)
    assert again.returncode == 1
    assert f"already running at {small.url} (pid {crashed.pid}); `baton down` stops it" in again.stderr

    supervisor = psutil.Process(crashed.pid)
    supervisor.kill()
    psutil.wait_procs([supervisor], timeout=10)
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        command = [str(BATON), "up", "-c", str(small.file)]
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output, start_new_session=True)
        try:
            until(lambda: "ready at" in log.read_text() or process.poll() is not None, 240, "ready in the foreground")
            assert process.poll() is None, log.read_text()
            assert "leftover process(es) of an instance that crashed" in log.read_text()
            assert marked(crashed.id) == []
            running = small.instance
            assert running.id != crashed.id
            assert len(marked(running.id)) > 5
            session = Path(running.directory, "ray", "session_latest").resolve().name
            run_id = small.registry.runs.create("small", {}, started=True, owner=session).id
            checkpoint = Path(small.storage.runs_path) / run_id / "checkpoint"
            checkpoint.mkdir(parents=True)
            os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
            status = process.wait(240)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert status == 0, log.read_text()
    run = small.registry.runs.get(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "the service was stopped")
    assert not checkpoint.parent.exists()
    assert marked(running.id) == []
    assert not Path(running.directory).exists()
    assert baton("down", "-c", small.file).stdout.strip() == "nothing is running"


def test_up_joins_the_cluster_of_ray_address_which_apply_changes_and_down_leaves_as_it_was(
    small: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = cluster.plan(small.url, reserved=small.config.http.port)
    shell = {**cluster.environment(instance), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
    for key, value in shell.items():
        monkeypatch.setenv(key, value)
    try:
        address = cluster.start(instance, tmp_path / "ray.log")
        started = baton("up", "-c", small.file, RAY_ADDRESS=address, **shell)
        assert started.returncode == 0, started.stderr
        assert small.http.get("/readyz").json() == {"status": "ready"}
        assert "API keys are required, and there is no valid one" in started.stderr  # the cluster may listen anywhere
        assert small.http.get("/api/models/small").status_code == 401
        _, token = small.registry.keys.create("test", [Scope.OPERATE])
        small.http.headers["authorization"] = f"Bearer {token}"
        until(lambda: small.http.get("/api/models/small").status_code == 200, 30, "the new key is known")
        [replica] = small.http.get("/api/models/small").json()["replicas"]

        content = yaml.safe_load(small.file.read_text())
        content["models"][0]["gate"] = {"min_f1": 0.6}
        small.file.write_text(yaml.safe_dump(content))
        applied = baton("apply", "--yes", "-c", small.file, RAY_ADDRESS=address, BATON_KEY=token, **shell)
        assert applied.returncode == 0, applied.stderr
        assert small.http.get("/api/config").json()["models"][0]["gate"]["min_f1"] == 0.6
        assert [state["pid"] for state in small.http.get("/api/models/small").json()["replicas"]] == [replica["pid"]]

        stopped = baton("down", "-c", small.file, RAY_ADDRESS=address, **shell)
        assert stopped.returncode == 0, stopped.stderr
        assert f"removed Baton's applications from {address}" in stopped.stdout
        names = [" ".join(process.cmdline()) for process in processes.find(instance.id)]
        assert [name for name in names if "ServeReplica" in name] == []
        assert [name for name in names if "gcs_server" in name] != []
    finally:
        processes.stop_all(instance)
    assert marked(instance.id) == []


def test_a_demo_that_is_terminated_leaves_nothing_running(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BATON), "demo"], env=environment({"TMPDIR": str(tmp_path)}), stdout=output, stderr=output
        )
        try:
            until(lambda: "Step 1" in log.read_text() or process.poll() is not None, 240, "the demo's first step")
            assert process.poll() is None, log.read_text()
            [home] = tmp_path.glob("baton-demo-*")
            instance = StateDirectory(home / ".baton").read()
            assert instance is not None
            assert marked(instance.id) != []
            process.terminate()
            assert process.wait(480) != 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
                baton("down", "-c", home / "baton.yaml")
    assert marked(instance.id) == [], log.read_text()
    assert f"are kept in {home}" in log.read_text()
