"""What automatic retraining remembers between two checks: whether it is paused, and what it has already reported.

Knows no triggers.
"""

from __future__ import annotations

import sqlalchemy as sa

from baton.store import database, schema


class RetrainStore:
    """Stores one value for each model and kind in the registry's database. Every method is one transaction, except `changed`.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def pause(self, model: str, reason: str | None) -> None:
        """Stop automatic retraining of ``model`` for ``reason``; None resumes it. Raises ``NotFound`` for an unknown model."""
        self._put(model, "paused", reason)

    def paused(self, model: str) -> str | None:
        """Return why retraining is paused, or None while it is not."""
        with database.reading(self._engine) as connection:
            return self._get(connection, model, "paused")

    def changed(self, model: str, kind: str, key: str | None) -> bool:
        """Store ``key`` as the newest one of this ``kind``, and return whether it differs from the one stored before."""
        with database.reading(self._engine) as connection:
            if self._get(connection, model, kind) == key:
                return False
        self._put(model, kind, key)
        return True

    @staticmethod
    def _get(connection: sa.Connection, model: str, kind: str) -> str | None:
        table = schema.retrain_state
        return connection.scalar(sa.select(table.c.value).where(table.c.model == model, table.c.kind == kind))

    def _put(self, model: str, kind: str, value: str | None) -> None:
        table = schema.retrain_state
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            connection.execute(table.delete().where(table.c.model == model, table.c.kind == kind))
            if value is not None:
                connection.execute(table.insert().values(model=model, kind=kind, value=value))
