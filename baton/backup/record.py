"""What a backup is: a directory with a copy of the database, the files of the storage, and ``backup.json``, written last.

A directory without ``backup.json`` is a backup that was broken off, and is never restored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from baton.artifacts.manifest import FileEntry
from baton.artifacts.storage import Storage
from baton.errors import BackupError, ConfigError
from baton.urls import without_passwords

RECORD, DATABASE, STORAGE = "backup.json", "baton.db", "storage"
"""Names in the directory of a backup."""

Progress = Callable[[str, int, int], None]
"""Receives what is being done, and how many bytes of how many it has done."""


class Backup(BaseModel):
    """The content of ``backup.json``."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    taken_at: datetime
    """When the database was read: the backup has its state at that moment."""
    code_version: str
    """The version of Baton that took it."""
    files: Mapping[str, FileEntry]
    """Size and SHA-256 of every other file, by its POSIX path in the backup."""
    damaged: Mapping[str, str] = {}
    """Versions that were incomplete in the storage already, by name: what is wrong with each."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry.size for entry in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Place:
    """The database and the storage of a configuration, as paths."""

    database: Path
    storage: Path


def place_of(database: str, storage: str) -> Place:
    """Return the paths of a database and a storage, given by their URLs.

    Raises:
        ConfigError: it is not a SQLite file, or not a directory on this machine, or the file is in the directory; the message
            says what to do instead.
    """
    try:
        parsed = sa.make_url(database)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"database {without_passwords(database)!r} is not a URL of SQLAlchemy") from error
    problems = []
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        problems.append(f"the database {without_passwords(database)} is not a SQLite file: back PostgreSQL up with pg_dump")
    opened = Storage(storage)
    if not opened.local:
        problems.append(f"the storage {storage} is not a directory: copy the bucket with its own tools after the database")
    if problems:
        raise ConfigError(f"{'; '.join(problems)}. docs/operations.md, «Back up and restore», has the commands")
    place = Place(database=Path(str(parsed.database)), storage=opened.directory)
    if place.database.resolve().is_relative_to(place.storage.resolve()):
        raise ConfigError(
            f"the database {place.database} is inside the storage {place.storage}, so neither can be backed up alone: "
            "stop the service, move the database to another directory, and change `database`"
        )
    return place


def read(directory: Path) -> Backup:
    """Return the record of the backup in ``directory``.

    Raises:
        BackupError: there is no backup, it was broken off, or a newer version of Baton has taken it.
    """
    try:
        found = Backup.model_validate_json((directory / RECORD).read_bytes())
    except FileNotFoundError:
        if not directory.is_dir():
            raise BackupError(f"{directory}: no such directory") from None
        raise BackupError(f"{directory} is not a whole backup: it has no {RECORD}, which is written last") from None
    except (OSError, ValidationError) as error:
        raise BackupError(f"{directory / RECORD} cannot be read: {str(error).splitlines()[0]}") from error
    if found.format != 1:
        raise BackupError(
            f"{directory} was taken by Baton {found.code_version}, in a newer form (format {found.format}); upgrade Baton"
        )
    return found


def sync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
