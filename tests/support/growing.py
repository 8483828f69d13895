"""A model's data as it grows: base files that change, feedback that arrives, and versions that are frozen in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings, ModelSettings
from baton.store.feedback.correction import Correction
from baton.store.records import DatasetVersion, Feedback
from baton.store.registry import Registry
from baton.tasks import AnyTask
from baton.tasks.classification import Classification
from services.control.plane import ControlPlane
from tests.support.audit import drawn_text
from training import freezing
from training.context import Clock, Context
from training.data.datasets import Dataset, History, freeze

Row = Mapping[str, Any]

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class GrowingData:
    """One model's data. `freeze` passes the history as the pipeline does, with a dict instead of the registry's ledger."""

    def __init__(self, directory: Path, storage: Storage, task_cls: type[AnyTask] = Classification) -> None:
        self.directory, self.storage, self.task_cls = directory, storage, task_cls
        self.feedback: list[Feedback] = []
        self.ledger: dict[str, str] = {}
        self.versions: list[Dataset] = []
        self.train: list[Row] = []
        self.holdout: list[Row] | float = 0.2
        self.settings: dict[str, Any] = {}
        self.redact: Sequence[str] = ()

    def correct(self, *examples: Row) -> None:
        """Add feedback, each row a minute after the one before."""
        for example in examples:
            number = len(self.feedback) + 1
            received = BEGINNING + timedelta(minutes=number)
            self.feedback.append(
                Feedback(
                    id=number,
                    model="m",
                    client_id=None,
                    request_id=None,
                    position=0,
                    example=example,
                    received_at=received,
                )
            )

    def data(self) -> DataSettings:
        """Write the base files as they are now, and return the settings that name them."""
        sources = {"train": self._write("train.jsonl", self.train), "holdout": self.holdout}
        if not isinstance(self.holdout, float):
            sources["holdout"] = self._write("holdout.jsonl", self.holdout)
        return DataSettings.model_validate({**sources, **self.settings})

    def freeze(self) -> Dataset:
        """Freeze the next version, and add its splits to the ledger. No text may change its split."""
        previous = len(self.versions) or None
        history = History(feedback=iter(self.feedback), ledger=dict(self.ledger), previous=previous)
        dataset = freeze("m", self.task_cls, self.data(), self.storage, history, redact=self.redact)
        for group, split in dataset.splits.items():
            assert self.ledger.setdefault(group, split) == split, "a text changed splits"
        self.versions.append(dataset)
        return dataset

    def _write(self, name: str, rows: Sequence[Row]) -> str:
        path = self.directory / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)


def freeze_recorded(registry: Registry, settings: ModelSettings, storage: Storage) -> DatasetVersion:
    """Freeze the model's next version as a run does: with the registry's feedback and ledger, and recorded there."""
    clock = Clock(lambda stage, progress: None)
    context = Context(settings=settings, declared=settings, registry=registry, storage=storage, clock=clock)
    return freezing.freeze(context).version


def correct(registry: Registry, model: str, *examples: Row) -> None:
    """Add feedback without client ids to the registry."""
    corrections = [Correction(client_id=None, request_id=None, position=0, example=dict(example)) for example in examples]
    registry.feedback.add(model, corrections)


SMALL_TRAIN = (
    {"text": "where is my parcel?", "label": "shipping"},
    {"text": "the courier was late", "label": "shipping"},
    {"text": "refund, please", "label": "billing"},
    {"text": "the invoice is wrong", "label": "billing"},
)
SMALL_HOLDOUT = ({"text": "a parcel", "label": "shipping"}, {"text": "a refund", "label": "billing"})


def three_versions(control: ControlPlane, directory: Path) -> list[DatasetVersion]:
    """Data sets 1 to 3 of model ``m``.

    The base data; then a conflict, a new row for each split, a correction of a held-out text and an unusable row; then the base
    file without its first row.
    """
    settings = control.config.model("m")
    growing = GrowingData(directory, Storage(control.config.storage))
    growing.train, growing.holdout = list(SMALL_TRAIN), list(SMALL_HOLDOUT)
    versions = []

    def freeze() -> None:
        current = settings.model_copy(update={"data": growing.data()})
        versions.append(freeze_recorded(control.registry, current, growing.storage))

    freeze()
    correct(
        control.registry,
        "m",
        {"text": "Refund, please", "label": "shipping"},
        {"text": "the invoice was wrong twice", "label": "billing"},
        {"text": drawn_text(control.registry, "m"), "label": "billing"},
        {"text": "a parcel", "label": "billing"},
        {"text": ""},
    )
    growing.holdout.append({"text": "one more refund", "label": "billing"})
    freeze()
    growing.train.pop(0)
    freeze()
    return versions
