"""`baton apply` on a service under load: a model is added, one changed and one removed, and no request of another one fails."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from services.demo.traffic import Traffic, failed
from tests.cluster.conftest import CONTROL, LABELS, REPLICA, Service, baton, environment, publish, write_config
from tests.support.tiny import keyword_rows
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.cluster

WINDOW = 100
"""Requests of each model that must be answered between two steps."""


def model(name: str, base: Path, data: Path) -> dict[str, Any]:
    return {
        "name": name,
        "task": "classification",
        "base_model": str(base),
        "data": {"train": str(data / "small.jsonl"), "holdout": str(data / "holdout.jsonl")},
        "gate": {"min_f1": 0.02},
        "serving": {"poll_seconds": 1.0},
    }


def rewrite(service: Service, change: Callable[[dict[str, Any], dict[str, dict[str, Any]]], object]) -> None:
    """Change the file of a service, which goes on with what it was. ``change`` is given all of it, and its models by name."""
    content = yaml.safe_load(service.file.read_text())
    change(content, {settings["name"]: settings for settings in content["models"]})
    service.file.write_text(yaml.safe_dump(content))


IMPATIENT = """
import sys
from services.cli.__main__ import main
from services.host import serve_driver
serve_driver.REDEPLOY_SECONDS = 3.0
sys.argv[0] = "baton"
main()
"""
"""The command line, which does not wait long for replicas that find no room."""


@contextmanager
def dying(service: Service, name: str) -> Iterator[set[int]]:
    """Kill each replica of a model as soon as it is there. What is yielded grows: the processes that were killed."""
    killed: set[int] = set()
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for process in service.processes(REPLICA.format(name)):
                with suppress(psutil.Error):
                    process.kill()
                    killed.add(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.fixture
def two_models(tiny_base: Path, data: Path, tmp_path: Path) -> Iterator[Service]:
    """A service with the models ``sick`` and ``well``, which have no versions yet."""
    models = [model(name, tiny_base, data) for name in ("sick", "well")]
    service = Service(write_config(tmp_path / "service", free_port(), models))
    try:
        service.baton("up", "--detach")
        yield service
    finally:
        baton("down", "-c", service.file)
        service.close()


@pytest.fixture
def running(tiny_base: Path, data: Path, checkpoints: list[Path], tmp_path: Path) -> Iterator[Service]:
    """A service with a version of ``kept``, ``changed`` and ``gone`` each."""
    names = ("kept", "changed", "gone")
    service = Service(write_config(tmp_path / "service", free_port(), [model(name, tiny_base, data) for name in names]))
    try:
        service.baton("up", "--detach", RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="1")
        for name in names:
            publish(service, name, checkpoints[-1])
            service.force(name, 1)
            service.await_replicas(name, 1)
        yield service
    finally:
        baton("down", "-c", service.file)
        service.close()


def test_models_are_added_changed_and_removed_while_no_request_of_the_others_fails(
    running: Service, tiny_base: Path, data: Path
) -> None:
    service = running
    texts = [row["text"] for row in keyword_rows(100, LABELS, seed=5)]
    port = service.config.http.port

    def pids() -> dict[str, list[int]]:
        return {name: [state["pid"] for state in service.replicas(name)] for name in ("kept", "changed")}

    def declared() -> list[str]:
        return [it["name"] for it in service.http.get("/api/models").json()["items"]]

    before = pids()
    [control] = [process.pid for process in service.processes(CONTROL)]
    with ExitStack() as stack:
        traffic = [
            stack.enter_context(Traffic(f"{service.url}/models/{name}", texts, concurrency=2, pause=0.01)) for name in before
        ]

        def flows() -> None:
            seen = [len(it.exchanges) for it in traffic]
            until(
                lambda: all(len(it.exchanges) > count + WINDOW for it, count in zip(traffic, seen, strict=True)),
                60,
                "the traffic flows",
            )

        flows()
        # what only the control plane reads replaces nothing
        rewrite(service, lambda _, models: models["changed"]["gate"].update(min_f1=0.03))
        assert "(models changed: gate.min_f1): `baton apply`" in service.baton("status").stdout
        told = json.loads(service.baton("apply", "--yes", "--json").stdout)
        assert (told["applied"], [it["model"] for it in told["models"]]) == (True, ["changed"])
        assert [it["gate"]["min_f1"] for it in service.http.get("/api/config").json()["models"]] == [0.02, 0.03, 0.02]
        assert pids() == before
        flows()

        # replicas that find no room leave everything as it is
        rewrite(service, lambda _, models: models["changed"]["serving"].update(gpus=1.0))
        command = [sys.executable, "-c", IMPATIENT, "apply", "--yes", "-c", str(service.file)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "nothing was applied: they do not start within 3 s: replicas of changed" in done.stderr
        flows()
        assert pids() == before

        # what replicas read, another model, one less, and what needs a restart
        def change(content: dict[str, Any], models: dict[str, dict[str, Any]]) -> None:
            models["changed"]["serving"].update(gpus=0.0, max_inputs=3)
            content["models"] = [models["kept"], models["changed"], model("added", tiny_base, data)]
            content["http"]["port"] += 1

        rewrite(service, change)
        assert "Only a restart applies http.port" in service.baton("apply", "--yes").stdout
        flows()
    assert [failed(it.exchanges) for it in traffic] == [0, 0]

    assert service.config.http.port == port
    assert service.http.get("/models/changed/info").json()["max_client_batch_size"] == 3
    now = pids()
    assert (now["kept"], len(now["changed"])) == (before["kept"], 1)
    assert now["changed"] != before["changed"]
    assert [process.pid for process in service.processes(CONTROL)] == [control]
    assert declared() == ["kept", "changed", "added"]
    assert "has no champion yet" in service.predict("added").text
    until(lambda: service.predict("gone").status_code == 404, 60, "the removed model is gone")
    until(lambda: not service.processes(REPLICA.format("gone")), 60, "its replica is gone")

    # a control plane that is started again knows what was applied
    service.processes(CONTROL)[0].kill()
    until(lambda: service.model("added") != {}, 60, "the control plane is back")
    assert declared() == ["kept", "changed", "added"]


def test_a_model_whose_replicas_die_holds_up_no_change_of_others_and_its_own_change_ends_at_once(two_models: Service) -> None:
    service = two_models
    with dying(service, "sick") as killed:
        # a second replica is only started once Serve knows of the death of the first
        until(lambda: len(killed) > 1, 120, "the replicas of sick die")
        rewrite(service, lambda _, models: models["well"]["serving"].update(max_inputs=3))
        said = service.baton("apply", "--yes").stderr
        assert "sick is UNHEALTHY, which this does not change: " in said
        assert "waiting for replicas of sick" not in said
        assert service.http.get("/models/well/info").json()["max_client_batch_size"] == 3

        rewrite(service, lambda _, models: models["sick"]["serving"].update(replicas=2))
        done = baton("apply", "--yes", "-c", service.file)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "nothing was applied: they do not start, sick is UNHEALTHY: replicas of sick: " in done.stderr
        assert "well" not in done.stderr.partition("nothing was applied")[2]
