"""A service on a head and two worker nodes, with Redis for the head, an S3 store, and a database that all nodes reach."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.nodes.network import CPUS, HOST, Node, nodes
from benchmarks.service import BASE_MODEL, MODEL, holdout_of, read_rows, train_of
from services.client import Client

REDIS, S3, PORT = 16379, 15000, 8000
REPLICAS, EPOCHS = 4, 6
WAIT_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The nodes, and the service seen from the first worker node."""

    head: Node
    workers: Sequence[Node]
    home: Path
    data: Path
    client: Client

    @property
    def url(self) -> str:
        """Where the first worker node answers predictions. It is never killed."""
        return f"http://{self.workers[0].address}:{PORT}/models/{MODEL}"

    def start_head(self) -> None:
        """Start the head, or start it again: its state is in Redis. It has no CPUs for anything else, as on KubeRay."""
        self.head.start_ray("--head", "--port=6379", "--num-cpus=0", f"--dashboard-host={self.head.address}", "--no-monitor")

    def start_worker(self, node: Node) -> None:
        """Start a worker node, or start it again."""
        node.start_ray(f"--address={self.head.address}:6379", f"--num-cpus={CPUS}")

    def texts(self) -> list[str]:
        """Return texts of the holdout to predict."""
        return [row["text"] for row in read_rows(holdout_of(self.data))[:500]]

    def model(self) -> dict[str, Any]:
        """Return what the control plane says of the model."""
        found: dict[str, Any] = self.client.get(f"/api/models/{MODEL}")
        return found

    def await_serving(self, version: int) -> list[int]:
        """Wait until all `REPLICAS` live and serve ``version``, and return how many of them each worker node has."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = [len(node.processes(f"ray::ServeReplica:model-{MODEL}")) for node in self.workers]
            if sum(found) == REPLICAS:  # the control plane learns of a lost node late
                with contextlib.suppress(Exception):  # it is away
                    if [state["version"] for state in self.model()["replicas"]] == [version] * REPLICAS:
                        return found
            if time.monotonic() > deadline:
                raise RuntimeError(f"not {REPLICAS} replicas on v{version} after {WAIT_SECONDS:.0f} s")
            time.sleep(0.1)

    def start_run(self, *assignments: str) -> str:
        """Start a run and return its id."""
        return str(self.client.post(f"/api/models/{MODEL}/runs", {"set": list(assignments)})["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run as it is now."""
        found: dict[str, Any] = self.client.get(f"/api/runs/{run_id}")
        return found

    def await_run(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has succeeded. Raise if it has ended otherwise."""
        while (run := self.run(run_id))["state"] in ("queued", "running"):
            time.sleep(0.5)
        if run["state"] != "succeeded":
            raise RuntimeError(f"run {run_id} {run['state']}: {run['reason']}")
        return run

    def reports(self, run_id: str) -> list[dict[str, Any]]:
        """Return the reports of the training steps of a run that has ended."""
        lines = httpx.get(f"{self.client.url}/api/runs/{run_id}/events", timeout=60).text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        return [event for event in events if event.get("stage") == "training" and "step" in event]

    def weights_read(self, version: int) -> int:
        """Return how often the weights of a version were read from the store."""
        uri = self.client.get(f"/api/models/{MODEL}/versions/{version}")["uri"]
        path = uri.partition("://")[2]
        log = (self.home / "s3.log").read_text(encoding="utf-8", errors="replace")
        return len(re.findall(rf'"GET /{re.escape(path)}/[^ ]*\.safetensors', log))


@contextmanager
def cluster(home: Path, data: Path) -> Iterator[Cluster]:
    """Yield a running service, without a version."""
    variables = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{S3}",
        "HF_HUB_OFFLINE": "1",
    }
    with nodes(home, ["head", "one", "two"], {**variables, "RAY_REDIS_ADDRESS": f"{HOST}:{REDIS}"}) as (head, *workers):
        file = home / "baton.yaml"
        file.write_text(yaml.safe_dump(_configuration(home, data), sort_keys=False))
        url = f"http://{workers[0].address}:{PORT}"
        made = Cluster(head=head, workers=workers, home=home, data=data, client=Client(url))
        with _program(
            home / "redis.log", "redis-server", "--bind", HOST, "--port", str(REDIS), "--protected-mode", "no", "--save", ""
        ):
            command = (sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(S3))
            with _program(home / "s3.log", *command):
                _create_bucket()
                made.start_head()
                for node in workers:
                    made.start_worker(node)
                up = (sys.executable, "-P", "-m", "services.cli", "up", "-c", str(file))
                workers[0].run("env", f"RAY_ADDRESS={head.address}:6379", *up, timeout=600)
                yield made
                for node in (*workers, head):
                    node.kill()


def _configuration(home: Path, data: Path) -> dict[str, Any]:
    return {
        "http": {"host": "0.0.0.0", "port": PORT},
        "auth": {"required": False},  # in a network that ends at this machine
        "database": f"sqlite:///{home}/baton.db",
        "storage": "s3://baton/store",
        "models": [
            {
                "name": MODEL,
                "base_model": BASE_MODEL,
                "task": "classification",
                "data": {"train": str(train_of(data)), "holdout": str(holdout_of(data))},
                "training": {
                    "method": "fine_tune",
                    "epochs": EPOCHS,
                    "batch_size": 32,
                    "learning_rate": 2e-4,
                    "early_stopping": EPOCHS,
                },
                "gate": {"min_f1": 0.0},
                "serving": {"replicas": REPLICAS, "cpus": 1},  # as on KubeRay; without, the head would get some of them
            }
        ],
    }


@contextmanager
def _program(log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent) as process:
        try:
            yield
        finally:
            process.kill()


def _create_bucket() -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.HTTPError):
            httpx.put(f"http://{HOST}:{S3}/baton").raise_for_status()
            return
        if time.monotonic() > deadline:
            raise RuntimeError("moto's server does not answer")
        time.sleep(0.1)
