"""Takes a backup while the service runs: first the database, then the files that it names.

In this order nothing can be missing: a version's files are in the storage before the database has its record, never change, and
are never deleted. In the other order, the database could name a version that was published after the files were copied.
Housekeeping deletes only checkpoints of runs, which are left out: a run cannot go on from a backup.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from baton import __version__
from baton.artifacts.manifest import FileEntry, sha256_of
from baton.artifacts.storage import Storage
from baton.backup.copying import copy, copy_mode, require_space
from baton.backup.record import DATABASE, RECORD, STORAGE, Backup, Place, Progress, sync
from baton.backup.sqlite_errors import says_damaged
from baton.errors import BackupError, CorruptVersion, RegistryError
from baton.store import database
from baton.store.records import LARGEST_INTEGER, ModelVersion
from baton.store.registry import Registry

PAGES = 2_000
"""Pages of the database that are copied between two reports of progress."""

LEFT_OUT = "runs"
"""Directory of the checkpoints."""


def take(place: Place, directory: Path, progress: Progress) -> Backup:
    """Copy the database and the storage of ``place`` to ``directory``, which must be empty or not exist. Return the record.

    Other processes may read and write meanwhile. Whatever ends this early removes what it has written.

    Raises:
        BackupError: there is nothing to back up, the database is damaged, ``directory`` is in use, or its disk has too little
            space.
        RegistryError: the database cannot be read.
    """
    _require_data(place)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        broken = directory.is_dir() and not (directory / RECORD).exists() and (directory / DATABASE).exists()
        hint = "it holds a backup that was broken off: delete it" if broken else "name a new directory"
        raise BackupError(f"{directory} exists and is not empty; {hint}")
    inside = place.storage.resolve()
    if directory.resolve().is_relative_to(inside):
        raise BackupError(f"{directory} is inside the storage, {inside}; name a directory outside")
    size = place.database.stat().st_size + sum(path.stat().st_size for path in _files(place.storage))
    require_space(directory, size)
    with _removed_unless_whole(directory):
        taken_at = datetime.now(UTC)
        files = {DATABASE: _copy_database(place.database, directory / DATABASE, progress)}
        files |= _copy_storage(place.storage, directory / STORAGE, progress)
        found = Backup(taken_at=taken_at, code_version=__version__, files=files, damaged=_damaged(directory, files))
        partial = directory / f"{RECORD}.partial"
        partial.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(partial)
        partial.rename(directory / RECORD)
        sync(directory)
    return found


def _require_data(place: Place) -> None:
    """Raise ``BackupError`` unless there is a database of Baton's."""
    if not place.database.is_file():
        raise BackupError(f"there is no database at {place.database}: nothing to back up. Is it the right configuration?")
    registry = Registry(f"sqlite:///{place.database}", read_only=True)
    try:
        if registry.is_empty():
            raise BackupError(f"the database {place.database} is not one of Baton's, or is empty: nothing to back up")
    finally:
        registry.close()


@contextmanager
def _removed_unless_whole(directory: Path) -> Iterator[None]:
    """Create ``directory``. Remove what is in it if the block raises, also by Ctrl-C."""
    there = directory.exists()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        yield
    except BaseException as error:
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not there:
            directory.rmdir()
        if isinstance(error, OSError | sqlite3.Error):
            raise BackupError(f"the backup was broken off: {error}") from error
        raise


def _copy_database(source: Path, target: Path, progress: Progress) -> FileEntry:
    """Copy a SQLite database as it is now, with SQLite's own backup, into one file without a journal.

    Raises:
        BackupError: the database is damaged.
        sqlite3.Error: it cannot be read, or the copy cannot be written.
    """
    try:
        problem = _copy_pages(source, target, progress)
    except sqlite3.DatabaseError as error:
        if not says_damaged(error):
            raise
        problem = str(error)
    if problem != "ok":
        raise BackupError(f"the database {source} is damaged: {problem}")
    copy_mode(source, target)
    sync(target)
    return FileEntry(size=target.stat().st_size, sha256=sha256_of(target))


def _copy_pages(source: Path, target: Path, progress: Progress) -> str:
    """Copy the pages of a SQLite database. Return what SQLite finds wrong with the copy: ``ok`` if nothing."""
    with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as live:
        live.execute(f"PRAGMA busy_timeout = {database.BUSY_TIMEOUT_S * 1000}")
        # One transaction around the steps: without it, each write of another process would make the copy begin again.
        live.execute("BEGIN")
        live.execute("SELECT count(*) FROM sqlite_master").fetchone()
        size = live.execute("PRAGMA page_size").fetchone()[0]

        def report(_: int, left: int, pages: int) -> None:
            progress("database", (pages - left) * size, pages * size)

        with closing(sqlite3.connect(target)) as copied:
            live.backup(copied, pages=PAGES, progress=report, sleep=0)
            copied.execute("PRAGMA journal_mode = DELETE")
            return str(copied.execute("PRAGMA quick_check").fetchone()[0])


def _files(storage: Path) -> list[Path]:
    """Return the files of a storage that belong into a backup."""
    return [
        path
        for path in sorted(storage.rglob("*"))
        if path.is_file()
        and path.relative_to(storage).parts[0] != LEFT_OUT
        and not path.name.endswith(".partial")
        and not path.name.startswith(".write-test-")
    ]


def _copy_storage(storage: Path, target: Path, progress: Progress) -> dict[str, FileEntry]:
    """Copy the files of the storage. One that vanishes meanwhile was half of a version; `_damaged` sees whether it matters."""
    listed = _files(storage)
    done, total = 0, sum(path.stat().st_size for path in listed)
    found: dict[str, FileEntry] = {}

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("storage", done, max(total, done))

    target.mkdir(exist_ok=True)
    if storage.is_dir():  # it is made when the service starts for the first time
        copy_mode(storage, target)
    for path in listed:
        name = path.relative_to(storage).as_posix()
        try:
            found[f"{STORAGE}/{name}"] = copy(path, target / name, advance)
        except FileNotFoundError:
            (target / name).unlink(missing_ok=True)
    return found


def _damaged(directory: Path, files: dict[str, FileEntry]) -> dict[str, str]:
    """Return the versions that the copied database names and whose copied files are not those that were published."""
    registry = Registry(f"sqlite:///{directory / DATABASE}", read_only=True)
    storage = Storage(str(directory / STORAGE))
    found: dict[str, str] = {}
    try:
        with suppress(RegistryError):  # another schema than this code's: whoever restores it checks what it serves
            registry.check()
            for version in (it for model in registry.declared() for it in registry.versions.list(model, limit=LARGEST_INTEGER)):
                if problem := _problem(storage, version, files):
                    found[f"{version.model} v{version.number}"] = problem
    finally:
        registry.close()
    return found


def _problem(storage: Storage, version: ModelVersion, files: dict[str, FileEntry]) -> str | None:
    """Return what the copied files of a version lack; None if they are those that were published."""
    prefix = f"{STORAGE}/models/{version.model}/versions/{version.number}"
    try:
        manifest = storage.manifest(version)
    except CorruptVersion as error:
        return str(error)
    wrong = [name for name, entry in manifest.files.items() if files.get(f"{prefix}/{name}") != entry]
    return f"missing or altered: {', '.join(wrong)}" if wrong else None
