"""Restores a backup: verifies all of it first, copies it beside the old data, and only then puts it in their place.

Whatever ends this early leaves the old data in place. The last step is several renamings, of the storage and then of the
database. An error in it undoes those that were done. If it is killed, the restored database has the name `READY` still, from
which `finish` knows what is left to do.
"""

from __future__ import annotations

import glob
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from baton.artifacts.manifest import sha256_of
from baton.backup.copying import copy, copy_mode, require_space
from baton.backup.record import DATABASE, STORAGE, Backup, Place, Progress, read, sync
from baton.backup.sqlite_errors import says_in_use
from baton.errors import BackupError, Conflict
from baton.store.records import RunState
from baton.store.registry import Registry

HALF = ".restoring"
"""Ending of the names of what is copied and not yet in its place."""

READY = ".restored-"
"""Between the names of the database and the time, in the name of a whole new database while old and new are renamed."""

ASIDE = ".before-restore-"
"""Between a name and the time, in the name of old data."""

JOURNALS = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite has beside a database."""

MAGIC = b"SQLite format 3\0"
"""The first bytes of every SQLite database."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What `restore` did."""

    backup: Backup
    aside: tuple[Path, ...]
    """Where the data are that were there before."""


def restore(directory: Path, place: Place, progress: Progress, *, replace: bool = False) -> Restored:
    """Put the backup in ``directory`` into ``place``. The service must not run. A backup of an older schema is migrated.

    Runs that were active when the backup was taken are cancelled.

    ``replace``: move data that are there aside; otherwise they are an error.

    Raises:
        BackupError: the backup is not whole, a file of it was altered, or the disk has too little space.
        Conflict: data are there and ``replace`` is false, or a process uses them.
        RegistryError: the backup has a newer schema than this code.
    """
    backup = read(directory)
    finished = finish(place)
    there = [path for path in (place.database, place.storage) if _holds_data(path)]
    if there and not replace:
        listed = " and ".join(map(str, there))
        why = "" if finished is None else ", restored just now: an earlier restoring had been killed in its last step"
        raise Conflict(f"data exist: {listed}{why}. --replace moves them aside, and deletes nothing")
    _verify(directory, backup, progress)
    for parent in {place.database.parent, place.storage.parent}:
        require_space(parent, backup.bytes)
    new = Place(database=_half(place.database), storage=_half(place.storage))
    with _removed_if_broken_off(new):
        _copy(directory, backup, new, progress)
        _bring_up_to_date(new.database, backup)
        aside = _switch(place, new, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    return Restored(backup=backup, aside=(*(finished or ()), *aside))


def finish(place: Place) -> tuple[Path, ...] | None:
    """Do what is left of a restoring that was killed in its last step. Return where the old data are; None: there was none.

    Raises:
        BackupError: files cannot be renamed.
        Conflict: a process uses the old database.
    """
    pattern = f"{glob.escape(place.database.name)}{READY}*"
    ready = next(iter(sorted(place.database.parent.glob(pattern))), None)
    if ready is None:
        return None
    new = Place(database=ready, storage=_half(place.storage))
    try:
        return _switch(place, new, ready.name.rpartition(READY)[2])
    except OSError as error:
        raise BackupError(f"a restoring was killed in its last step, which cannot be finished: {error}") from error


def _holds_data(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _half(path: Path) -> Path:
    return _ending(path, HALF)


def _ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _verify(directory: Path, backup: Backup, progress: Progress) -> None:
    """Raise ``BackupError`` unless every file of the backup is there, byte by byte."""
    done = 0
    for name, entry in backup.files.items():
        path = directory / name
        if not _belongs(name) or not path.resolve().is_relative_to(directory.resolve()):
            raise BackupError(f"{directory}: the record names {name!r}, outside the backup; it cannot be restored")
        if not path.is_file():
            raise BackupError(f"{path} is missing; the backup cannot be restored")
        if path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
            raise BackupError(f"{path} was altered since the backup was taken: its SHA-256 is another; it cannot be restored")
        done += entry.size
        progress("verifying", done, backup.bytes)
    if DATABASE not in backup.files:
        raise BackupError(f"{directory} has no database; it cannot be restored")


def _belongs(name: str) -> bool:
    """Return whether a backup can have a file of this name."""
    parts = PurePosixPath(name).parts
    return name == DATABASE or (parts[:1] == (STORAGE,) and len(parts) > 1 and ".." not in parts and "\0" not in name)


@contextmanager
def _removed_if_broken_off(new: Place) -> Iterator[None]:
    """Remove copies that are not in their place, before the block (an earlier restoring was killed) and after it."""

    def remove() -> None:
        shutil.rmtree(new.storage, ignore_errors=True)
        for ending in ("", *JOURNALS):
            _ending(new.database, ending).unlink(missing_ok=True)

    remove()
    try:
        yield
    except (OSError, sqlite3.Error) as error:
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
    if (directory / STORAGE).is_dir():
        copy_mode(directory / STORAGE, new.storage)
    for name, entry in backup.files.items():
        target = new.database if name == DATABASE else new.storage / Path(name).relative_to(STORAGE)
        if copy(directory / name, target, advance) != entry:
            raise BackupError(f"{directory / name} changed while it was copied; it cannot be restored")


def _bring_up_to_date(file: Path, backup: Backup) -> None:
    """Bring a copied database to this code's schema, and end its runs, in one file without a journal.

    Runs that were active when the backup was taken have no job any more: without an end they would be told as failed later.
    Raises ``RegistryError`` if the schema is newer.
    """
    registry = Registry(f"sqlite:///{file}")
    try:
        registry.migrate()
        when = f"{backup.taken_at:%Y-%m-%d %H:%M:%S} UTC"
        for run in registry.runs.list(active=True, limit=None):
            reason = f"ended by the restore: it was {run.state} when the backup was taken, {when}"
            registry.runs.finish(run.id, RunState.CANCELLED, reason=reason)
    finally:
        registry.close()
    _without_journal(file)


def _without_journal(file: Path) -> None:
    """Put the journal of a SQLite database into the database.

    Raises:
        Conflict: another process uses it.
        sqlite3.DatabaseError: it is damaged, or cannot be written.
    """
    with closing(sqlite3.connect(file, timeout=1.0)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.DatabaseError as error:
            if not says_in_use(error):
                raise
            raise Conflict(f"another process uses {file} ({error}); stop it first: `baton down`, or a run by hand") from error
    sync(file)


def _settle(database: Path) -> None:
    """Put the journal of the old database into it, so that it is one file. Raises ``Conflict`` if another process uses it.

    A damaged database, which is why people restore, keeps its journal as it is: what can be saved may be there.
    """
    with database.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:  # SQLite would delete the journal of an empty file
            return
    with suppress(sqlite3.DatabaseError):
        _without_journal(database)


def _switch(place: Place, new: Place, time: str) -> tuple[Path, ...]:
    """Move the old data aside and the new ones into their place, the database last. Return where the old are.

    Steps that were done already are left out: see `finish`. An error undoes what was done.
    """
    if place.database.exists():
        _settle(place.database)
    aside = Place(database=_ending(place.database, ASIDE + time), storage=_ending(place.storage, ASIDE + time))
    ready = _ending(place.database, READY + time)
    with ExitStack() as undo:
        if new.database != ready:
            _rename(new.database, ready, undo)
            sync(ready.parent)
        if new.storage.exists():
            if _holds_data(place.storage):
                _rename(place.storage, aside.storage, undo)
            elif place.storage.is_dir():
                place.storage.rmdir()
            _rename(new.storage, place.storage, undo)
        for ending in ("", *JOURNALS):  # a journal must not be applied to the new database
            if _ending(place.database, ending).exists():
                _rename(_ending(place.database, ending), _ending(aside.database, ending), undo)
        _rename(ready, place.database, undo)
        undo.pop_all()
    for parent in {place.database.parent, place.storage.parent}:
        sync(parent)
    return tuple(path for path in (aside.database, aside.storage) if path.exists())


def _rename(path: Path, target: Path, undo: ExitStack) -> None:
    """Rename a file or a directory; ``undo`` will name it back. Raises ``FileExistsError`` instead of replacing anything."""
    if target.exists():
        raise FileExistsError(f"{target} exists, and {path} cannot get its name")
    path.rename(target)
    undo.callback(target.rename, path)
