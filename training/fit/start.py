"""The start of a run: the base model or the champion (``training.start_from``), and the rows to train and validate on.

The driver decides (`find_start`). Each worker, on any machine, then selects the same rows (`select_rows`) and fetches the same
weights (`training.fit.weights`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.wording import counted
from training.data import datasets
from training.data.replay import Selection, select
from training.data.splits import folds


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights and rows that a run starts from. It holds plain values, because Ray sends it to other machines."""

    parent: int | None = None
    """The version that training continues from; None: the base model."""
    manifest_sha256: str = ""
    """Hash of the parent's manifest, so that a worker never starts from other bytes than the driver saw."""
    dataset_uri: str = ""
    """The data set that the parent was trained on; empty without a parent."""
    reason: str = "training.start_from is base"
    """Why the run starts from there, for users."""
    new_labels: Sequence[str] = ()
    """Labels of the run's data that the parent does not have."""
    dropped_labels: Sequence[str] = ()
    """Labels of the parent that the run's data does not have."""
    new_rows: int = 0
    """Training rows that the parent was not trained on."""
    replayed_rows: int = 0
    """Training rows that the parent was trained on and that this run trains on again."""
    known_rows: int = 0
    """Rows that the parent was trained on and that this run could replay."""
    prepared: str = ""
    """Path among the files of runs of the model that an earlier step of the run made of the base model, which training starts
    from: an adapted base model (``training.adapt``), a smaller one (``training.prune``), or a probe. Empty: there was no such
    step."""
    teacher: str = ""
    """Path among the files of runs of the model whose scores the training imitates (``training.distil``). Empty: none."""

    def facts(self) -> dict[str, Any]:
        """Return the facts for the lineage and the run's record."""
        places = ("manifest_sha256", "dataset_uri", "prepared", "teacher")
        return {key: value for key, value in asdict(self).items() if key not in places}

    def sentence(self) -> str:
        """Return a sentence for users who watch the run."""
        if self.parent is None:
            return f"from the base model: {self.reason}"
        new, known = counted(self.new_rows, "new row"), counted(self.known_rows, "known row")
        return f"from v{self.parent}: {new}, {self.replayed_rows:,} of {known} replayed"


def find_start(settings: ModelSettings, registry: Registry, storage: Storage, dataset: datasets.Dataset) -> Start:
    """Return the start of a run of ``settings`` on ``dataset``.

    If training cannot continue from the champion (there is none, or its task or base model differs), start from the base model
    and record why. This is not an error: a user who changes the base model wants a run that starts from the new one.

    Raises:
        CorruptVersion: the champion's files are not those that were published.
        DataError: the data set that the champion was trained on is not the one that was frozen.
        StorageError: the storage does not answer.
    """
    if settings.training.start_from != "champion":
        return Start()
    champion = registry.champion_version(settings.name)
    if champion is None:
        return Start(reason="there is no champion yet")
    with tempfile.TemporaryDirectory(prefix="baton-fetch-") as cache:
        _, manifest = storage.fetch(champion, Path(cache))  # a corrupt champion fails here, before any worker starts
    for what, champions, ours in (
        ("task", manifest.task, settings.task),
        ("base model", manifest.base_model, settings.base_model),
    ):
        if champions != ours:
            return Start(reason=f"the champion, v{champion.number}, has the {what} {champions}, but this run has {ours}")
    champion_labels, labels = set(manifest.labels), dataset.version.labels
    uri = str(manifest.dataset.get("uri", ""))
    selection = select(task_type(settings.task), settings.training, dataset.train, _train_rows(settings, storage, uri))
    return Start(
        parent=champion.number,
        manifest_sha256=champion.manifest_sha256,
        dataset_uri=uri,
        reason=f"v{champion.number} is the champion",
        new_labels=[label for label in labels if label not in champion_labels],
        dropped_labels=[label for label in manifest.labels if label not in labels],
        new_rows=selection.new,
        replayed_rows=selection.replayed,
        known_rows=selection.known,
    )


def select_rows(
    start: Start, settings: ModelSettings, storage: Storage, dataset_uri: str, fold: int | None = None
) -> Selection:
    """Select the rows of the data set at ``dataset_uri`` that a run with this ``start`` trains and validates on.

    ``fold`` is used with ``training.folds`` only: the fold to validate on; None: train on all rows and validate on none.
    """
    task_cls = task_type(settings.task)
    if settings.training.folds is not None:
        rows = datasets.load_split(task_cls, storage, dataset_uri, "train")
        fold_of_row = folds(task_cls, rows, settings.training.folds)
        train = [row for row, number in zip(rows, fold_of_row, strict=True) if number != fold]
        validation = [row for row, number in zip(rows, fold_of_row, strict=True) if number == fold]
        return Selection(train=train, validation=validation, new=len(train), replayed=0, known=0)
    before = None if start.parent is None else _train_rows(settings, storage, start.dataset_uri)
    return select(task_cls, settings.training, datasets.load_split(task_cls, storage, dataset_uri, "train"), before)


def _train_rows(settings: ModelSettings, storage: Storage, uri: str) -> list[Any]:
    """Return the train split of the data set at ``uri``; empty if ``uri`` is (a manifest may name no data set)."""
    return datasets.load_split(task_type(settings.task), storage, uri, "train") if uri else []
