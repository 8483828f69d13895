"""Opens the registry's database and brings its schema up to date. Knows no tables by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from baton.errors import Conflict, RegistryError

READ_ONLY = "baton_read_only"
"""Execution option of a connection that will not write: SQLite then takes no write lock."""

BUSY_TIMEOUT_S = 30


def connect(url: str) -> sa.Engine:
    """An engine for ``url``. Opens no connection yet.

    SQLite runs in WAL mode, and a writing transaction takes the write lock when it begins (``BEGIN IMMEDIATE``):
    a deferred one that reads and then writes could fail with SQLITE_BUSY half-way, whatever the busy timeout.

    Raises:
        RegistryError: the URL is not one that SQLAlchemy understands, or its driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(parsed, pool_pre_ping=True)
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
    except (sa.exc.ArgumentError, ModuleNotFoundError, OSError) as error:
        raise RegistryError(
            f"database {url!r} cannot be opened: {error}; examples: sqlite:///.baton/baton.db, postgresql+psycopg://user@host/baton"
        ) from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to this code's revision; does nothing when it is there. Safe to call from several processes.

    Raises:
        RegistryError: the database cannot be reached, or its schema is newer than this code.
    """
    config = _alembic()
    head = ScriptDirectory.from_config(config).get_current_head()
    try:
        with engine.begin() as connection:
            current = _revision(connection)
            if current == head:
                return
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if current is not None and current not in known:
                raise RegistryError(
                    f"the database is at schema {current!r}, which this version of Baton (schema {head!r}) does not know; "
                    "upgrade Baton"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def check(engine: sa.Engine) -> None:
    """Raise ``RegistryError`` unless the database answers and has this code's schema."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    try:
        with engine.connect() as connection:
            current = _revision(connection.execution_options(**{READ_ONLY: True}))
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error
    if current != head:
        raise RegistryError(f"the database is at schema {current!r}, this code needs {head!r}; `baton up` migrates it")


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction that may write; committed at the end, undone by an exception.

    Raises:
        Conflict: a constraint refused the change.
        RegistryError: the database does not answer.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.IntegrityError as error:
        raise Conflict(f"the registry refused the change: {error.orig}") from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction that only reads, and holds up no writer. Raises ``RegistryError`` when the database does not answer."""
    try:
        with engine.connect() as connection:
            yield connection.execution_options(**{READ_ONLY: True})
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def unavailable(error: sa.exc.SQLAlchemyError) -> RegistryError:
    """The database's own complaint as a ``RegistryError``, without the SQL."""
    cause = getattr(error, "orig", None) or error
    return RegistryError(f"the registry's database does not answer: {cause}")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("baton") / "migrations"))
    return config


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


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
