"""Opens the registry's database, begins transactions, and turns database errors into Baton's own (`baton.errors`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from baton.errors import Conflict, InvalidInput, NotFound, RegistryError
from baton.installation import install_command
from baton.store import schema
from baton.urls import without_passwords

READ_ONLY = "baton_read_only"
"""Execution option of a connection that only reads: SQLite then takes no write lock."""

BUSY_TIMEOUT_S = 30
"""Seconds that a transaction on SQLite waits for a lock before it fails."""

IDS_PER_QUERY = 500
"""Maximum number of ids in one query: databases limit the number of parameters of a statement."""

EXAMPLES = "examples: sqlite:///.baton/baton.db, postgresql+psycopg://user@host/baton"

POSTGRESQL = ("postgresql", "postgresql+psycopg")


def connect(url: str, wait_s: float = 0.0, *, read_only: bool = False) -> sa.Engine:
    """Return an engine for ``url``. Opens no connection yet.

    ``wait_s``: how many seconds a transaction on PostgreSQL waits, before it begins, for a server that is down.
    ``read_only``: let the database refuse every write; a SQLite file that is not there is an error, and is not created.

    SQLite runs in WAL mode, and a writing transaction takes the write lock when it begins (``BEGIN IMMEDIATE``).
    A deferred transaction that first reads and then writes could fail with SQLITE_BUSY half-way, whatever the busy timeout.

    Raises:
        RegistryError: SQLAlchemy does not understand the URL, it names another database than SQLite or PostgreSQL, or the
            driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in POSTGRESQL:
            return _postgres(parsed, wait_s, read_only=read_only)
        if parsed.get_backend_name() != "sqlite":
            raise RegistryError(
                f"database {without_passwords(url)!r} cannot be opened: "
                f"{parsed.drivername!r} is neither sqlite nor postgresql; {EXAMPLES}"
            )
        if parsed.database and read_only:
            parsed = parsed.set(database=Path(parsed.database).resolve().as_uri(), query={"mode": "ro", "uri": "true"})
        elif parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(
            parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True, json_serializer=_json_text
        )
    except (sa.exc.ArgumentError, OSError) as error:
        raise RegistryError(
            f"database {without_passwords(url)!r} cannot be opened: {without_passwords(str(error))}; {EXAMPLES}"
        ) from error
    event.listen(engine, "connect", _prepare_reading if read_only else _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def exists(url: str) -> bool:
    """Return whether the file of a SQLite database is there. Of a server this is not known before it is asked: True."""
    parsed = sa.make_url(url)
    return parsed.get_backend_name() != "sqlite" or (parsed.database is not None and Path(parsed.database).is_file())


def _json_text(value: Any) -> str:
    """Return JSON values as text. ``json.dumps`` takes seven times as long, which replicas would spend beside requests."""
    try:
        return to_json(value).decode()
    except PydanticSerializationError:  # a lone surrogate, as file names may have
        return json.dumps(value)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open one transaction that may write. It is committed at the end of the block, and rolled back by an exception.

    Raises:
        Conflict: the change violates a constraint.
        InvalidInput: the database cannot store a value; PostgreSQL for example takes no text with a NUL character.
        RegistryError: the database does not respond.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.IntegrityError as error:
        raise Conflict(f"the registry refused the change: {_message(error)}") from error
    except (sa.exc.DataError, UnicodeEncodeError) as error:
        raise _unstorable(error) from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open one transaction that only reads and blocks no writer. Raises ``RegistryError`` if the database does not respond."""
    try:
        with engine.connect() as connection:
            yield connection.execution_options(**{READ_ONLY: True})
    except (sa.exc.DataError, UnicodeEncodeError) as error:
        raise _unstorable(error) from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def lock_model(connection: sa.Connection, model: str) -> None:
    """Serialise writers of ``model`` until the transaction ends, for example while a version number is allocated.

    SQLite has one writer at a time anyway. On PostgreSQL this locks the model's row with ``FOR NO KEY UPDATE``, so that other
    transactions can still write rows that refer to it. Raises ``NotFound`` for an unknown model.
    """
    row = sa.select(schema.models.c.name).where(schema.models.c.name == model).with_for_update(key_share=True)
    if connection.scalar(row) is None:
        raise unknown_model(connection, model)


def require_model(connection: sa.Connection, model: str) -> None:
    """Raise ``NotFound`` unless ``model`` is declared."""
    if connection.scalar(sa.select(schema.models.c.name).where(schema.models.c.name == model)) is None:
        raise unknown_model(connection, model)


def unknown_model(connection: sa.Connection, model: str) -> NotFound:
    """Return the error for a model that does not exist; its message lists the names of the models that do."""
    known = ", ".join(connection.scalars(sa.select(schema.models.c.name).order_by(schema.models.c.name)))
    return NotFound(f"unknown model {model!r}; known models: {known or 'none'}")


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """Return an INSERT that takes ``on_conflict_do_…``, which SQLAlchemy offers only for each dialect."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def time(connection: sa.Connection, seconds: float = 0.0) -> sa.ColumnElement[datetime]:
    """Return the database's own time as an SQL expression, ``seconds`` later. PostgreSQL's is that of its server.

    Clients on several machines share it; their own clocks differ.
    """
    if connection.dialect.name == "sqlite":  # in the form in which SQLAlchemy writes datetimes: they are compared as text
        return sa.func.strftime("%Y-%m-%d %H:%M:%f000", "now", f"{seconds:+.3f} seconds", type_=schema.UtcDateTime)
    # not now(): that is when the transaction began, maybe long before it got a lock
    return sa.func.clock_timestamp(type_=schema.UtcDateTime) + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def unavailable(error: sa.exc.SQLAlchemyError) -> RegistryError:
    """Return the database's own error message as a ``RegistryError``, without the SQL."""
    return RegistryError(f"the registry's database does not answer: {_message(error)}")


def _unstorable(error: Exception) -> InvalidInput:
    return InvalidInput(f"the registry's database cannot hold this value: {_message(error)}")


def _message(error: Exception) -> str:
    """Return the database's error message without the SQL and without the values, which may be texts of users."""
    if isinstance(error, UnicodeEncodeError):
        return "it contains half of a surrogate pair, which is not a character"
    cause: Any = getattr(error, "orig", None) or error
    if type(cause).__module__.startswith("psycopg"):
        from baton.store import postgres

        return postgres.message_of(cause)
    return str(cause)


def _postgres(url: sa.URL, wait_s: float, *, read_only: bool) -> sa.Engine:
    try:
        from baton.store import postgres

        return postgres.engine(url, wait_s, _json_text, read_only=read_only)
    except ImportError as error:  # psycopg itself, or the libpq that it loads
        raise RegistryError(
            f"database {without_passwords(str(url))!r} cannot be opened: {error}; "
            f"`{install_command('postgres')}` installs the driver"
        ) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # pysqlite's own implicit BEGIN comes too late
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_reading(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
