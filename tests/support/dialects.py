"""A replica of each task with a tiny model, behind a real HTTP server or in this process, for tests of the wire dialects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.registry import Registry
from baton.tasks import task_type
from services.replica.replica import ModelReplica
from tests.cli.test_cli import serving
from tests.support.database import migrated_registry
from tests.support.replica import force, publish
from tests.support.writers import build_tiny_writer

LABELS = {
    "classification": ("billing", "bug", "shipping"),
    "multi_label": ("billing", "bug", "shipping"),
    "ner": ("O", "B-PER", "I-PER"),
    "qa": (),
    "seq2seq": (),
}
"""Labels of the model of each task."""

INPUTS: dict[str, list[Any]] = {
    "classification": ["my invoice is wrong", "日本語 😀, the parcel"],
    "multi_label": ["my invoice is wrong", "日本語 😀, the parcel"],
    "ner": ["my invoice is wrong", "日本語 😀, the parcel"],
    "qa": [
        {"question": "which word?", "context": "my invoice is wrong"},
        {"question": "what came?", "context": "日本語 😀, the parcel came"},
    ],
    "seq2seq": ["my invoice is wrong", "日本語 😀, the parcel"],
}
"""Inputs of each task, as the Hugging Face dialect has them."""


@dataclass(frozen=True)
class World:
    """A published champion of one task."""

    settings: ModelSettings
    database: str
    storage: Storage
    registry: Registry

    def replica(self) -> ModelReplica:
        """Return a replica of it that has not been started."""
        return ModelReplica(self.settings.model_dump(mode="json"), self.database, self.storage.url, replica_id="r1")


@dataclass(frozen=True)
class Served:
    """A replica behind a real HTTP server."""

    url: str
    """The model's own."""
    task: str
    world: World


def world(task: str, base: Path, directory: Path, **settings: Any) -> World:
    """Publish a tiny model with a random head as the champion of model ``m``. ``settings``: of ``serving``."""
    directory.mkdir(parents=True, exist_ok=True)
    database = f"sqlite:///{directory}/baton.db"
    registry, storage = migrated_registry(database), Storage(str(directory / "storage"))
    registry.declare_model("m")
    writing = {"generation": {"max_new_tokens": 16}} if task == "seq2seq" else {}
    publish(registry, storage, "m", save_model(task, base, directory / "model"), LABELS[task], task, **writing)
    force(registry, "m", 1)
    declared = ModelSettings.model_validate(
        {
            "name": "m",
            "task": task,
            "base_model": str(base),
            "data": {"train": "nowhere.jsonl"},
            "training": {"max_length": 128, **writing},
            "serving": {"precision": "fp32", "device": "cpu", "poll_seconds": 600.0, "max_inputs": 8, **settings},
        }
    )
    return World(declared, database, storage, registry)


@contextlib.contextmanager
def serve(task: str, base: Path, directory: Path, **settings: Any) -> Iterator[Served]:
    """Serve `world` at the path that HAProxy would send requests to."""
    made = world(task, base, directory, **settings)
    inner = made.replica().__serve_build_asgi_app__()

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/models/m"}, receive, send)

    with serving(mounted) as url:
        yield Served(f"{url}/models/m", task, made)
    made.registry.close()


def save_model(task: str, base: Path, directory: Path) -> Path:
    """Write a model of a task to ``directory``: on ``base`` with a random head, or a random writer. Return ``directory``."""
    if task == "seq2seq":
        return build_tiny_writer(directory, spread=0.3)
    import torch
    from transformers import AutoTokenizer

    from baton.engines.torch_engine import load_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = load_model(task_type(task).auto_model, base, LABELS[task])
        head = model.qa_outputs if task == "qa" else model.classifier
        torch.nn.init.normal_(head.weight, std=1.0)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory
