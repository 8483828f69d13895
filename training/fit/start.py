"""What a run starts from: its base model, or the champion (`training.start_from`), on which rows.

The driver decides (`find`); each worker, wherever it runs, comes to the same rows (`rows`) and weights
(`training.fit.weights`).
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
from training.data import datasets
from training.data.replay import Selection, select
from training.data.splits import folds


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run's weights and rows come from; plain values, because Ray sends it to other machines.

    ``parent`` is the version that it goes on from, ``dataset_uri`` the data which that one knows; None: the base model.
    ``reason`` says why, for people. The counts are of training rows.
    """

    parent: int | None = None
    manifest_sha256: str = ""
    dataset_uri: str = ""
    reason: str = "training.start_from is base"
    new_labels: Sequence[str] = ()
    dropped_labels: Sequence[str] = ()
    new_rows: int = 0
    replayed_rows: int = 0
    known_rows: int = 0
    adapted: str = ""
    """Where among the run's files the adapted base model stands; empty without ``training.adapt``."""

    def facts(self) -> dict[str, Any]:
        """For the lineage and the run's record."""
        return {key: value for key, value in asdict(self).items() if key not in ("manifest_sha256", "dataset_uri", "adapted")}

    def sentence(self) -> str:
        """For people who watch the run."""
        if self.parent is None:
            return f"from the base model: {self.reason}"
        return f"from v{self.parent}: {self.new_rows} new row(s), {self.replayed_rows} of {self.known_rows} known one(s)"


def find(settings: ModelSettings, registry: Registry, storage: Storage, dataset: datasets.Dataset) -> Start:
    """What a run of ``settings`` on ``dataset`` starts from.

    Where the champion cannot be gone on from, because there is none or because it has another task or base model, that is the
    base model, and the reason says so: whoever changes the base model wants a run that starts from it.

    Raises:
        CorruptVersion: the champion's files are not what was published.
        DataError: the data that the champion knows is not what was frozen.
        StorageError: the storage does not answer.
    """
    if settings.training.start_from == "base":
        return Start()
    champion = registry.champion_version(settings.name)
    if champion is None:
        return Start(reason="there is no champion yet")
    with tempfile.TemporaryDirectory(prefix="baton-fetch-") as cache:
        _, manifest = storage.fetch(champion, Path(cache))  # fails here, with a reason, and not in each worker
    for what, theirs, ours in (
        ("task", manifest.task, settings.task),
        ("base model", manifest.base_model, settings.base_model),
    ):
        if theirs != ours:
            return Start(reason=f"the champion, v{champion.number}, has the {what} {theirs}, and this run {ours}")
    known, labels = set(manifest.labels), dataset.version.labels
    uri = str(manifest.dataset.get("uri", ""))
    selection = select(task_type(settings.task), settings.training, dataset.train, _known(settings, storage, uri))
    return Start(
        parent=champion.number,
        manifest_sha256=champion.manifest_sha256,
        dataset_uri=uri,
        reason=f"v{champion.number} is the champion",
        new_labels=[label for label in labels if label not in known],
        dropped_labels=[label for label in manifest.labels if label not in labels],
        new_rows=selection.new,
        replayed_rows=selection.replayed,
        known_rows=selection.known,
    )


def rows(start: Start, settings: ModelSettings, storage: Storage, dataset_uri: str, fold: int | None = None) -> Selection:
    """The rows of the data set at ``dataset_uri`` that a run with this start trains and validates on.

    ``fold`` counts with ``training.folds``: the part to validate on, or None to train on everything.
    """
    task_cls = task_type(settings.task)
    if settings.training.folds is not None:
        everything = datasets.load_split(task_cls, storage, dataset_uri, "train")
        parts = folds(task_cls, everything, settings.training.folds)
        train = [row for row, part in zip(everything, parts, strict=True) if part != fold]
        validation = [row for row, part in zip(everything, parts, strict=True) if part == fold]
        return Selection(train=train, validation=validation, new=len(train), replayed=0, known=0)
    before = None if start.parent is None else _known(settings, storage, start.dataset_uri)
    return select(task_cls, settings.training, datasets.load_split(task_cls, storage, dataset_uri, "train"), before)


def _known(settings: ModelSettings, storage: Storage, uri: str) -> list[Any]:
    """The rows that a version with the data set at ``uri`` knows; none where its manifest names no data set."""
    return datasets.load_split(task_type(settings.task), storage, uri, "train") if uri else []
