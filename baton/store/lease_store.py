"""Leases: who may do a piece of work now, of several that could. Knows neither the work nor the holders.

A lease ends by the clock of the database, the only one that all holders share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa

from baton.store import database, schema

KEPT_SECONDS = 86_400.0
"""How long a lease that ended is kept. Its holder may come back; after a day it is deleted."""


class LeaseStore:
    """Stores leases in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def acquire(self, names: Collection[str], owner: str, seconds: float) -> set[str]:
        """Take or renew leases for ``seconds``, except those that another owner holds. Return which ``owner`` holds now."""
        table = schema.leases
        with database.writing(self._engine) as connection:
            ends = database.time(connection, seconds)
            ended_long_ago = sa.select(table.c.name).where(table.c.expires_at <= database.time(connection, -KEPT_SECONDS))
            connection.execute(table.delete().where(table.c.name.in_(ended_long_ago.with_for_update(skip_locked=True))))
            # in one order: of two that take the same leases in opposite orders, each would wait for the other
            rows = [{"name": name, "owner": owner, "expires_at": ends} for name in sorted(names)]
            new = database.insert(connection, table).values(rows)
            taken = new.on_conflict_do_update(
                index_elements=[table.c.name],
                set_={"owner": new.excluded.owner, "expires_at": new.excluded.expires_at},
                where=sa.or_(table.c.owner == owner, table.c.expires_at <= database.time(connection)),
            )
            return set(connection.scalars(taken.returning(table.c.name)))

    def expiries(self, names: Collection[str]) -> Mapping[str, datetime]:
        """Return when each of ``names`` ends or ended; names that nobody has taken, or not for a day, are missing."""
        table = schema.leases
        with database.reading(self._engine) as connection:
            rows = connection.execute(sa.select(table.c.name, table.c.expires_at).where(table.c.name.in_(names)))
            return {row.name: row.expires_at for row in rows}

    def held(self, names: Collection[str]) -> set[str]:
        """Return which of ``names`` somebody holds now."""
        table = schema.leases
        with database.reading(self._engine) as connection:
            now = database.time(connection)
            return set(connection.scalars(sa.select(table.c.name).where(table.c.name.in_(names), table.c.expires_at > now)))

    def release(self, owner: str) -> None:
        """Give up all leases of ``owner``, so that another one need not wait for their end."""
        with database.writing(self._engine) as connection:
            connection.execute(schema.leases.delete().where(schema.leases.c.owner == owner))
