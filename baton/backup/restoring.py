"""Restores a backup: verifies all of it first, copies it beside the old data, and only then puts it in their place.

Whatever ends this early leaves the old data in place. Only the last step, one renaming, makes the restored database the one.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from baton.artifacts.manifest import sha256_of
from baton.backup.copying import copy, require_space
from baton.backup.record import DATABASE, STORAGE, Backup, Place, Progress, read, sync
from baton.errors import BackupError, Conflict
from baton.store.registry import Registry

HALF = ".restoring"
"""Ending of the names of what is copied and not yet in its place."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What `restore` did."""

    backup: Backup
    aside: tuple[Path, ...]
    """Where the data are that were there before."""


def restore(directory: Path, place: Place, progress: Progress, *, replace: bool = False) -> Restored:
    """Put the backup in ``directory`` into ``place``. The service must not run. A backup of an older schema is migrated.

    ``replace``: move data that are there aside; otherwise they are an error.

    Raises:
        BackupError: the backup is not whole, a file of it was altered, or the disk has too little space.
        Conflict: data are there and ``replace`` is false, or a process uses them.
        RegistryError: the backup has a newer schema than this code.
    """
    backup = read(directory)
    there = [path for path in (place.database, place.storage) if _holds_data(path)]
    if there and not replace:
        listed = " and ".join(map(str, there))
        raise Conflict(f"data exist: {listed}. --replace moves them aside, and deletes nothing")
    _verify(directory, backup, progress)
    for parent in {place.database.parent, place.storage.parent}:
        require_space(parent, backup.bytes)
    new = Place(database=_half(place.database), storage=_half(place.storage))
    with _removed_if_broken_off(new):
        _copy(directory, backup, new, progress)
        _migrate(new.database)
        aside = _swap(place, new, f".before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    return Restored(backup=backup, aside=aside)


def _holds_data(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _half(path: Path) -> Path:
    return path.with_name(path.name + HALF)


def _verify(directory: Path, backup: Backup, progress: Progress) -> None:
    """Raise ``BackupError`` unless every file of the backup is there, byte by byte."""
    done = 0
    for name, entry in backup.files.items():
        path = directory / name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise BackupError(f"{directory}: the record names {name!r}, outside the backup")
        if not path.is_file():
            raise BackupError(f"{path} is missing; the backup cannot be restored")
        if path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
            raise BackupError(f"{path} was altered since the backup was taken: its SHA-256 is another; it cannot be restored")
        done += entry.size
        progress("verifying", done, backup.bytes)
    if DATABASE not in backup.files:
        raise BackupError(f"{directory} has no database; it cannot be restored")


@contextmanager
def _removed_if_broken_off(new: Place) -> Iterator[None]:
    """Remove copies that are not in their place, before the block (an earlier restoring was killed) and after it."""

    def remove() -> None:
        shutil.rmtree(new.storage, ignore_errors=True)
        for ending in ("", "-wal", "-shm", "-journal"):
            new.database.with_name(new.database.name + ending).unlink(missing_ok=True)

    remove()
    try:
        yield
    except OSError as error:
        raise BackupError(f"restoring was broken off: {error}") from error
    finally:
        remove()


def _copy(directory: Path, backup: Backup, new: Place, progress: Progress) -> None:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("copying", done, backup.bytes)

    new.storage.mkdir(parents=True)
    for name, entry in backup.files.items():
        target = new.database if name == DATABASE else new.storage / Path(name).relative_to(STORAGE)
        if copy(directory / name, target, advance) != entry:
            raise BackupError(f"{directory / name} changed while it was copied; it cannot be restored")


def _migrate(file: Path) -> None:
    """Bring a copied database to this code's schema, in one file without a journal. Raises ``RegistryError`` if it is newer."""
    registry = Registry(f"sqlite:///{file}")
    try:
        registry.migrate()
    finally:
        registry.close()
    _without_journal(file)


def _without_journal(file: Path) -> None:
    """Put the journal of a SQLite database into the database. Raises ``Conflict`` if another process uses it."""
    with closing(sqlite3.connect(file, timeout=1.0)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            raise Conflict(f"another process uses {file} ({error}); stop it first: `baton down`, or a run by hand") from error
    sync(file)


def _swap(place: Place, new: Place, ending: str) -> tuple[Path, ...]:
    """Move the old data aside and the new ones into their place, the database last, at one stroke. Return where the old are."""
    aside = []
    with ExitStack() as undo:
        if place.database.exists():
            _without_journal(place.database)
            aside.append(place.database.with_name(place.database.name + ending))
            aside[-1].hardlink_to(place.database)
            undo.callback(aside[-1].unlink)
        for journal in ("-wal", "-shm", "-journal"):  # of a database that is gone: they must not be applied to the new one
            place.database.with_name(place.database.name + journal).unlink(missing_ok=True)
        if _holds_data(place.storage):
            aside.append(place.storage.with_name(place.storage.name + ending))
            place.storage.rename(aside[-1])
            undo.callback(aside[-1].rename, place.storage)
        elif place.storage.is_dir():
            place.storage.rmdir()
        new.storage.rename(place.storage)
        undo.callback(place.storage.rename, new.storage)
        new.database.replace(place.database)
        undo.pop_all()
    for parent in {place.database.parent, place.storage.parent}:
        sync(parent)
    return tuple(aside)
