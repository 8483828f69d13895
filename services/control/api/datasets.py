"""Routes of the control API about data set versions: what is in them, and what changed from one to another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Path, Query

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig
from baton.errors import InvalidInput
from baton.store.dataset_store import PAGE
from baton.store.records import DatasetVersion
from baton.store.registry import Registry
from baton.tasks import task_type
from services.control.api.query_params import LARGEST, Before

Number = Annotated[int, Path(ge=1, le=LARGEST, description="A data set version.")]


class Control(Protocol):
    """What these routes need of the control plane."""

    config: BatonConfig
    registry: Registry


def add_datasets(api: FastAPI, control: Control) -> None:
    """Add the routes below ``/api/models/{model}/datasets``."""
    store = control.registry.datasets
    storage = Storage(control.config.storage)

    @api.get("/api/models/{model}/datasets", tags=["datasets"])
    def list_datasets(
        model: str,
        limit: Annotated[int, Query(ge=1, le=500, description="Rows in one page.")] = PAGE,
        before: Before = None,
    ) -> dict[str, Any]:
        """Data set versions, newest first, without the texts that their records show."""
        control.config.model(model)
        found = store.list(model, limit=limit, before=before)
        last = found[-1].number if len(found) == limit else None
        return {"items": [_brief(version) for version in found], "next": last}

    @api.get("/api/models/{model}/datasets/{number}", tags=["datasets"])
    def get_dataset(model: str, number: Number) -> dict[str, Any]:
        """One data set version: rows by source and label, what was taken out and why."""
        control.config.model(model)
        return asdict(store.get(model, number))

    @api.get("/api/models/{model}/datasets/{number}/quarantine", tags=["datasets"])
    def list_quarantine(
        model: str,
        number: Number,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Rows in one page.")] = 500,
        after: Annotated[int, Query(ge=0, le=LARGEST, description="Rows to skip: `next` of the page before.")] = 0,
    ) -> dict[str, Any]:
        """Rows of a data set version that nobody could use: where each stood, and the reason."""
        control.config.model(model)
        rows = frozen.read_quarantine(storage, store.get(model, number).uri)
        end = after + limit
        return {"items": rows[after:end], "next": end if end < len(rows) else None}

    @api.get("/api/models/{model}/datasets/{number}/diff", tags=["datasets"])
    def diff_datasets(
        model: str,
        number: Number,
        against: Annotated[
            int | None, Query(ge=1, le=LARGEST, description="The version to compare with; by default the one before.")
        ] = None,
    ) -> dict[str, Any]:
        """Rows added, removed and relabelled on each split since another version, by label, with the first of their texts."""
        task_cls = task_type(control.config.model(model).task)
        after = store.get(model, number)
        against = after.previous if against is None else against
        if against is None:
            raise InvalidInput(f"data set {number} is the first of {model}; there is none before it to compare with")
        before = store.get(model, against)
        splits = [frozen.read_splits(task_cls, storage, version.uri) for version in (before, after)]
        changes = {split: asdict(change) for split, change in frozen.difference(task_cls, *splits).items()}
        return {"model": model, "number": number, "against": before.number, **changes}


def _brief(version: DatasetVersion) -> dict[str, Any]:
    """A version without what fills screens."""
    whole = asdict(version)
    conflicts = {key: value for key, value in version.conflicts.items() if key != "examples"}
    return {key: value for key, value in whole.items() if key != "quarantined"} | {"conflicts": conflicts}
