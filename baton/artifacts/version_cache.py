"""The versions that a node has downloaded: in a directory of the user's own, from which those that nobody needs are removed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from baton.errors import StorageError

UNUSED_SECONDS = 600.0
"""How long a version must not have been used before it is removed: longer than another replica takes to load it."""

PARTIAL = "partial-"
"""Beginning of the names of downloads that are not complete. One stays behind when its replica is killed."""


def name_of(model: str, number: int, manifest_sha256: str) -> str:
    """Return the name of a version's directory in the cache."""
    return f"{model}-{number}-{manifest_sha256[:16]}"


class VersionCache:
    """A directory with downloaded versions, which all replicas of one user on a node share."""

    def __init__(self, directory: Path | None = None) -> None:
        """``directory``: by default one below the system's directory for temporary files."""
        self.directory = Path(tempfile.gettempdir()) / f"baton-{os.getuid()}" / "versions" if directory is None else directory

    def open(self) -> Path:
        """Return the directory. Create it if necessary, for its user alone.

        Raises:
            StorageError: it cannot be created, or another user owns it or may write to it, and could exchange files between
                their verification and their use.
        """
        try:
            self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            for directory in (self.directory.parent, self.directory):
                status = directory.lstat()
                if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
                    raise StorageError(
                        f"{directory} belongs to another user, or others may write to it; remove it, or set TMPDIR to a "
                        "directory of this user alone"
                    )
        except OSError as error:
            raise StorageError(f"the cache of versions cannot be opened: {error}") from error
        return self.directory

    def tidy(self, model: str, keep: Collection[int]) -> list[str]:
        """Remove the versions of ``model`` whose numbers are not in ``keep``, and partial downloads. Return their names.

        What was used a short time ago stays: another replica may be loading it.
        """
        pattern = re.compile(rf"{re.escape(model)}-(\d+)-[0-9a-f]{{16}}")
        removed = []
        for entry in self.directory.iterdir() if self.directory.is_dir() else ():
            version = pattern.fullmatch(entry.name)
            unwanted = entry.name.startswith(PARTIAL) or (version is not None and int(version[1]) not in keep)
            if unwanted and _unused(entry) and not _is_claimed(entry):
                shutil.rmtree(entry, ignore_errors=True)
                removed.append(entry.name)
        return sorted(removed)


def _is_claimed(directory: Path) -> bool:
    """Return whether a process has claimed ``directory``; its time stands still while a large file is downloaded into it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # another replica removes it
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _unused(entry: Path) -> bool:
    try:
        return entry.stat().st_mtime < time.time() - UNUSED_SECONDS
    except OSError:  # another replica removes it
        return False


@contextmanager
def claimed(directory: Path) -> Iterator[Path]:
    """Yield ``directory``, new and empty, to one process at a time; the others wait. In the end it is gone, or was renamed.

    The lock is on the directory itself, so that none is left behind, and it ends with its process.
    """
    while True:
        with suppress(FileExistsError):  # exist_ok would still raise it if the other process removes the directory meanwhile
            directory.mkdir()
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # the process that had it is done
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_open(directory, descriptor):
                for left in directory.iterdir():  # of a process that was killed
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                try:
                    yield directory
                finally:
                    if _is_open(directory, descriptor):  # it was not renamed; what is there now may be another's
                        shutil.rmtree(directory, ignore_errors=True)
                return
        finally:
            os.close(descriptor)


def _is_open(directory: Path, descriptor: int) -> bool:
    """Return whether ``descriptor`` is of what is at ``directory`` now; it may have been removed or renamed."""
    try:
        return os.path.samestat(directory.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
