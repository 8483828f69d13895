"""Routes that read data set versions: their rows, their quarantine, and the difference between two of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.errors import InvalidInput
from baton.store.records import LARGEST_INTEGER, PAGE, DatasetVersion
from baton.tasks import task_type
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Before, Limit

Number = Annotated[int, Path(ge=1, le=LARGEST_INTEGER, description="A data set version.")]


def add_datasets(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes below ``/api/models/{model}/datasets``."""
    store = control.registry.datasets
    storage = Storage(control.config.storage)

    @api.get("/api/models/{model}/datasets", tags=["datasets"])
    def list_datasets(
        model: str,
        limit: Limit = PAGE,
        before: Before = None,
    ) -> dict[str, Any]:
        """List data set versions, newest first, without the texts in their records."""
        control.config.model(model)
        found = store.list(model, limit=limit, before=before)
        last = found[-1].number if len(found) == limit else None
        return {"items": [_without_texts(version) for version in found], "next": last}

    @api.get("/api/models/{model}/datasets/{number}", tags=["datasets"])
    def get_dataset(model: str, number: Number) -> dict[str, Any]:
        """Return one data set version: rows by split, source and label, and how many were left out for which reason."""
        control.config.model(model)
        return asdict(store.get(model, number))

    @api.get("/api/models/{model}/datasets/{number}/quarantine", tags=["datasets"])
    def list_quarantine(
        model: str,
        number: Number,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of rows in one page.")] = 500,
        after: Annotated[
            int, Query(ge=0, le=LARGEST_INTEGER, description="Number of rows to skip: `next` of the previous page.")
        ] = 0,
    ) -> dict[str, Any]:
        """List the quarantined rows of a data set version: where each came from, and why it could not be used."""
        control.config.model(model)
        rows = frozen.read_quarantine(storage, store.get(model, number).uri)
        end = after + limit
        return {"items": rows[after:end], "next": end if end < len(rows) else None}

    @api.get("/api/models/{model}/datasets/{number}/diff", tags=["datasets"])
    def diff_datasets(
        model: str,
        number: Number,
        against: Annotated[
            int | None, Query(ge=1, le=LARGEST_INTEGER, description="The version to compare with; by default the previous one.")
        ] = None,
    ) -> dict[str, Any]:
        """Return the rows added, removed and relabelled in each split since another version, by label, with the first texts."""
        task_cls = task_type(control.config.model(model).task)
        after = store.get(model, number)
        against = after.previous if against is None else against
        if against is None:
            raise InvalidInput(f"data set {number} is the first of {model}; there is none before it to compare with")
        before = store.get(model, against)
        found = frozen.difference(task_cls, storage, before.uri, after.uri)
        changes = {split: asdict(change) for split, change in found.items()}
        return {"model": model, "number": number, "against": before.number, **changes}


def _without_texts(version: DatasetVersion) -> dict[str, Any]:
    whole = asdict(version)
    conflicts = {key: value for key, value in version.conflicts.items() if key != "examples"}
    return {key: value for key, value in whole.items() if key != "quarantined"} | {"conflicts": conflicts}
