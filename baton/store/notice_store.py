"""Notices: which entries of the history were told to whom, and which are still to be told. Knows neither HTTP nor URLs.

A receiver is a name here. It hears of what happens after it was first seen, and of each entry once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.rows import now

BEGINNING = ""
"""Event of the row that says since when a receiver is known. It is never due."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One event that one receiver is to be told of."""

    receiver: str
    event: str
    """Names the entry of the history; always the same for it."""
    model: str
    body: dict[str, Any]
    tries: int
    created_at: datetime


class NoticeStore:
    """Stores notices in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def known_since(self, receiver: str, model: str) -> datetime:
        """Return when this receiver was first seen with this model: now, if it was not."""
        table = schema.notices
        here = (table.c.receiver == receiver, table.c.model == model, table.c.event == BEGINNING)
        query = sa.select(table.c.created_at).where(*here)
        with database.reading(self._engine) as connection:
            known: datetime | None = connection.scalar(query)
        if known is not None:
            return known
        first = {"receiver": receiver, "event": BEGINNING, "model": model, "body": {}, "tries": 0, "created_at": now()}
        with database.writing(self._engine) as connection:
            connection.execute(database.insert(connection, table).values(first).on_conflict_do_nothing())
            since: datetime = connection.execute(query).scalar_one()
        return since

    def add(self, notices: Sequence[Notice]) -> None:
        """Add notices that are to be sent now; those that are there already stay as they are."""
        if notices:
            rows = [{**vars(notice), "due_at": notice.created_at} for notice in notices]
            with database.writing(self._engine) as connection:
                connection.execute(database.insert(connection, schema.notices).on_conflict_do_nothing(), rows)

    def due(self, receiver: str, models: Sequence[str], limit: int) -> list[Notice]:
        """Return notices that are to be sent now, oldest first."""
        table = schema.notices
        columns = [table.c[name] for name in Notice.__dataclass_fields__]
        query = (
            sa.select(*columns)
            .where(table.c.receiver == receiver, table.c.model.in_(models), table.c.due_at <= now())
            .order_by(table.c.created_at, table.c.event)
            .limit(limit)
        )
        with database.reading(self._engine) as connection:
            return [Notice(**row._mapping) for row in connection.execute(query)]

    def done(self, notice: Notice) -> None:
        """Never send this notice again: it was received, or is given up."""
        self._change(notice, due_at=None)

    def again(self, notice: Notice, at: datetime) -> None:
        """Send this notice again at that time."""
        self._change(notice, due_at=at, tries=notice.tries + 1)

    def _change(self, notice: Notice, **values: Any) -> None:
        table = schema.notices
        here = (table.c.receiver == notice.receiver, table.c.model == notice.model, table.c.event == notice.event)
        with database.writing(self._engine) as connection:
            connection.execute(table.update().where(*here).values(**values))
