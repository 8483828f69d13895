"""A model gets another name: every row that refers to it does so by the new one. Knows no files.

A query inside a transaction of the caller; `Registry` has it as a method.
"""

from __future__ import annotations

import sqlalchemy as sa

from baton.errors import Conflict
from baton.store import database, schema
from baton.store.history import insert_incident
from baton.store.records import HistoryKind, RolloutState, RunState
from baton.wording import counted

MOVED = {
    "version": schema.versions,
    "run": schema.runs,
    "correction": schema.feedback,
    "data set": schema.datasets,
    "logged answer": schema.predictions,
}
"""What people count a model's possessions by, and the tables that have them."""

EMPTY = (schema.versions, schema.runs, schema.predictions, schema.feedback, schema.datasets, schema.decisions)
"""Tables in which the new name must have no rows. What others have of a model without any of these can go."""


def referring() -> list[tuple[sa.Table, sa.Column[str]]]:
    """Return every table with a column that names a model, and that column."""
    tables = schema.metadata.sorted_tables
    return [(table, column) for table in tables for column in table.columns if column.references(schema.models.c.name)]


def count(connection: sa.Connection, model: str) -> dict[str, int]:
    """Return what a model has: the number of rows by their names in `MOVED`."""
    rows = sa.select(sa.func.count())
    return {name: connection.scalar(rows.where(table.c.model == model)) or 0 for name, table in MOVED.items()}


def check(connection: sa.Connection, old: str, new: str) -> None:
    """Raise unless ``old`` can be renamed to ``new`` now.

    Raises:
        NotFound: there is no model ``old``.
        Conflict: ``old`` has an active run or roll-out, or there is a model ``new`` already.
    """
    database.lock_model(connection, old)
    runs, rollouts = schema.runs, schema.rollouts
    active = sa.select(runs.c.id).where(runs.c.model == old, runs.c.state.in_([RunState.QUEUED, RunState.RUNNING]))
    run = connection.scalar(active)
    if run is not None:
        raise Conflict(f"{old} has an active run, {run}; wait for it or cancel it: `baton cancel {run}`")
    finals = [state for state in RolloutState if state.final]
    rollout = connection.scalar(sa.select(rollouts.c.version).where(rollouts.c.model == old, ~rollouts.c.state.in_(finals)))
    if rollout is not None:
        raise Conflict(f"{old} has an active roll-out, of v{rollout}; wait for its end, or end it: `baton rollback {old}`")
    for table in EMPTY:
        count = connection.scalar(sa.select(sa.func.count()).select_from(table).where(table.c.model == new))
        if count:
            raise Conflict(f"{new} exists already, with {counted(count, 'row')} in {table.name}; choose a name that is free")


def rename(connection: sa.Connection, old: str, new: str, said: str) -> None:
    """Rename a model in all tables, and add ``said`` to its history. Raises like `check`."""
    check(connection, old, new)
    models = schema.models
    tables = referring()
    for table, column in reversed(tables):  # what a service wrote down of a model that has nothing yet
        connection.execute(table.delete().where(column == new))
    connection.execute(models.delete().where(models.c.name == new))
    row = connection.execute(models.select().where(models.c.name == old)).one()
    settings = {**row.settings, **({"name": new} if "name" in row.settings else {})}
    connection.execute(models.insert().values({**row._mapping, "name": new, "settings": settings}))
    for table, column in tables:
        connection.execute(table.update().where(column == old).values({column.name: new}))
    connection.execute(models.delete().where(models.c.name == old))
    versions = schema.versions
    moved = sa.func.replace(versions.c.uri, f"/models/{old}/versions/", f"/models/{new}/versions/")
    connection.execute(versions.update().where(versions.c.model == new, versions.c.uri.is_not(None)).values(uri=moved))
    _rename_in_keys(connection, old, new)
    insert_incident(connection, new, None, HistoryKind.RENAMED, said)


def _rename_in_keys(connection: sa.Connection, old: str, new: str) -> None:
    """API keys that are limited to models keep their rights."""
    keys = schema.api_keys
    for key, limited in connection.execute(sa.select(keys.c.id, keys.c.models).where(keys.c.models.is_not(None))).all():
        if old in limited:
            names = [new if name == old else name for name in limited]
            connection.execute(keys.update().where(keys.c.id == key).values(models=names))
