"""The Ray Train driver: spreads a run over workers, restarts it from its last checkpoint, returns the best one.

Knows nothing of evaluation, the gate or the registry's versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.errors import TrainingFailed
from baton.store.records import DatasetVersion
from baton.store.registry import Registry
from training.fit.capacity import capacity_of, watched
from training.fit.start import Start


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to know; plain values, because Ray sends it to other machines."""

    run_id: str
    settings: Mapping[str, Any]
    labels: Sequence[str]
    dataset_uri: str
    storage: str
    database: str
    threads: int
    start: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a `Start`; none of them: the base model."""
    fold: int | None = None
    """With ``training.folds``: the fold to validate on. None: train on all rows and validate on none."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A model to be trained, and where; whichever way it is made (`training.methods.choose`).

    ``progress(**facts)`` adds to what the run's record says of its present stage. It raises ``Conflict`` when the run is over.
    """

    run_id: str
    settings: ModelSettings
    dataset: DatasetVersion
    start: Start
    storage: str
    runs_path: str
    database: str
    progress: Callable[..., None]

    def job(self, threads: int) -> Job:
        """The order as its workers, with ``threads`` each, get it."""
        return Job(
            run_id=self.run_id,
            settings=self.settings.model_dump(mode="json"),
            labels=self.dataset.labels,
            dataset_uri=self.dataset.uri,
            storage=self.storage,
            database=self.database,
            threads=threads,
            start=asdict(self.start),
        )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The best checkpoint of a run, as a local Hugging Face directory, its validation F1 and epoch, and the run's start."""

    directory: Path
    f1: float | None
    """None where no row was left to validate on."""
    epoch: int
    """Passes over the training rows; 0 where they were not counted."""
    start: Start = field(default_factory=Start)
    training: TrainingSettings | None = None
    """How it was trained, where that is not what the order says."""
    calibration: Mapping[str, float] | None = None
    """What it learned about its own scores; None: the run's validation rows are still to tell."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, for the lineage."""


@contextmanager
def fine_tune(order: Order) -> Iterator[Trained]:
    """Train and yield the checkpoint with the best validation F1; it is readable inside the ``with`` block.

    Raises:
        TrainingFailed: as `fit` does.
    """
    checkpoint = fit(order, _train, {}, storage_path=order.runs_path, name=order.run_id, score="rank", mode="max")
    with checkpoint.as_directory() as directory:
        noted = json.loads((Path(directory) / "baton-checkpoint.json").read_text())
        yield Trained(directory=Path(directory), f1=noted["f1"], epoch=int(noted["epoch"]), start=order.start)


def fit(
    order: Order,
    loop: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    *,
    storage_path: str,
    name: str,
    score: str,
    mode: Literal["max", "min"],
) -> Any:
    """Run ``loop`` in the order's workers, with its `Job` under the key ``job`` beside ``config``.

    Returns: of the checkpoints that it reported, the one whose metric ``score`` is best. They are kept below ``storage_path``.

    Raises:
        TrainingFailed: the workers failed more often than ``training.retries`` allows; the message is their last error.
    """
    training = order.settings.training
    registry = Registry(order.database)
    capacity = capacity_of(training)

    def started() -> bool:
        return "step" in registry.runs.get(order.run_id).progress

    trainer = _Trainer(
        loop,
        train_loop_config={"job": asdict(order.job(capacity.threads)), **config},
        scaling_config=ScalingConfig(
            num_workers=capacity.workers,
            use_gpu=capacity.use_gpu,
            resources_per_worker=capacity.resources,
            label_selector=dict(capacity.labels) or None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage_path,
            storage_filesystem=filesystem_of(order.storage),
            failure_config=FailureConfig(max_failures=training.retries),
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=score, checkpoint_score_order=mode),
        ),
    )
    try:
        with watched(capacity, started, lambda text: order.progress(waiting=text)):
            result = trainer.fit()
    except ray.train.v2.api.exceptions.TrainingFailedError as error:
        raise TrainingFailed(last_line(str(error))) from error
    if not result.best_checkpoints:
        raise TrainingFailed("the workers ended without a checkpoint")
    choose = max if mode == "max" else min
    checkpoint, _ = choose(result.best_checkpoints, key=lambda item: float(item[1][score]))
    return checkpoint


class _Trainer(TorchTrainer):  # type: ignore[misc]  # Ray has no types
    """Ray Train without two helpers that are processes of their own, each seconds of CPU at every start: one hands out Ray Data
    sets, of which our runs have none; the other removes placement groups of a killed controller, which Ray does by itself.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]


def filesystem_of(storage: str) -> pyarrow.fs.FileSystem | None:
    """What Ray writes checkpoints through where storage is remote: the same driver, endpoint and credentials as everywhere
    else. None for local storage, which Ray knows by itself.
    """
    opened = Storage(storage, patient=True)
    return None if opened.local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(opened.filesystem))


def _train(config: dict[str, Any]) -> None:
    """Imported where it runs: its libraries take seconds to load, and the driver can do without them."""
    from training.fit import worker

    worker.train(config)


def last_line(text: str) -> str:
    """The last line that says something: of a traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
