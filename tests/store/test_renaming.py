"""A model gets another name in a real database: every row that named it names it by the new one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from baton.errors import Conflict, NotFound
from baton.keys import Scope
from baton.store import database, renaming, schema
from baton.store.records import RolloutState, RunState
from baton.store.registry import Registry


@pytest.fixture
def url(either_url: str) -> str:
    """Every test here runs on both databases."""
    return either_url


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def some(column: sa.Column[Any], model: str) -> Any:
    """A value for a column; names of states are of rows that have ended."""
    if column.references(schema.models.c.name):
        return model
    if column.name == "state":
        return RunState.SUCCEEDED if column.table.name == "runs" else RolloutState.SETTLED
    if column.name == "uri":
        return f"file:///storage/models/{model}/versions/1"
    if column.name == "statistics":
        return np.ones((2, 3), dtype=np.int32)
    kinds: dict[type[Any], Any] = {str: "x", int: 1, float: 0.5, bool: True, bytes: b"x", dict: {}, datetime: NOW}
    return kinds.get(column.type.python_type, NOW)


def fill(registry: Registry, model: str) -> None:
    """Write a row of ``model`` into every table that names one."""
    with database.writing(registry._engine) as connection:
        for table, _ in renaming.referring():
            values = {
                column.name: some(column, model)
                for column in table.columns
                if not (column.primary_key and column.autoincrement is True) and (not column.nullable or column.name == "uri")
            }
            for key in table.foreign_keys:
                if key.column.table is not schema.models and key.parent.name in values:
                    values[key.parent.name] = connection.scalar(sa.select(sa.func.max(key.column)))
            connection.execute(table.insert().values(values))


def counts(registry: Registry, model: str) -> dict[str, int]:
    """The number of rows of a model in each table that names one."""
    with database.reading(registry._engine) as connection:
        return {
            table.name: connection.scalar(sa.select(sa.func.count()).select_from(table).where(column == model)) or 0
            for table, column in renaming.referring()
        }


def test_every_row_goes_with_the_model(registry):
    registry.declare_model("old", {"name": "old", "task": "ner"})
    fill(registry, "old")
    before = counts(registry, "old")
    assert len(before) >= 15
    assert min(before.values()) == 1
    registry.declare_model("new", {"name": "new"})  # a service that has nothing of it yet
    registry.retrain.changed("new", "drift", "x")
    moved = registry.check_rename("old", "new")
    assert moved == {"version": 1, "run": 1, "correction": 1, "data set": 1, "logged answer": 1}
    registry.rename("old", "new", "Renamed from old to new.")
    assert counts(registry, "new") == before | {"incidents": 2}
    assert set(registry.declared()) == {"m", "new"}
    assert registry.settings("new") == {"name": "new", "task": "ner"}
    assert registry.versions.get("new", 1).uri == "file:///storage/models/new/versions/1"
    newest = registry.history.incidents("new")[0]
    assert (newest.kind, newest.detail, newest.version) == ("renamed", "Renamed from old to new.", None)


def test_keys_that_are_limited_to_the_model_stay_so(registry):
    registry.declare_model("old")
    limited = registry.keys.create("app", [Scope.PREDICT], models=["old", "m"])[0]
    other = registry.keys.create("other", [Scope.PREDICT], models=["m"])[0]
    free = registry.keys.create("free", [Scope.PREDICT])[0]
    registry.rename("old", "new", "so")
    assert {key.id: key.models for key in registry.keys.all()} == {
        limited.id: {"new", "m"},
        other.id: {"m"},
        free.id: None,
    }


def test_what_goes_on_is_not_renamed(registry):
    registry.declare_model("old")
    run = registry.runs.create("old", {})
    with pytest.raises(Conflict, match=f"old has an active run, {run.id}; wait for it or cancel it: `baton cancel {run.id}`"):
        registry.check_rename("old", "new")
    registry.runs.finish(run.id, RunState.CANCELLED)
    registry.check_rename("old", "new")
    fill(registry, "old")
    with database.writing(registry._engine) as connection:
        connection.execute(schema.rollouts.update().values(state=RolloutState.CANARY))
    with pytest.raises(Conflict, match="old has an active roll-out, of v1"):
        registry.rename("old", "new", "so")
    assert registry.versions.get("old", 1)


def test_no_model_is_renamed_over_another_one(registry):
    registry.declare_model("old")
    registry.declare_model("new")
    fill(registry, "new")
    with pytest.raises(Conflict, match="new exists already, with 1 row in versions; choose a name that is free"):
        registry.rename("old", "new", "so")
    with pytest.raises(NotFound, match="unheard"):
        registry.rename("unheard", "other", "so")
    assert set(registry.declared()) == {"m", "old", "new"}
