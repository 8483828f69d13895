"""One real service for the whole session: Ray, HAProxy, replicas and jobs on loopback, and what the tests ask of it.

Nothing here sleeps for a fixed time: `until` polls a condition up to a deadline.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig, load_config
from baton.config.model_settings import ModelSettings
from baton.store.records import ModelVersion, Run
from baton.store.registry import Registry
from baton.tasks import TASKS, task_type
from services.host import processes
from services.host.instance import Instance, StateDirectory
from tests.support.audit import fix_secret
from tests.support.tiny import keyword_rows, save_classifier
from tests.support.waiting import free_port, until

LABELS = ("account", "billing", "bug", "cancel", "feature", "shipping")
TEXT = "hello, my invoice from last week is what i write about: quiet window."
BATON = Path(sys.executable).with_name("baton")
REPLICA = "ray::ServeReplica:model-{}:Model"
CONTROL = "ray::ServeReplica:control:Control"
WORKER = "RayTrainWorker"
TRAINING = {
    "method": "fine_tune",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "early_stopping": 10,
    "validation": 0.1,
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a person's shell would hand to `baton`: nothing of Ray, Baton or OpenMP unless ``extra`` says so."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "BATON_", "OMP_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "COLUMNS": "240", **(extra or {})}


def baton(*arguments: str | Path, timeout: float = 900, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end. stdout and stderr are captured apart."""
    command = [str(BATON), *map(str, arguments)]
    return subprocess.run(command, env=environment(extra), capture_output=True, text=True, timeout=timeout, check=False)


def marked(instance_id: str) -> list[str]:
    """Command lines of all live processes with the instance's mark."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and f"BATON_INSTANCE={instance_id}".encode() in (directory / "environ").read_bytes():
                found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # ended between our two looks
            continue
    return found


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(directory: Path, port: int, models: Sequence[Mapping[str, Any]], **others: Any) -> Path:
    """A baton.yaml with these models and ``others`` of its keys, and everything else of the service next to it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "baton.yaml"
    path.write_text(yaml.safe_dump({"http": {"host": "127.0.0.1", "port": port}, "models": list(models), **others}))
    if all(model["task"] in TASKS for model in models):
        know_the_audit(path)
    return path


