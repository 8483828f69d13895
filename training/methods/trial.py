"""What the process of one trial runs: the same training as a run's worker, with the settings that the search drew for it."""

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
from training.fit.priority import settle
from training.fit.request import WorkerConfig
from training.fit.worker import Reporter, build_trainer


class TuneReporter(Reporter):
    """Hands each epoch to Ray Tune instead of Ray Train; the driver of the search reports progress."""

    reports_progress: ClassVar[bool] = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report an epoch's F1 and checkpoint to Tune."""
        directory = checkpoint_directory(args, state)
        epoch = round(state.epoch)
        metrics = {"f1": self._latest["f1"], "epoch": epoch}
        write_note(directory, metrics)
        ended = control.should_training_stop or epoch >= state.num_train_epochs
        tune.report({**metrics, "ended": ended}, checkpoint=tune.Checkpoint.from_directory(directory))


def train(worker_config: Mapping[str, Any], drawn: Mapping[str, Any]) -> None:
    """Train as ``WorkerConfig(**worker_config)`` says, with the training settings ``drawn`` by the search."""
    config = WorkerConfig(**worker_config)
    settings = trial_settings(config.settings, drawn)
    check_length(find_base_model(settings.base_model), settings.base_model, settings.max_length)
    set_up_worker(run_id=config.run_id, model=settings.name)
    settle(config.threads, settings.training)
    with tempfile.TemporaryDirectory(prefix="baton-trial-") as scratch:
        trainer = build_trainer(config, settings, Path(scratch), world_size=1)
        trainer.args.save_only_model = True  # nobody resumes it
        trainer.add_callback(TuneReporter(config, settings.training.early_stopping))
        trainer.train()
