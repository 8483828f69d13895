"""Opens the registry's database, and says what went wrong in one way for every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from baton.errors import Conflict, InvalidInput, NotFound, RegistryError
from baton.store import schema
from baton.store.urls import public

READ_ONLY = "baton_read_only"
"""Execution option of a connection that will not write: SQLite then takes no write lock."""

BUSY_TIMEOUT_S = 30


EXAMPLES = "examples: sqlite:///.baton/baton.db, postgresql+psycopg://user@host/baton"

POSTGRESQL = ("postgresql", "postgresql+psycopg")


def connect(url: str, wait_s: float = 0.0) -> sa.Engine:
    """An engine for ``url``. Opens no connection yet.

    ``wait_s``: how long a transaction on PostgreSQL may wait, before it begins, for a server that is down.

    SQLite runs in WAL mode, and a writing transaction takes the write lock when it begins (``BEGIN IMMEDIATE``):
    a deferred one that reads and then writes could fail with SQLITE_BUSY half-way, whatever the busy timeout.

    Raises:
        RegistryError: the URL is not one that SQLAlchemy understands, or its driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in POSTGRESQL:
            return _postgres(parsed, wait_s)
        if parsed.get_backend_name() != "sqlite":
            raise RegistryError(
                f"database {public(url)!r} cannot be opened: {parsed.drivername!r} is neither sqlite nor postgresql; {EXAMPLES}"
            )
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
    except (sa.exc.ArgumentError, OSError) as error:
        raise RegistryError(f"database {public(url)!r} cannot be opened: {public(str(error))}; {EXAMPLES}") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction that may write; committed at the end, undone by an exception.

    Raises:
        Conflict: a constraint refused the change.
        InvalidInput: the database has no room for a value; PostgreSQL for one with a NUL character.
        RegistryError: the database does not answer.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.IntegrityError as error:
        raise Conflict(f"the registry refused the change: {_complaint(error)}") from error
    except (sa.exc.DataError, UnicodeEncodeError) as error:
        raise _unfit(error) from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction that only reads, and holds up no writer. Raises ``RegistryError`` when the database does not answer."""
    try:
        with engine.connect() as connection:
            yield connection.execution_options(**{READ_ONLY: True})
    except (sa.exc.DataError, UnicodeEncodeError) as error:
        raise _unfit(error) from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def lock_model(connection: sa.Connection, model: str) -> None:
    """Wait for whoever else writes about ``model`` what only one may write at a time, a next number say.

    SQLite has one writer at a time anyway; on PostgreSQL the model's row is the turn, held until the transaction ends, and
    locked no further than that rows which refer to it can be written meanwhile. Raises ``NotFound`` for an unknown model.
    """
    row = sa.select(schema.models.c.name).where(schema.models.c.name == model).with_for_update(key_share=True)
    if connection.scalar(row) is None:
        raise unknown_model(connection, model)


def unknown_model(connection: sa.Connection, model: str) -> NotFound:
    """What to raise when no model has this name: says which names there are."""
    known = ", ".join(connection.scalars(sa.select(schema.models.c.name).order_by(schema.models.c.name)))
    return NotFound(f"unknown model {model!r}; known models: {known or 'none'}")


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An insert that can be told what to do about conflicts; SQLAlchemy has it by dialect only."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def unavailable(error: sa.exc.SQLAlchemyError) -> RegistryError:
    """The database's own complaint as a ``RegistryError``, without the SQL."""
    return RegistryError(f"the registry's database does not answer: {_complaint(error)}")


def _unfit(error: Exception) -> InvalidInput:
    """A value that the database does not take."""
    return InvalidInput(f"the registry's database cannot hold this value: {_complaint(error)}")


def _complaint(error: Exception) -> str:
    """What the database says, without the SQL, and without the values: they may be users' texts."""
    if isinstance(error, UnicodeEncodeError):
        return "it holds half of a surrogate pair, which is no character"
    cause: Any = getattr(error, "orig", None) or error
    if type(cause).__module__.startswith("psycopg"):
        from baton.store import postgres

        return postgres.complaint(cause)
    return str(cause)


def _postgres(url: sa.URL, wait_s: float) -> sa.Engine:
    try:
        from baton.store import postgres
    except ImportError as error:  # psycopg itself, or the libpq that it looks for
        raise RegistryError(
            f"database {public(str(url))!r} cannot be opened: {error}; `pip install 'baton[postgres]'` brings the driver"
        ) from error
    return postgres.engine(url, wait_s)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # pysqlite's own implicit BEGIN would come too late
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