def know_the_audit(file: Path) -> None:
    """Make the database, with an audit that draws the same texts each time."""
    database = load_config(file, {}).database
    registry = Registry(database)
    registry.migrate()
    registry.close()
    fix_secret(database)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell the tests that share one service from those that start clusters of their own, so that both may run at once.

    Their timeout allows for a busy machine.
    """
    for item in items:
        if (Path(__file__).parent in item.path.parents) != (item.get_closest_marker("cluster") is not None):
            raise pytest.UsageError(f"{item.nodeid}: tests are marked cluster in tests/cluster, and nowhere else")
        if item.get_closest_marker("cluster") is None:
            continue
        item.add_marker(pytest.mark.timeout(1800))
        if "service" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.own_cluster)


@dataclass(frozen=True)
class Service:
    """A service that runs from ``file``, seen through HTTP, the command line, its registry and its processes."""

    file: Path

    @cached_property
    def config(self) -> BatonConfig:
        return load_config(self.file, {})

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.config.database)

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.config.storage)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.http.port}"

    @property
    def instance(self) -> Instance:
        instance = StateDirectory(self.file.parent / ".baton").read()
        assert instance is not None
        return instance

    def close(self) -> None:
        self.http.close()
        self.registry.close()

    def settings(self, model: str) -> ModelSettings:
        return self.config.model(model)

    # --- command line ------------------------------------------------------------------------------------------------

    def baton(self, *arguments: str | Path, timeout: float = 900, **extra: str) -> subprocess.CompletedProcess[str]:
        """A command that must succeed, on this service."""
        done = baton(*arguments, "-c", self.file, timeout=timeout, **extra)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def predict(self, model: str, text: str = TEXT) -> httpx.Response:
        return self.http.post(f"/models/{model}", json={"inputs": text})

    def model(self, model: str) -> dict[str, Any]:
        """What the control plane says of a model; empty while it does not answer."""
        try:
            answer = self.http.get(f"/api/models/{model}")
        except httpx.TransportError:
            return {}
        return answer.json() if answer.status_code == 200 else {}

    def replicas(self, model: str) -> list[dict[str, Any]]:
        return self.model(model).get("replicas", [])

    def promote(self, model: str, version: int, **body: Any) -> httpx.Response:
        return self.http.post(f"/api/models/{model}/promotions", json={"version": version, **body})

    def force(self, model: str, version: int) -> None:
        """``version`` in service, whatever the gate thinks; nothing happens when it is there already."""
        if self.registry.champion(model).version != version:
            answer = self.promote(model, version, force=True, reason="set up by a test")
            assert answer.status_code == 200, answer.text

    def rollback(self, model: str) -> httpx.Response:
        return self.http.post(f"/api/models/{model}/rollback", json={"reason": "a test wants it"})

    def await_replicas(self, model: str, version: int, *, timeout: float = 60, without: int | None = None) -> None:
        """Until all wanted replicas serve ``version``, and none of them is the process ``without``."""
        wanted = self.settings(model).serving.replicas

        def settled() -> bool:
            found = self.replicas(model)
            right = [state["version"] for state in found] == [version] * wanted
            return right and without not in [state["pid"] for state in found]

        until(settled, timeout, f"{wanted} replicas of {model} on v{version}: {self.replicas(model)}")

    # --- runs --------------------------------------------------------------------------------------------------------

    def start_run(self, model: str, *assignments: str) -> str:
        answer = self.http.post(f"/api/models/{model}/runs", json={"set": assignments})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def await_run(self, run_id: str, *, timeout: float = 240) -> Run:
        """The run, once it is over."""
        until(lambda: self.registry.runs.get(run_id).state.final, timeout, f"the end of run {run_id}", self.activity)
        return self.registry.runs.get(run_id)

    def activity(self) -> str:
        """Active runs, and the processes of the service with their CPU time: for the message of a test that waited in vain."""
        runs = [f"{run.id}: {run.state}, {run.stage}, {run.progress}" for run in self.registry.runs.list(active=True)]
        found = []
        for process in processes.find(self.instance.id):
            try:
                found.append(f"{process.pid} {process.status()} {sum(process.cpu_times()[:2]):.0f} s {process.cmdline()}"[:160])
            except psutil.Error:
                continue
        return "\n".join(["active runs:", *runs, "processes:", *found])

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Everything that a finished run reported, as its event stream tells it."""
        lines = self.http.get(f"/api/runs/{run_id}/events").text.splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    def drivers(self, run_id: str) -> list[psutil.Process]:
        """The process that drives a run; not the shell around it."""
        return [process for process in self.processes(f"-m training run {run_id}") if process.name().startswith("python")]

    def await_training(self, run_id: str, epoch: float, *, timeout: float = 240) -> None:
        """Until a run has trained past ``epoch``."""

        def there() -> bool:
            run = self.registry.runs.get(run_id)
            assert not run.state.final, f"{run.state}: {run.reason}"
            return run.stage == "training" and run.progress.get("epoch", -1.0) > epoch

        until(there, timeout, f"run {run_id} past epoch {epoch}", self.activity)

    def clear_runs(self, model: str) -> None:
        """End whatever a failed test left running."""
        for run in self.registry.runs.list(model, active=True):
            self.http.post(f"/api/runs/{run.id}/cancel")
        until(lambda: not self.processes(WORKER), 30, "no training process is left")

    # --- processes ---------------------------------------------------------------------------------------------------

    def processes(self, title: str) -> list[psutil.Process]:
        """The service's processes whose command line contains ``title``."""
        found = []
        for process in processes.find(self.instance.id):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def publish(service: Service, model: str, checkpoint: Path) -> ModelVersion:
    """A checkpoint as a published, evaluated version, by the pipeline's own steps; the gate is not asked."""
    from training import pipeline
    from training.context import Clock, Context
    from training.data import datasets
    from training.fit.request import Trained

    settings = service.settings(model)
    clock = Clock(lambda stage, progress: None)
    context = Context(settings=settings, declared=settings, registry=service.registry, storage=service.storage, clock=clock)
    dataset = datasets.freeze(model, task_type(settings.task), settings.data, service.storage)
    run_id = f"{model}-by-hand-{random.getrandbits(32):08x}"
    version, _ = pipeline.publish(context, run_id, dataset, Trained(directory=checkpoint, f1=0.0, epoch=1))
    return version


