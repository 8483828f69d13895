"""The records between the driver of a run and its workers: the request, what a worker gets, and the checkpoint that results.

Knows neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.store.records import DatasetVersion
from training.fit.start import Start

STEP = "step"
"""Key of a run's progress that workers report and nothing else does (`training.fit.worker.Reporter`)."""


def workers_started(progress: Mapping[str, Any]) -> bool:
    """Return whether the ``progress`` of a run shows that its workers have started."""
    return STEP in progress


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """The configuration of one worker. It holds plain values, because Ray sends it to other machines."""

    run_id: str
    settings: Mapping[str, Any]
    """The model's settings, as JSON values (`ModelSettings`)."""
    labels: Sequence[str]
    """The labels of the data set, in the order of the model's outputs."""
    dataset_uri: str
    """Where the frozen data set is in the storage."""
    storage: str
    """URL of the artifact storage."""
    database: str
    """URL of the registry's database, to which the worker reports its progress."""
    threads: int
    """Threads of the worker."""
    use_gpu: bool
    """Whether Ray has reserved a GPU for the worker. Without, it may see GPUs that others have reserved."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a `Start`; empty: start from the base model."""
    fold: int | None = None
    """With ``training.folds``: the fold to validate on. None: train on all rows and validate on none."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The request of a run's driver to train a model. The same for every way to make one (`training.methods.choose`)."""

    run_id: str
    settings: ModelSettings
    dataset: DatasetVersion
    """The frozen data set to train on."""
    start: Start
    """The weights and rows to start from."""
    storage: str
    """URL of the artifact storage."""
    runs_path: str
    """Where the storage keeps the files of runs; each run has a folder there, named by its id."""
    database: str
    """URL of the registry's database."""
    progress: Callable[..., None]
    """``progress(**facts)`` reports ``facts`` as the progress of the run's current stage. Raises ``Conflict`` when the run has
    ended."""

    def worker_config(self, threads: int, *, use_gpu: bool) -> WorkerConfig:
        """Return the configuration of a worker with ``threads`` threads, and a GPU of its own if ``use_gpu``."""
        return WorkerConfig(
            run_id=self.run_id,
            settings=self.settings.model_dump(mode="json"),
            labels=self.dataset.labels,
            dataset_uri=self.dataset.uri,
            storage=self.storage,
            database=self.database,
            threads=threads,
            use_gpu=use_gpu,
            start=asdict(self.start),
        )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The best checkpoint of a run."""

    directory: Path
    """The checkpoint, as a local Hugging Face directory."""
    f1: float | None
    """Validation F1; None if there are no validation rows."""
    epoch: int
    """Passes over the training rows; 0 if the method does not train in epochs."""
    start: Start = field(default_factory=Start)
    """The weights and rows that the run started from."""
    training: TrainingSettings | None = None
    """The settings that it was trained with, if they differ from the request's."""
    calibration: Mapping[str, float] | None = None
    """The calibration of the model's scores; None: not known yet, the validation rows give it."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Details of the method, for the version's lineage."""
