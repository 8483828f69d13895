"""The Ray Train driver: spreads a run over workers, restarts it from its last checkpoint, returns the best one.

Knows nothing of evaluation, the gate or the registry's versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from baton.artifacts.storage import Storage
from baton.errors import TrainingFailed
from baton.store.registry import Registry
from training.fit.capacity import capacity_of, watched
from training.fit.checkpoints import read_note
from training.fit.request import Trained, TrainingRequest


@contextmanager
def fine_tune(request: TrainingRequest) -> Iterator[Trained]:
    """Train and yield the checkpoint with the best validation F1; it is readable inside the ``with`` block.

    Raises:
        TrainingFailed: as `fit` does.
    """
    checkpoint = fit(request, _train, {}, storage_path=request.runs_path, name=request.run_id, score="rank", mode="max")
    with checkpoint.as_directory() as directory:
        note = read_note(directory)
        yield Trained(directory=Path(directory), f1=note["f1"], epoch=int(note["epoch"]), start=request.start)


def fit(
    request: TrainingRequest,
    loop: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    *,
    storage_path: str,
    name: str,
    score: str,
    mode: Literal["max", "min"],
) -> Any:
    """Run ``loop`` in the request's workers, with its `WorkerConfig` under the key ``worker_config`` beside ``config``.

    Returns: of the checkpoints that it reported, the one whose metric ``score`` is best. They are kept below ``storage_path``.

    Raises:
        TrainingFailed: the workers failed more often than ``training.retries`` allows; the message is their last error.
    """
    training = request.settings.training
    registry = Registry(request.database)
    capacity = capacity_of(training)

    def started() -> bool:
        return "step" in registry.runs.get(request.run_id).progress

    trainer = _Trainer(
        loop,
        train_loop_config={"worker_config": asdict(request.worker_config(capacity.threads)), **config},
        scaling_config=ScalingConfig(
            num_workers=capacity.workers,
            use_gpu=capacity.use_gpu,
            resources_per_worker=capacity.resources,
            label_selector=dict(capacity.labels) or None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage_path,
            storage_filesystem=filesystem_of(request.storage),
            failure_config=FailureConfig(max_failures=training.retries),
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=score, checkpoint_score_order=mode),
        ),
    )
    try:
        with watched(capacity, started, lambda text: request.progress(waiting=text)):
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
    # Imported where it runs: its libraries take seconds to load, and the driver can do without them.
    from training.fit import worker

    worker.train(config)


def last_line(text: str) -> str:
    """The last line that says something: of a traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
