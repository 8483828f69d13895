"""Hyper-parameter search: trials of one process each, side by side on the cluster, by Ray Tune.

After each epoch a trial tells its validation F1, and ASHA (Li et al. 2020, «A system for massively parallel hyperparameter
tuning») ends those that stand behind. What is tried was drawn before: `baton.config.search_space`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from baton.config.file import trial_settings
from baton.config.search_space import sample_settings
from baton.config.training_settings import TrainingSettings
from baton.errors import Conflict, RegistryError, TrainingFailed
from training.fit.capacity import Capacity, side_by_side, watched
from training.fit.checkpoints import read_note
from training.fit.request import Trained, TrainingRequest
from training.fit.trainer import filesystem_of, last_line

FOLDER = "search"
REDUCTION = 3
"""Of the trials that reach a rung, one in so many goes on."""


@dataclass(kw_only=True)
class Trial:
    """What became of one trial: the validation F1 of each of its epochs, and why it ended."""

    settings: Mapping[str, Any]
    scores: list[float] = field(default_factory=list)
    ended: bool = False
    reason: str = ""

    @property
    def f1(self) -> float:
        """That of its best epoch."""
        return max(self.scores, default=0.0)

    def facts(self) -> dict[str, Any]:
        """For the lineage."""
        state = "failed" if self.reason else "finished" if self.ended else "stopped"
        best = self.scores.index(self.f1) + 1 if self.scores else None
        found = {"settings": dict(self.settings), "state": state, "f1": self.f1, "best_epoch": best, "epochs": len(self.scores)}
        return {**found, "reason": self.reason} if self.reason else found


@contextmanager
def search(request: TrainingRequest) -> Iterator[Trained]:
    """Try what is drawn from the space, and yield the best trial's best epoch with the settings that made it.

    Raises:
        TrainingFailed: no trial came to the end of an epoch; with the reasons.
    """
    wanted = request.settings.training.search
    assert wanted is not None
    trials = [
        Trial(settings=one) for one in sample_settings(wanted, TrainingSettings.whole_keys(), request.settings.training.seed)
    ]
    board = Board(request, trials)
    capacity = side_by_side(request.settings.training, len(trials), wanted.concurrent)
    one = replace(capacity, workers=1)  # the first trial can start without the others
    with watched(one, lambda: board.started, lambda text: request.progress(waiting=text)):
        results = _tuner(request, trials, board, capacity).fit()
    for result in results:
        number = _number(result.path)
        if result.error is not None:
            trials[number].reason = last_line(str(result.error)).removeprefix("- ")
    succeeded = [number for number, trial in enumerate(trials) if trial.scores]
    if not succeeded:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason)) or "no reason given"
        raise TrainingFailed(f"all {len(trials)} trial(s) of the search failed: {reasons}")
    best = max(succeeded, key=lambda number: trials[number].f1)
    [kept] = [result for result in results if _number(result.path) == best]
    checkpoint, _ = max(kept.best_checkpoints, key=lambda item: float(item[1]["f1"]))
    with checkpoint.as_directory() as directory:
        note = read_note(directory)
        yield Trained(
            directory=Path(directory),
            f1=float(note["f1"]),
            epoch=int(note["epoch"]),
            start=request.start,
            training=trial_settings(request.settings.model_dump(mode="json"), trials[best].settings).training,
            details={
                "search": {
                    "best": best,
                    "space": wanted.model_dump(mode="json")["space"],
                    "trials": [it.facts() for it in trials],
                }
            },
        )


class Board(tune.Callback):  # type: ignore[misc]
    """Follows the trials in the driver, and tells the run's record."""

    def __init__(self, request: TrainingRequest, trials: Sequence[Trial]) -> None:
        self._request, self._trials = request, trials
        self._over = 0
        self.started = False
        """Whether any trial has found its place."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its callbacks down in order to be restored, and a run's driver is never restored."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Note that there was a place for it."""
        self.started = True

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **_: Any) -> None:
        """Note an epoch's F1."""
        mine = self._trials[trial.config["number"]]
        mine.scores.append(float(result["f1"]))
        mine.ended = bool(result["ended"])
        self._tell(f1=mine.scores[-1], epoch=float(result["epoch"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Count it."""
        self._over += 1
        self._tell()

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Count it, too."""
        self.on_trial_complete(iteration, trials, trial)

    def _tell(self, **facts: float) -> None:
        best = max(self._trials, key=lambda trial: trial.f1)
        known = {"best_f1": best.f1, "best": dict(best.settings)} if best.scores else {}
        with suppress(Conflict, RegistryError):  # as in a worker: whoever ended the run ends this process
            self._request.progress(trial=self._over, trials=len(self._trials), **facts, **known)


def _tuner(request: TrainingRequest, trials: Sequence[Trial], board: Board, capacity: Capacity) -> tune.Tuner:
    training = request.settings.training
    assert training.search is not None
    drawn = [trial.settings for trial in trials]
    most = max(int(one.get("epochs", training.epochs)) for one in drawn)
    trainable = tune.with_parameters(_trial, worker_config=asdict(request.worker_config(capacity.threads)), drawn=drawn)
    os.environ |= {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # cancelling is for the driver to handle: Tune would take it for an early end
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    return tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([capacity.resources])),
        param_space={"number": tune.grid_search(list(range(len(drawn))))},
        tune_config=tune.TuneConfig(
            metric="f1",
            mode="max",
            max_concurrent_trials=capacity.workers,
            reuse_actors=True,  # its libraries take seconds to load
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
            scheduler=ASHAScheduler(
                max_t=most, grace_period=min(training.search.grace_epochs, most), reduction_factor=REDUCTION
            ),
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=f"{request.runs_path}/{request.run_id}",
            storage_filesystem=filesystem_of(request.storage),
            callbacks=[board],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="f1", checkpoint_score_order="max"
            ),
        ),
    )


def _number(path: str) -> int:
    return int(path.rstrip("/").rpartition("-")[2])


def _trial(config: Mapping[str, Any], worker_config: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> None:
    # Imported where it runs: its libraries take seconds to load, and the driver can do without them.
    from training.methods import trial

    trial.train(worker_config, drawn[config["number"]])