def train_here(base: Path, rows: Sequence[Mapping[str, str]], directory: Path, epochs: int) -> Path:
    """A classifier trained in this process; no run, no Ray."""
    import torch
    from transformers import AutoTokenizer

    from baton.engines.torch_engine import load_model

    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_model("AutoModelForSequenceClassification", base, LABELS).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(epochs):
            for start in range(0, len(rows), 32):
                batch = rows[start : start + 32]
                features = tokenizer([row["text"] for row in batch], padding=True, return_tensors="pt")
                targets = torch.tensor([LABELS.index(row["label"]) for row in batch])
                loss = torch.nn.functional.cross_entropy(model(**features).logits, targets)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.jsonl (few rows, many of them wrong), large.jsonl, corrupted.jsonl (labels at random), holdout.jsonl."""
    directory = tmp_path_factory.mktemp("data")
    write_rows(directory / "small.jsonl", keyword_rows(200, LABELS, seed=1, noise=0.2))
    large = keyword_rows(400, LABELS, seed=2)
    write_rows(directory / "large.jsonl", large)
    source = random.Random(3)
    write_rows(directory / "corrupted.jsonl", [{**row, "label": source.choice(LABELS)} for row in large])
    write_rows(directory / "holdout.jsonl", keyword_rows(240, LABELS, seed=4))
    return directory


@pytest.fixture(scope="session")
def checkpoints(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three classifiers: at random, trained a little, trained well. Each beats the one before it, surely."""
    directory = tmp_path_factory.mktemp("checkpoints")
    rows = keyword_rows(600, LABELS, seed=2)
    return [
        save_classifier(tiny_base, LABELS, directory / "random"),
        train_here(tiny_base, rows[:150], directory / "some", epochs=6),
        train_here(tiny_base, rows, directory / "good", epochs=3),
    ]


@pytest.fixture(scope="session")
def service(tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, up. Models: ``loop`` learns, ``online`` does so by itself from every 40 corrections, ``steady`` serves three
    published versions, ``runs`` suffers bad runs.
    """

    def model(name: str, replicas: int) -> dict[str, Any]:
        return {
            "name": name,
            "task": "classification",
            "base_model": str(tiny_base),
            "data": {"train": str(data / "large.jsonl"), "holdout": str(data / "holdout.jsonl")},
            "training": TRAINING,
            "gate": {"min_f1": 0.02},
            "serving": {"replicas": replicas, "poll_seconds": 1.0},
        }

    file = write_config(
        tmp_path_factory.mktemp("service"),
        free_port(),
        [
            model("loop", 2),
            model("steady", 2),
            model("runs", 1),
            {**model("online", 1), "retrain": {"after_examples": 40, "cooldown_minutes": 0}},
        ],
    )
    service = Service(file)
    try:
        service.baton("up", "--detach")
        yield service
        running = service.instance
        assert service.baton("down").stdout.splitlines()[0] == "stopped"
        assert marked(running.id) == []
        assert not Path(running.directory).exists()
    finally:
        baton("down", "-c", file)
        service.close()


@pytest.fixture(scope="session")
def steady(service: Service, checkpoints: list[Path]) -> Service:
    """The service with versions 1, 2 and 3 of ``steady`` published, each better than the one before; 1 serves."""
    for checkpoint in checkpoints:
        publish(service, "steady", checkpoint)
    service.force("steady", 1)
    return service


@pytest.fixture
def runs(service: Service, checkpoints: list[Path]) -> Iterator[Service]:
    """The service with a champion of ``runs`` and no run of it active, before the test and after."""
    if service.registry.champion("runs").version is None:
        publish(service, "runs", checkpoints[-1])
        service.force("runs", 1)
    yield service
    service.clear_runs("runs")
