"""Cross-validation for tiny data sets: each row is validated on once, and the version is trained on all rows.

Every fold trains in a Ray task, in parallel where the cluster has room. The folds' best epochs decide how long the version
trains, their F1 estimates its F1, and their predictions for rows that they were not trained on calibrate it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import DataError, TrainingFailed
from baton.tasks import task_type
from training.data import datasets, splits
from training.fit.capacity import Capacity, capacity_for_models, is_placed, report_waiting
from training.fit.request import Trained, TrainingRequest, WorkerConfig
from training.fit.trainer import last_line


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The result of training one fold."""

    rows: Sequence[Any]
    """The validation rows."""
    scores: Sequence[float]
    """The F1 on the validation rows after each epoch."""
    outputs: Sequence[Sequence[Any]]
    """The outputs for the validation rows after each epoch; empty if the task does not calibrate."""

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest F1, counted from 1."""
        return self.scores.index(max(self.scores)) + 1

    def index_of(self, epoch: int) -> int:
        """Return the index of ``epoch`` in ``scores`` and ``outputs``, or the last index if the fold stopped before it."""
        return min(epoch, len(self.scores)) - 1


@contextmanager
def cross_validate(request: TrainingRequest) -> Iterator[Trained]:
    """Train each fold, then train on all rows for the median of the folds' best epochs, and yield that checkpoint.

    The F1 is the mean of the folds' F1 after that many epochs. The last training has no rows to validate on, so the calibration
    uses the folds' outputs for their validation rows, after the same number of epochs.

    Raises:
        TrainingFailed: a fold, or the last training, failed. The message is its error.
        DataError: there are fewer different texts than folds.
    """
    count = request.settings.training.folds
    assert count is not None
    task_cls = task_type(request.settings.task)
    rows = datasets.load_split(task_cls, Storage(request.storage, patient=True), request.dataset.uri, "train")
    different_texts = len(set(splits.folds(task_cls, rows, count)))  # exact where it is below ``count``
    if different_texts < count:
        raise DataError(
            f"training.folds: {count} folds need at least {count} different texts, but the training data has "
            f"{different_texts}; use fewer folds or more data"
        )
    folds = _train_folds(request, count)
    epochs = statistics.median_low([fold.best_epoch for fold in folds])
    scores = [fold.scores[fold.index_of(epochs)] for fold in folds]
    mean = statistics.mean(scores)
    calibration = _calibration(request, folds, epochs)
    request.progress(fold=count, folds=count, f1=mean)
    files = _train_all(request, epochs)
    with tempfile.TemporaryDirectory(prefix="baton-folds-") as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        yield Trained(
            directory=Path(scratch),
            f1=mean,
            epoch=epochs,
            start=request.start,
            calibration=calibration,
            details={
                "folds": {
                    "f1": scores,
                    "mean": mean,
                    "deviation": statistics.stdev(scores),
                    "best_epochs": [fold.best_epoch for fold in folds],
                    "rows": [len(fold.rows) for fold in folds],
                }
            },
        )


def _calibration(request: TrainingRequest, folds: Sequence[Fold], epochs: int) -> Mapping[str, float] | None:
    """Return the calibration by the folds' outputs after ``epochs`` epochs; None if the task does not calibrate."""
    task = request.settings.make_task(request.dataset.labels)
    if not task.calibrates():
        return None
    outputs = [output for fold in folds for output in fold.outputs[fold.index_of(epochs)]]
    calibration: Mapping[str, float] = task.calibrate(outputs, [row for fold in folds for row in fold.rows])
    return calibration


def _train_folds(request: TrainingRequest, count: int) -> list[Fold]:
    def report(folds: Sequence[Fold]) -> None:
        request.progress(fold=len(folds), folds=count, f1=statistics.mean(max(fold.scores) for fold in folds))

    capacity = capacity_for_models(request.settings.training, count)
    worker_config = request.worker_config(capacity.threads, use_gpu=capacity.use_gpu)
    calls = [(asdict(replace(worker_config, fold=number)), count) for number in range(count)]
    return _run_tasks(request, capacity, train_fold, calls, report)


def _train_all(request: TrainingRequest, epochs: int) -> dict[str, bytes]:
    capacity = capacity_for_models(request.settings.training, 1)
    call = (asdict(request.worker_config(capacity.threads, use_gpu=capacity.use_gpu)), epochs)
    [files] = _run_tasks(request, capacity, train_all, [call], lambda _: None)
    model_files: dict[str, bytes] = files
    return model_files


