"""Cross-validation for tiny data: each row validates once, and the version is trained on all of them.

Every fold trains in a Ray task, in parallel where the cluster has room. Their best epochs say how long to train, their F1 says
what to expect, and their predictions for rows that they had not seen calibrate the version.
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
from training.fit.capacity import Capacity, is_there, side_by_side, watched
from training.fit.request import Trained, TrainingRequest, WorkerConfig
from training.fit.trainer import last_line


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one fold came to: the F1 of each epoch on its validation ``rows``, and each epoch's outputs for them.

    There are outputs only where the task calibrates itself.
    """

    rows: Sequence[Any]
    scores: Sequence[float]
    outputs: Sequence[Sequence[Any]]

    @property
    def best_epoch(self) -> int:
        """The first with the highest F1, counted from 1."""
        return self.scores.index(max(self.scores)) + 1

    def at(self, epoch: int) -> int:
        """The index of ``epoch``, or of the last one where the fold had stopped before."""
        return min(epoch, len(self.scores)) - 1


@contextmanager
def cross_validate(request: TrainingRequest) -> Iterator[Trained]:
    """Train each fold, then everything for as many epochs as the folds took at the median.

    The F1 is the folds' mean after that many epochs. The last training has no row left to validate on: thresholds and the like
    come from the outputs for rows that a fold had held back, after as many epochs.

    Raises:
        TrainingFailed: a fold, or the last training, failed; the message is its error.
        DataError: there are fewer distinct texts than folds.
    """
    count = request.settings.training.folds
    assert count is not None
    task_cls = task_type(request.settings.task)
    rows = datasets.load_split(task_cls, Storage(request.storage, patient=True), request.dataset.uri, "train")
    filled = len(set(splits.folds(task_cls, rows, count)))
    if filled < count:
        raise DataError(f"training.folds: {count} folds need as many texts that differ; the training data has {filled}")
    folds = _train_folds(request, count)
    epochs = statistics.median_low([fold.best_epoch for fold in folds])
    scores = [fold.scores[fold.at(epochs)] for fold in folds]
    task = request.settings.make_task(request.dataset.labels)
    calibration = None
    if task.calibrates():
        outputs = [output for fold in folds for output in fold.outputs[fold.at(epochs)]]
        calibration = task.calibrate(outputs, [row for fold in folds for row in fold.rows])
    request.progress(fold=count, folds=count, f1=statistics.mean(scores))
    files = _train_all(request, epochs)
    with tempfile.TemporaryDirectory(prefix="baton-folds-") as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        yield Trained(
            directory=Path(scratch),
            f1=statistics.mean(scores),
            epoch=epochs,
            start=request.start,
            calibration=calibration,
            details={
                "folds": {
                    "f1": scores,
                    "mean": statistics.mean(scores),
                    "deviation": statistics.stdev(scores),
                    "best_epochs": [fold.best_epoch for fold in folds],
                    "rows": [len(fold.rows) for fold in folds],
                }
            },
        )


def _train_folds(request: TrainingRequest, count: int) -> list[Fold]:
    def report(done: Sequence[Fold]) -> None:
        request.progress(fold=len(done), folds=count, f1=statistics.mean(max(fold.scores) for fold in done))

    capacity = side_by_side(request.settings.training, count)
    worker_config = request.worker_config(capacity.threads)
    return _carry_out(
        request, capacity, train_fold, [(asdict(replace(worker_config, fold=number)), count) for number in range(count)], report
    )


def _train_all(request: TrainingRequest, epochs: int) -> dict[str, bytes]:
    capacity = side_by_side(request.settings.training, 1)
    [files] = _carry_out(
        request, capacity, train_all, [(asdict(request.worker_config(capacity.threads)), epochs)], lambda _: None
    )
    found: dict[str, bytes] = files
    return found


