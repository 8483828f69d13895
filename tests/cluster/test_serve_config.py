"""A rendered Serve config on a Ray cluster, handed in as KubeRay does: the service sets itself up, learns and answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.environment import STORE_VARIABLES
from services.host import cluster, processes
from services.host.instance import Instance
from tests.cluster.conftest import Service, baton, environment
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.cluster

SERVE = Path(sys.executable).with_name("serve")


@dataclass(frozen=True)
class Cluster:
    """A cluster of one node that somebody else started, for a service whose file is on another machine."""

    service: Service
    shell: dict[str, str]
    instance: Instance

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.instance.ports['dashboard']}"

    def deploy(self) -> None:
        """`baton render | serve deploy`, again and again until Ray takes it: so does KubeRay's operator."""
        rendered = baton("render", "-c", self.service.file)
        assert rendered.returncode == 0, rendered.stderr
        file = self.service.file.with_name("serve.yaml")
        file.write_text(rendered.stdout)
        command = [str(SERVE), "deploy", "--address", self.dashboard, str(file)]

        def taken() -> bool:
            done = subprocess.run(
                command, env=environment(self.shell), capture_output=True, text=True, timeout=900, check=False
            )
            sys.stderr.write(done.stdout + done.stderr)
            return done.returncode == 0

        until(taken, 240, "Ray takes the config")

    def ray_says(self, path: str) -> str:
        """What Ray's dashboard answers to whoever may ask."""
        token = Path(self.shell["RAY_AUTH_TOKEN_PATH"]).read_text()
        return (
            httpx.get(self.dashboard + path, headers={"Authorization": f"Bearer {token}"}, timeout=30).raise_for_status().text
        )


def model(name: str, base: Path, data: Path) -> dict[str, Any]:
    return {
        "name": name,
        "task": "classification",
        "base_model": str(base),
        "data": {"train": str(data / "large.jsonl"), "holdout": str(data / "holdout.jsonl")},
        "training": {"method": "fine_tune", "epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "validation": 0.1},
        "gate": {"min_f1": 0.02},
    }


@pytest.fixture
def pods(tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A running cluster that knows database and storage, both empty, from its environment, and no application yet."""
    file = tmp_path / "baton.yaml"
    content = {
        "database": f"sqlite:///{tmp_path}/kept-from-ray.db",
        "storage": str(tmp_path / "storage"),
        "http": {"port": free_port()},
        "auth": {"required": False},  # a rendered config listens on all addresses, and would ask for keys
        "models": [model("first", tiny_base, data)],
    }
    file.write_text(yaml.safe_dump(content))
    service = Service(file)
    instance = cluster.plan(service.url, reserved=service.config.http.port)
    stores = {variable: content[key] for key, variable in STORE_VARIABLES.items()}
    shell = {**cluster.environment(instance), **stores, "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
    for key, value in shell.items():
        monkeypatch.setenv(key, value)
    try:
        cluster.start(instance, tmp_path / "ray.log")
        yield Cluster(service, shell, instance)
    finally:
        processes.stop_all(instance)
        service.close()


def ready(service: Service, *models: str) -> bool:
    """Whether the control plane and every one of ``models`` answer."""
    try:
        known = [service.http.get(f"/models/{name}/info").json().get("model") for name in models]
        return service.http.get("/readyz").status_code == 200 and known == list(models)
    except (httpx.TransportError, ValueError):
        return False


def test_a_rendered_config_migrates_trains_promotes_answers_and_takes_up_another_model_in_place(
    pods: Cluster, tiny_base: Path, data: Path
) -> None:
    service = pods.service
    pods.deploy()
    until(lambda: ready(service, "first"), 180, "the service on a database that nobody had migrated")

    run = service.await_run(service.start_run("first"))
    assert run.state == "succeeded", run.reason
    service.await_replicas("first", 1)
    answer = service.predict("first")
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1"), answer.text

    for path in ("/api/jobs/", "/api/serve/applications/"):
        told = pods.ray_says(path)
        assert "first" in told or run.id in told
        assert "kept-from-ray" not in told, path

    (replica,) = service.replicas("first")
    content = yaml.safe_load(service.file.read_text())
    content["models"].append(model("second", tiny_base, data))
    service.file.write_text(yaml.safe_dump(content))
    pods.deploy()
    until(lambda: ready(service, "first", "second"), 180, "the second model")
    until(lambda: "second" in service.registry.declared(), 60, "the second model's declaration")
    assert [one["name"] for one in service.http.get("/api/models").json()["items"]] == ["first", "second"]
    assert [one["pid"] for one in service.replicas("first")] == [replica["pid"]], "the first model's replica was left alone"
    answer = service.predict("first")
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1"), answer.text
