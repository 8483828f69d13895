"""Versions: their numbers, and what was published under each number. A published version never changes.

Moving the champion pointer between versions is the task of `registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from baton.errors import Conflict, NotFound
from baton.store import database, schema
from baton.store.records import PAGE, ModelVersion
from baton.store.rows import as_version, now


class VersionStore:
    """Stores versions in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def reserve(self, model: str, run_id: str | None, *, above: int = 0) -> int:
        """Reserve the next free number of ``model`` for a version that will be published. A run always gets the same number.

        ``above``: the greatest number in the storage. It may exceed every number in a database that was restored from a backup.
        Raises ``NotFound`` for an unknown model.
        """
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            if run_id is not None:
                taken = connection.scalar(sa.select(schema.versions.c.number).where(schema.versions.c.run_id == run_id))
                if taken is not None:
                    return int(taken)
            last = connection.scalar(sa.select(sa.func.max(schema.versions.c.number)).where(schema.versions.c.model == model))
            number = max(int(last or 0), above) + 1
            connection.execute(
                schema.versions.insert().values(model=model, number=number, run_id=run_id, published=False, created_at=now())
            )
            return number

    def publish(
        self,
        model: str,
        number: int,
        *,
        uri: str,
        manifest_sha256: str,
        metrics: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> ModelVersion:
        """Mark a reserved version as complete and readable. Only published versions are listed, promoted or served.

        Raises:
            Conflict: the number was not reserved, or its version is already published.
        """
        table = schema.versions
        with database.writing(self._engine) as connection:
            marked = connection.execute(
                table.update()
                .where(table.c.model == model, table.c.number == number, ~table.c.published)
                .values(uri=uri, manifest_sha256=manifest_sha256, metrics=metrics, lineage=lineage, published=True)
            )
            if marked.rowcount != 1:
                raise Conflict(f"{model} v{number} is not waiting to be published")
            return find(connection, model, number)

    def get(self, model: str, number: int) -> ModelVersion:
        """Return one published version. Raises ``NotFound``."""
        with database.reading(self._engine) as connection:
            return find(connection, model, number)

    def list(self, model: str, *, limit: int = PAGE, before: int | None = None) -> Sequence[ModelVersion]:
        """Return published versions, newest first. For the next page, pass the last number as ``before``."""
        table = schema.versions
        query = table.select().where(table.c.model == model, table.c.published).order_by(table.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.number < before)
        with database.reading(self._engine) as connection:
            return [as_version(row) for row in connection.execute(query)]


def find(connection: sa.Connection, model: str, number: int) -> ModelVersion:
    """Return what `VersionStore.get` returns, inside a transaction of the caller."""
    table = schema.versions
    row = connection.execute(
        table.select().where(table.c.model == model, table.c.number == number, table.c.published)
    ).one_or_none()
    if row is None:
        last = connection.scalar(sa.select(sa.func.max(table.c.number)).where(table.c.model == model, table.c.published))
        known = f"its versions go from 1 to {last}" if last else "it has no versions yet"
        raise NotFound(f"{model} has no version {number}; {known}")
    return as_version(row)
