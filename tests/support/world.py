"""A frozen data set of `tests.support.tiny` rows, and trainers on it as Ray Train's workers build them, without Ray."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings, ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Decision, DecisionKind, ModelVersion, Verdict
from baton.tasks.classification import Classification
from tests.support.audit import fix_secret
from tests.support.database import migrated_registry
from tests.support.tiny import keyword_rows
from training import pipeline
from training.context import Clock, Context
from training.data import datasets
from training.data.splits import split_rows
from training.fit.request import Trained, WorkerConfig
from training.fit.start import Start
from training.fit.worker import build_trainer
from training.judge.evaluate import evaluate

LABELS = ("billing", "bug", "cancel", "shipping")
QUICK = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "validation": 0.2, "precision": "fp32", "device": "cpu"}

Weights = Mapping[str, torch.Tensor]


def settings_of(base: Path, train: Path, holdout: Path, **training: Any) -> ModelSettings:
    return ModelSettings.model_validate(
        {
            "name": "m",
            "task": "classification",
            "base_model": str(base),
            "data": {"train": str(train), "holdout": str(holdout)},
            "training": {**QUICK, **training},
            "serving": {"precision": "fp32", "device": "cpu"},
        }
    )


class World:
    """A frozen data set, a storage, a registry with a model ``m``, and trainers that use them."""

    def __init__(self, base: Path, directory: Path, rows: int, noise: float = 0.0, storage: str | None = None) -> None:
        self.base, self.directory = base, directory
        self.storage = Storage(storage or str(directory / "storage"))
        database = f"sqlite:///{directory}/baton.db"
        self.registry = migrated_registry(database)
        fix_secret(database)
        self.registry.declare_model("m")
        self.freeze(keyword_rows(rows, LABELS, seed=1, noise=noise), keyword_rows(120, LABELS, seed=2, noise=noise))

    def freeze(self, train: Sequence[Mapping[str, Any]], holdout: Sequence[Mapping[str, Any]]) -> None:
        """Freeze these rows as the data set of all trainers that are built from now on."""
        for name, rows in (("train", train), ("holdout", holdout)):
            (self.directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = DataSettings(train=str(self.directory / "train.jsonl"), holdout=str(self.directory / "holdout.jsonl"))
        self.dataset = datasets.freeze("m", Classification, data, self.storage)
        self.worker_config = WorkerConfig(
            run_id="r",
            settings={},
            labels=self.dataset.version.labels,
            dataset_uri=self.dataset.version.uri,
            storage=self.storage.url,
            database=f"sqlite:///{self.directory}/baton.db",
            threads=1,
            use_gpu=False,
        )

    def settings(self, **training: Any) -> ModelSettings:
        return settings_of(self.base, self.directory / "train.jsonl", self.directory / "holdout.jsonl", **training)

    def trainer(self, scratch: Path, **training: Any) -> transformers.Trainer:
        return build_trainer(self.worker_config, self.settings(**training), scratch, world_size=1)

    def context(self, **training: Any) -> Context:
        clock = Clock(lambda stage, progress: None)
        settings = self.settings(**training)
        return Context(settings=settings, declared=settings, registry=self.registry, storage=self.storage, clock=clock)

    def publish(self, checkpoint: Path, start: Start | None = None, **training: Any) -> ModelVersion:
        """Publish a checkpoint as a version, without asking the gate."""
        best = Trained(directory=checkpoint, f1=0.5, epoch=1, start=start or Start())
        return pipeline.publish(self.context(**training), f"by-hand-{uuid.uuid4().hex}", self.dataset, best)[0]

    def make_champion(self, version: ModelVersion) -> None:
        """Promote a version without a comparison."""
        champion = self.registry.champion("m")
        decision = Decision(
            model="m",
            candidate=version.number,
            champion=champion.version,
            champion_sequence=champion.sequence,
            kind=DecisionKind.FORCE,
            verdict=Verdict.PROMOTE,
            sentence="a test wants it",
            reason="a test wants it",
        )
        self.registry.promote(decision, champion)

    def validation_rows(self) -> list[Any]:
        rows = datasets.load_split(Classification, self.storage, self.dataset.version.uri, "train")
        return split_rows(Classification, rows, QUICK["validation"])[1]

    def predictor(self, checkpoint: Path) -> Predictor:
        manifest = Manifest(
            model="m",
            task="classification",
            labels=self.dataset.version.labels,
            max_length=128,
            base_model="tiny",
            dataset={},
            training={},
            metrics={},
            code_version="0",
        )
        return Predictor.load(checkpoint, manifest, self.settings().serving)

    def f1(self, checkpoint: Path, rows: list[Any]) -> float:
        return float(evaluate(self.predictor(checkpoint), rows, lambda done, total: None).score.metrics["f1"])


def last_checkpoint(trainer: transformers.Trainer) -> Path:
    return Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"


def weights_of(trainer: transformers.Trainer) -> dict[str, torch.Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class StopAfter(transformers.TrainerCallback):
    """Ends a training once the checkpoint of ``epoch`` is written, as if its worker had been killed."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = round(state.epoch) >= self._epoch


def whole_and_resumed(world: World, scratch: Path, **training: Any) -> tuple[Weights, Weights]:
    """Return the weights after an undisturbed training, and after one that was killed and resumed after its first epoch."""
    whole = world.trainer(scratch / "whole", **training)
    whole.train()
    first = world.trainer(scratch / "first", **training)
    first.add_callback(StopAfter(1))
    first.train()
    assert 0 < first.state.global_step < whole.state.global_step
    second = world.trainer(scratch / "second", **training)
    second.train(resume_from_checkpoint=str(last_checkpoint(first)))
    assert second.state.global_step == whole.state.global_step
    return weights_of(whole), weights_of(second)
