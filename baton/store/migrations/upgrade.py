"""Migrates the schema of the registry's database.

A module of its own because Alembic takes long to load and a process that serves or trains a model never needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from baton.errors import RegistryError
from baton.store import database


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to this code's revision, if it is not there yet. Safe to call from several processes.

    Raises:
        RegistryError: the database cannot be reached, or its schema is newer than this code.
    """
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                from baton.store import postgres

                postgres.begin_migration(connection)  # SQLite has one writer at a time anyway
            current = _revision(connection)
            if current == _revisions()[0]:
                return
            if newer := _newer(current):
                raise newer
            config = _alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except sa.exc.SQLAlchemyError as error:
        raise database.unavailable(error) from error


def check(engine: sa.Engine) -> None:
    """Raise ``RegistryError`` unless the database responds and has this code's schema."""
    with database.reading(engine) as connection:
        current = _revision(connection)
    head = _revisions()[0]
    if current == head:
        return
    if newer := _newer(current):
        raise newer
    raise RegistryError(f"the database is at schema {current!r}, this code needs {head!r}; `baton up` migrates it")


def is_empty(engine: sa.Engine) -> bool:
    """Return whether this database has no schema yet. Raises ``RegistryError`` if it does not respond."""
    with database.reading(engine) as connection:
        return _revision(connection) is None


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("baton.store") / "migrations"))
    return config


def _newer(current: str | None) -> RegistryError | None:
    """Return an error if the schema ``current`` is from a later version of Baton, whose tables may mean something else."""
    if current is None or current in _revisions():
        return None
    return RegistryError(
        f"the database is at schema {current!r}, which this version of Baton (schema {_revisions()[0]!r}) does not know; "
        "upgrade Baton"
    )


@cache
def _revisions() -> Sequence[str]:
    """Return all schema revisions that this code knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()]


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