def _run_tasks(
    request: TrainingRequest,
    capacity: Capacity,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    report: Callable[[Sequence[Any]], None],
) -> list[Any]:
    """Run ``function`` as a Ray task with each of the arguments ``calls``, and return the results in the order of ``calls``.

    At most ``capacity.workers`` tasks run at the same time, each in a placement group of its own. A task whose process dies is
    retried. Whenever a task has finished, ``report`` is called with all results so far.

    Raises:
        TrainingFailed: a task failed. The message is its error.
    """
    waiting = deque(enumerate(calls))
    results: dict[int, Any] = {}
    running: dict[Any, tuple[int, PlacementGroup]] = {}

    def started() -> bool:
        return bool(results) or any(is_placed(group) for _, group in list(running.values()))

    def submit(call: tuple[Any, ...], group: PlacementGroup) -> Any:
        task = ray.remote(function).options(
            num_cpus=capacity.threads,
            num_gpus=int(capacity.use_gpu),
            max_retries=request.settings.training.retries,
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group),
        )
        return task.remote(*call)

    first_task = replace(capacity, workers=1)  # the run waits for one task only: the others may start later
    try:
        with report_waiting(first_task, started, lambda text: request.progress(waiting=text)):
            while waiting or running:
                while waiting and len(running) < capacity.workers:
                    number, call = waiting.popleft()
                    group = placement_group([capacity.resources])
                    running[submit(call, group)] = number, group
                [finished], _ = ray.wait(list(running), num_returns=1)
                number, group = running.pop(finished)
                remove_placement_group(group)
                results[number] = ray.get(finished)
                report(list(results.values()))
    except ray.exceptions.RayError as error:
        raise TrainingFailed(last_line(str(error))) from error
    finally:
        for _, group in running.values():
            remove_placement_group(group)  # ends the task that runs in it
    return [results[number] for number in range(len(calls))]


# --- in the tasks --------------------------------------------------------------------------------------------------------


def train_fold(worker_config: Mapping[str, Any], count: int) -> Fold:
    """Train on all rows but those of the fold ``worker_config["fold"]``, and validate on those after each epoch.

    ``count`` is the number of folds.
    """
    # imported in the task: its libraries take seconds to load, and the driver does not need them
    from training.fit.worker import Reporter

    config = WorkerConfig(**worker_config)
    assert config.fold is not None
    with tempfile.TemporaryDirectory(prefix="baton-fold-") as scratch:
        trainer, settings = _build_trainer(config, Path(scratch))
        validate = trainer.compute_metrics
        outputs: list[Sequence[Any]] = []

        def validate_and_keep_outputs(prediction: Any) -> dict[str, float]:
            if validate.task.calibrates():
                outputs.append(validate.outputs(prediction))
            metrics: dict[str, float] = validate(prediction)
            return metrics

        trainer.compute_metrics = validate_and_keep_outputs
        trainer.add_callback(Reporter(config, settings.training.early_stopping, fold=config.fold + 1, folds=count))
        trainer.train()
        scores = [float(entry["eval_f1"]) for entry in trainer.state.log_history if "eval_f1" in entry]
    return Fold(rows=validate.rows, scores=scores, outputs=outputs)


def train_all(worker_config: Mapping[str, Any], epochs: int) -> dict[str, bytes]:
    """Train on all rows for ``epochs`` epochs of the schedule that the folds followed; return the model's files by name."""
    # imported in the task, as in `train_fold`
    from training.fit.worker import Reporter, StopAfterEpochs

    config = WorkerConfig(**worker_config)
    with tempfile.TemporaryDirectory(prefix="baton-all-") as scratch:
        trainer, settings = _build_trainer(config, Path(scratch))
        trainer.add_callback(StopAfterEpochs(epochs))
        trainer.add_callback(Reporter(config, settings.training.early_stopping))
        trainer.train()
        final = Path(scratch) / "final"
        trainer.save_model(str(final))
        return {path.name: path.read_bytes() for path in final.iterdir() if path.suffix in (".json", ".safetensors")}


def _build_trainer(worker_config: WorkerConfig, scratch: Path) -> tuple[Any, ModelSettings]:
    """Prepare this process, and build a trainer that saves no checkpoints: a fold is never resumed."""
    # imported in the task, as in `train_fold`
    from training.fit.log import set_up_worker
    from training.fit.priority import limit_process
    from training.fit.worker import build_trainer

    settings = ModelSettings.model_validate(worker_config.settings)
    set_up_worker(run_id=worker_config.run_id, model=settings.name)
    limit_process(worker_config.threads, settings.training)
    trainer = build_trainer(worker_config, settings, scratch, world_size=1)
    trainer.args.save_strategy = "no"
    return trainer, settings
