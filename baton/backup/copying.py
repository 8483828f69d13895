"""Copies files with their SHA-256 and their modes, and says how far it is. Knows nothing of backups."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from baton.artifacts.manifest import FileEntry
from baton.errors import BackupError

CHUNK = 4 * 2**20
"""Bytes between two reports of progress."""


def copy(source: Path, target: Path, advance: Callable[[int], None]) -> FileEntry:
    """Copy a file with its mode, wait until it is on the disk, and return its size and SHA-256.

    ``advance`` receives bytes that are done.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, open(target, "wb", opener=_private) as written:
        while chunk := read.read(CHUNK):
            written.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            advance(len(chunk))
        written.flush()
        copy_mode(source, target)
        os.fsync(written.fileno())
    return FileEntry(size=size, sha256=digest.hexdigest())


def copy_mode(source: Path, target: Path) -> None:
    """Give ``target`` the mode of ``source``, as far as its file system has modes: the copy of a private file is private."""
    with contextlib.suppress(PermissionError):  # of FAT, for example
        shutil.copymode(source, target)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # until the copy has its own mode


def require_space(directory: Path, needed: int) -> None:
    """Raise ``BackupError`` unless the disk of ``directory``, which need not exist, has ``needed`` bytes free and some more."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed * 1.02:
        raise BackupError(f"{existing} has {free / 1e6:,.0f} MB free, and {needed * 1.02 / 1e6:,.0f} MB are needed")
