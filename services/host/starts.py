"""The logs of the last starts of the service, each in a directory of its own that outlives the service.

While a service runs, Ray writes below its temporary directory, and ``session`` in the start's directory is a link to that.
When the service is stopped, also after a crash, `keep` puts a copy in place of the link. Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

KEPT_STARTS = 5
"""Number of starts whose logs are kept."""

FILE_BYTES = 8 * 2**20
"""Maximum number of bytes that are kept of one file: its end."""

START_BYTES = 64 * 2**20
"""Maximum number of bytes that are kept of one start."""

SESSION = "session"
"""What Ray's processes wrote, among them replicas, the control plane and runs: a directory, or a link to one."""

RECORD = "start.json"

FIRST = ("job-driver-*", "serve/replica_*", "serve/*", "train/*", "*.err", "*.out")
"""Patterns of the files that are kept first, should the limit be reached: what Baton's own processes wrote."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The logs of one start of the service."""

    number: int
    began: datetime
    directory: Path

    @property
    def session(self) -> Path:
        """Directory of the files that Ray's processes write."""
        return self.directory / SESSION

    @property
    def kept(self) -> bool:
        """Whether the service of this start was stopped, and its logs are final."""
        return not self.session.is_symlink()


class Starts:
    """The starts below a directory ``logs``, by number. Numbers grow by one and are never used again."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs

    def all(self) -> list[Start]:
        """Return the starts whose logs are there, oldest first."""
        found = []
        for path in self._logs.glob(f"*/{RECORD}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # an incomplete record is of no use
                began = datetime.fromisoformat(json.loads(path.read_text())["began"])
                found.append(Start(number=int(path.parent.name), began=began, directory=path.parent))
        return sorted(found, key=lambda start: start.number)

    def begin(self, session: Path) -> Start:
        """Return the directory of a new start, whose processes write to ``session``. Remove those beyond `KEPT_STARTS`."""
        before = self.all()
        number = before[-1].number + 1 if before else 1
        directory = self._logs / str(number)
        shutil.rmtree(directory, ignore_errors=True)  # a start that was killed before it had a record
        directory.mkdir(parents=True, mode=0o700)
        (directory / SESSION).symlink_to(session)
        start = Start(number=number, began=datetime.now(UTC), directory=directory)
        (directory / RECORD).write_text(json.dumps({"began": start.began.isoformat()}))
        for old in before[: max(0, len(before) + 1 - KEPT_STARTS)]:
            shutil.rmtree(old.directory, ignore_errors=True)
        return start


def keep(directory: Path) -> None:
    """Replace the link to a session by a copy of its logs, at most `START_BYTES`. Call this before the session is removed.

    Whatever cannot be copied, because the disk is full for example, is left out: the service must stop nevertheless.
    """
    link = directory / SESSION
    if not link.is_symlink():
        return
    partial = directory / f"{SESSION}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    left = START_BYTES
    with contextlib.suppress(OSError):
        partial.mkdir(mode=0o700)
        source = link.resolve()
        for path in _by_worth(source):
            if left > 0:
                left -= _copy_end(path, partial / path.relative_to(source), min(left, FILE_BYTES))
        link.unlink()
        partial.rename(link)


def _by_worth(source: Path) -> Iterator[Path]:
    """Yield the log files below ``source``, those of `FIRST` first, and of these the newest first."""
    left = {path for path in source.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size}
    for pattern in (*FIRST, "**/*"):
        matching = left & set(source.glob(pattern))
        yield from sorted(matching, key=lambda path: path.stat().st_mtime, reverse=True)
        left -= matching


def _copy_end(path: Path, target: Path, limit: int) -> int:
    """Copy the last whole lines of a file, at most ``limit`` bytes, with its time. Return how many bytes those are."""
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size
        with path.open("rb") as source, target.open("wb") as copy:
            if size > limit:
                source.seek(size - limit)
                source.readline()
            shutil.copyfileobj(source, copy)
        shutil.copystat(path, target)
        return target.stat().st_size
    return 0
