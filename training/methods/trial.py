"""The process of one search trial: the training of a run's worker, with the settings that the search sampled for the trial."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ray import tune

from baton.config.base_models import check_length, find_base_model
from baton.config.file import trial_settings
from training.fit.checkpoints import checkpoint_directory, write_note
from training.fit.log import set_up_worker
from training.fit.priority import limit_process
from training.fit.request import WorkerConfig
from training.fit.worker import Reporter, build_trainer


class TuneReporter(Reporter):
    """Reports each epoch to Ray Tune instead of Ray Train. The search's driver reports the progress of the run."""

    reports_progress: ClassVar[bool] = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the epoch's F1 and checkpoint to Ray Tune, and whether it was the trial's last epoch."""
        directory = checkpoint_directory(args, state)
        epoch = round(state.epoch)
        metrics = {"f1": self._latest["f1"], "epoch": epoch}
        write_note(directory, metrics)
        ended = control.should_training_stop or epoch >= state.num_train_epochs
        tune.report({**metrics, "ended": ended}, checkpoint=tune.Checkpoint.from_directory(directory))


def train(worker_config: Mapping[str, Any], sampled: Mapping[str, Any]) -> None:
    """Train with the configuration ``WorkerConfig(**worker_config)`` and the ``sampled`` training settings."""
    config = WorkerConfig(**worker_config)
    settings = trial_settings(config.settings, sampled)
    check_length(find_base_model(settings.base_model), settings.base_model, settings.max_length, settings.new_tokens)
    set_up_worker(run_id=config.run_id, model=settings.name)
    limit_process(config.threads, settings.training)
    with tempfile.TemporaryDirectory(prefix="baton-trial-") as scratch:
        trainer = build_trainer(config, settings, Path(scratch), world_size=1)
        trainer.args.save_only_model = True  # a trial is never resumed
        trainer.add_callback(TuneReporter(config, settings.training.early_stopping))
        trainer.train()
