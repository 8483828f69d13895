"""The driver of Ray Train: runs a training on workers, restarts it from its last checkpoint, and returns the best checkpoint.

Knows nothing of evaluation, the gate or published versions.
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
from ray.train.backend import BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from baton.artifacts.storage import Storage
from baton.errors import TrainingFailed
from baton.store.registry import Registry
from training.fit.capacity import capacity_for_workers, report_waiting
from training.fit.checkpoints import read_note
from training.fit.request import Trained, TrainingRequest, workers_started


@contextmanager
def fine_tune(request: TrainingRequest) -> Iterator[Trained]:
    """Train, and yield the checkpoint with the best validation F1. It is readable inside the ``with`` block.

    Raises:
        TrainingFailed: see `run_workers`.
    """
    checkpoint = run_workers(
        request, _run_worker, {}, storage_path=request.runs_path, name=request.run_id, score="rank", mode="max"
    )
    with checkpoint.as_directory() as directory:
        note = read_note(directory)
        yield Trained(directory=Path(directory), f1=note["f1"], epoch=int(note["epoch"]), start=request.start)


def run_workers(
    request: TrainingRequest,
    loop: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    *,
    storage_path: str,
    name: str,
    score: str,
    mode: Literal["max", "min"],
) -> Any:
    """Run ``loop`` in the workers of a request, and return the Ray checkpoint that they reported with the best ``score``.

    Args:
        loop: called in each worker with ``config`` and, under the key ``worker_config``, the fields of its `WorkerConfig`.
        storage_path: Ray keeps the checkpoints in the folder ``name`` below it.
        score: key of the reported metrics.
        mode: whether the maximum or the minimum of ``score`` is best.

    Raises:
        TrainingFailed: the workers failed more often than ``training.retries`` allows. The message is their last error.
    """
    training = request.settings.training
    registry = Registry(request.database)
    capacity = capacity_for_workers(training)

    def started() -> bool:
        return workers_started(registry.runs.get(request.run_id).progress)

    trainer = _Trainer(
        loop,
        train_loop_config={
            "worker_config": asdict(request.worker_config(capacity.threads, use_gpu=capacity.use_gpu)),
            **config,
        },
        backend_config=_backend_for(capacity.workers),
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
        with report_waiting(capacity, started, lambda text: request.progress(waiting=text)):
            result = trainer.fit()
    except ray.train.v2.api.exceptions.TrainingFailedError as error:
        raise TrainingFailed(last_line(str(error))) from error
    if not result.best_checkpoints:
        raise TrainingFailed("the workers ended without a checkpoint; the run's log may show why")
    best_of = max if mode == "max" else min
    checkpoint, _ = best_of(result.best_checkpoints, key=lambda item: float(item[1][score]))
    return checkpoint


def _backend_for(workers: int) -> BackendConfig:
    """Return what connects the workers: torch's process group, or nothing for a single one.

    A single worker then trains as a fold or a trial does, without a wrapper around its model, and the run's controller does not
    load torch.
    """
    if workers == 1:
        return BackendConfig()
    from training.fit.network import NodeTorchConfig

    return NodeTorchConfig()


class _Trainer(DataParallelTrainer):  # type: ignore[misc]  # Ray has no types
    """Ray's trainer without its handler of SIGINT, and without two of its helper processes, which cost seconds of CPU each.

    One distributes Ray Data sets, which our runs do not use. The other removes placement groups of a killed controller, which
    Ray does by itself.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave SIGINT alone: it cancels the run. Ray's handler stays after the training, waits for a controller that waits for
        a place, and ignores what comes after.
        """

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]


def filesystem_of(storage: str) -> pyarrow.fs.FileSystem | None:
    """Return the file system through which Ray writes checkpoints to a remote ``storage``; None for a local one.

    It has the driver, the endpoint and the credentials that `Storage` uses. Ray handles local paths by itself.
    """
    opened = Storage(storage, patient=True)
    return None if opened.local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(opened.filesystem))


def _run_worker(config: dict[str, Any]) -> None:
    # Imported in the worker: its libraries take seconds to load, and the driver does not need them.
    from training.fit import worker

    worker.train(config)


def last_line(text: str) -> str:
    """Return the last line of ``text`` that is not blank. In a traceback that is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
