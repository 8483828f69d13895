"""Hyper-parameter search: trials of one process each, side by side on the cluster, by Ray Tune.

After each epoch a trial reports its validation F1, and ASHA (Li et al. 2020, «A system for massively parallel hyperparameter
tuning») stops the trials with the lower ones. `baton.config.search_space` samples the settings of all trials before they start.
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
from baton.wording import counted
from training.fit.capacity import Capacity, capacity_for_models, report_waiting
from training.fit.checkpoints import read_note
from training.fit.request import Trained, TrainingRequest
from training.fit.trainer import filesystem_of, last_line

FOLDER = "search"
"""Folder of the trials among the run's files."""

REDUCTION_FACTOR = 3
"""Of the trials that reach a rung of ASHA, one in this many continues."""


@dataclass(kw_only=True)
class Trial:
    """The course of one trial."""

    settings: Mapping[str, Any]
    """The training settings that were sampled for it."""
    scores: list[float] = field(default_factory=list)
    """The validation F1 after each of its epochs."""
    ended: bool = False
    """Whether it trained to its end; false while it runs, or if ASHA stopped it."""
    reason: str = ""
    """Why it failed; empty if it did not."""

    @property
    def f1(self) -> float:
        """The F1 of its best epoch; 0 before the first."""
        return max(self.scores, default=0.0)

    def facts(self) -> dict[str, Any]:
        """Return the facts for the lineage."""
        state = "failed" if self.reason else "finished" if self.ended else "stopped"
        best = self.scores.index(self.f1) + 1 if self.scores else None
        facts = {"settings": dict(self.settings), "state": state, "f1": self.f1, "best_epoch": best, "epochs": len(self.scores)}
        return {**facts, "reason": self.reason} if self.reason else facts


@contextmanager
def search(request: TrainingRequest) -> Iterator[Trained]:
    """Run the trials, and yield the checkpoint of the best trial's best epoch, with the settings of that trial.

    Raises:
        TrainingFailed: no trial finished an epoch. The message has the trials' errors.
    """
    settings = request.settings.training.search
    assert settings is not None
    samples = sample_settings(settings, TrainingSettings.whole_keys(), request.settings.training.seed)
    trials = [Trial(settings=sampled) for sampled in samples]
    callback = ProgressCallback(request, trials)
    capacity = capacity_for_models(request.settings.training, len(trials), settings.concurrent)
    first_trial = replace(capacity, workers=1)  # the search waits for one trial only: the others may start later
    with report_waiting(first_trial, lambda: callback.started, lambda text: request.progress(waiting=text)):
        results = _tuner(request, trials, callback, capacity).fit()
    for result in results:
        if result.error is not None:
            trials[_number(result.path)].reason = last_line(str(result.error)).removeprefix("- ")
    succeeded = [number for number, trial in enumerate(trials) if trial.scores]
    if not succeeded:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason)) or "no reason given"
        raise TrainingFailed(f"all {counted(len(trials), 'trial')} of the search failed: {reasons}")
    best = max(succeeded, key=lambda number: trials[number].f1)
    [best_result] = [result for result in results if _number(result.path) == best]
    checkpoint, _ = max(best_result.best_checkpoints, key=lambda item: float(item[1]["f1"]))
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
                    "space": settings.model_dump(mode="json")["space"],
                    "trials": [trial.facts() for trial in trials],
                }
            },
        )


class ProgressCallback(tune.Callback):  # type: ignore[misc]
    """Updates ``trials`` in the driver as Ray Tune reports their results, and reports the progress of the run."""

    def __init__(self, request: TrainingRequest, trials: Sequence[Trial]) -> None:
        self._request, self._trials = request, trials
        self._ended_trials = 0
        self.started = False
        """Whether any trial has started."""

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state: Tune saves its callbacks so that a search can be restored, but a run's driver never is."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Note that the cluster had room for a trial."""
        self.started = True

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **_: Any) -> None:
        """Note the F1 of a trial's epoch, and report it."""
        updated = self._trials[trial.config["number"]]
        updated.scores.append(float(result["f1"]))
        updated.ended = bool(result["ended"])
        self._report(f1=updated.scores[-1], epoch=float(result["epoch"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Count a trial that finished or was stopped, and report the count."""
        self._ended_trials += 1
        self._report()

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Count a trial that failed, and report the count."""
        self.on_trial_complete(iteration, trials, trial)

    def _report(self, **facts: float) -> None:
        best = max(self._trials, key=lambda trial: trial.f1)
        best_facts = {"best_f1": best.f1, "best": dict(best.settings)} if best.scores else {}
        # A lost database costs progress reports, not the run. A run that has ended is stopped by the heartbeat of this process.
        with suppress(Conflict, RegistryError):
            self._request.progress(trial=self._ended_trials, trials=len(self._trials), **facts, **best_facts)


def _tuner(request: TrainingRequest, trials: Sequence[Trial], callback: ProgressCallback, capacity: Capacity) -> tune.Tuner:
    """Build the tuner. The trials are numbered; each gets its number, and looks its settings up by it."""
    training = request.settings.training
    assert training.search is not None
    samples = [trial.settings for trial in trials]
    max_epochs = max(int(sampled.get("epochs", training.epochs)) for sampled in samples)
    trainable = tune.with_parameters(
        _run_trial, worker_config=asdict(request.worker_config(capacity.threads, use_gpu=capacity.use_gpu)), samples=samples
    )
    os.environ |= {
        # SIGINT cancels the run, and the driver handles it. Tune would end the search early, as if it had succeeded.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    return tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([capacity.resources])),
        param_space={"number": tune.grid_search(list(range(len(samples))))},
        tune_config=tune.TuneConfig(
            metric="f1",
            mode="max",
            max_concurrent_trials=capacity.workers,
            reuse_actors=True,  # the libraries of a trial take seconds to load
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
            scheduler=ASHAScheduler(
                max_t=max_epochs,
                grace_period=min(training.search.grace_epochs, max_epochs),
                reduction_factor=REDUCTION_FACTOR,
            ),
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=f"{request.runs_path}/{request.run_id}",
            storage_filesystem=filesystem_of(request.storage),
            callbacks=[callback],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="f1", checkpoint_score_order="max"
            ),
        ),
    )


def _number(path: str) -> int:
    """Return the number of the trial whose directory is ``path``, for example 3 for ``…/trial-3``."""
    return int(path.rstrip("/").rpartition("-")[2])


def _run_trial(config: Mapping[str, Any], worker_config: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    # Imported in the trial: its libraries take seconds to load, and the driver does not need them.
    from training.methods import trial

    trial.train(worker_config, samples[config["number"]])
