"""What retraining must remember between two looks: who paused it, and what the history has been told. Knows no triggers."""

from __future__ import annotations

import sqlalchemy as sa

from baton.store import database, schema


class RetrainState:
    """On the registry's engine; every method is one transaction.

    Any method raises ``RegistryError`` when the database does not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def pause(self, model: str, reason: str | None) -> None:
        """No run of ``model`` starts by itself from now on; with None, runs may again."""
        self._put(model, "paused", reason)

    def paused(self, model: str) -> str | None:
        """Why retraining is paused; None while it is not."""
        with database.reading(self._engine) as connection:
            return self._get(connection, model, "paused")

    def changed(self, model: str, kind: str, key: str | None) -> bool:
        """Whether ``key`` differs from the one of the last call with this ``kind``; it is remembered."""
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
