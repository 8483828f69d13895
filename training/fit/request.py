"""The records between the driver of a run and whatever trains for it: what is asked for, what workers get, what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.store.records import DatasetVersion
from training.fit.start import Start


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
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
class TrainingRequest:
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

    def worker_config(self, threads: int) -> WorkerConfig:
        """The request as its workers, with ``threads`` each, get it."""
        return WorkerConfig(
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
    """How it was trained, where that is not what the request says."""
    calibration: Mapping[str, float] | None = None
    """What it learned about its own scores; None: the run's validation rows are still to tell."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, for the lineage."""