def _carry_out(
    request: TrainingRequest,
    capacity: Capacity,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    report: Callable[[Sequence[Any]], None],
) -> list[Any]:
    """The results of ``function``, called as a Ray task with each of ``calls``, in order; ``report`` gets those that are there
    whenever one is added. Each has a place of its own for as long as it takes, and is begun again when its process dies.

    Raises:
        TrainingFailed: one of them did.
    """
    waiting = deque(enumerate(calls))
    results: dict[int, Any] = {}
    running: dict[Any, tuple[int, PlacementGroup]] = {}

    def started() -> bool:
        return bool(results) or any(is_there(place) for _, place in list(running.values()))

    def begin(call: tuple[Any, ...], place: PlacementGroup) -> Any:
        task = ray.remote(function).options(
            num_cpus=capacity.threads,
            num_gpus=int(capacity.use_gpu),
            max_retries=request.settings.training.retries,
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=place),
        )
        return task.remote(*call)

    try:
        with watched(replace(capacity, workers=1), started, lambda text: request.progress(waiting=text)):
            while waiting or running:
                while waiting and len(running) < capacity.workers:
                    number, call = waiting.popleft()
                    place = placement_group([capacity.resources])
                    running[begin(call, place)] = number, place
                [ready], _ = ray.wait(list(running), num_returns=1)
                number, place = running.pop(ready)
                remove_placement_group(place)
                results[number] = ray.get(ready)
                report(list(results.values()))
    except ray.exceptions.RayError as error:
        raise TrainingFailed(last_line(str(error))) from error
    finally:
        for _, place in running.values():
            remove_placement_group(place)  # with what runs there
    return [results[number] for number in range(len(calls))]


# --- in the tasks --------------------------------------------------------------------------------------------------------


def train_fold(worker_config: Mapping[str, Any], count: int) -> Fold:
    """Train on all rows but one fold's (``worker_config["fold"]``), and validate on those after each epoch."""
    from training.fit.worker import Reporter

    mine = WorkerConfig(**worker_config)
    assert mine.fold is not None
    with tempfile.TemporaryDirectory(prefix="baton-fold-") as scratch:
        trainer, settings = _trainer(mine, Path(scratch))
        validate = trainer.compute_metrics
        outputs: list[Sequence[Any]] = []

        def keeping(prediction: Any) -> dict[str, float]:
            if validate.task.calibrates():
                outputs.append(validate.outputs(prediction))
            found: dict[str, float] = validate(prediction)
            return found

        trainer.compute_metrics = keeping
        trainer.add_callback(Reporter(mine, settings.training.early_stopping, fold=mine.fold + 1, folds=count))
        trainer.train()
        scores = [float(entry["eval_f1"]) for entry in trainer.state.log_history if "eval_f1" in entry]
    return Fold(rows=validate.rows, scores=scores, outputs=outputs)


def train_all(worker_config: Mapping[str, Any], epochs: int) -> dict[str, bytes]:
    """Train on all rows, and stop after ``epochs`` of the schedule that the folds followed; the model's files by name."""
    import transformers

    from training.fit.worker import Reporter

    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= round(state.epoch) >= epochs

    mine = WorkerConfig(**worker_config)
    with tempfile.TemporaryDirectory(prefix="baton-all-") as scratch:
        trainer, settings = _trainer(mine, Path(scratch))
        trainer.add_callback(Stop())
        trainer.add_callback(Reporter(mine, settings.training.early_stopping))
        trainer.train()
        final = Path(scratch) / "final"
        trainer.save_model(str(final))
        return {path.name: path.read_bytes() for path in final.iterdir() if path.suffix in (".json", ".safetensors")}


def _trainer(worker_config: WorkerConfig, scratch: Path) -> tuple[Any, ModelSettings]:
    """A trainer that leaves no checkpoints, because no other process goes on from them."""
    from training.fit.log import set_up_worker
    from training.fit.priority import settle
    from training.fit.worker import build_trainer

    settings = ModelSettings.model_validate(worker_config.settings)
    set_up_worker(run_id=worker_config.run_id, model=settings.name)
    settle(worker_config.threads, settings.training)
    trainer = build_trainer(worker_config, settings, scratch, world_size=1)
    trainer.args.save_strategy = "no"
    return trainer, settings
