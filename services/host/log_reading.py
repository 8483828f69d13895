"""Reads the logs of one start as entries in the order of time: which file is whose, where an entry begins, what is new.

Knows the names and formats of the files that Ray and Baton write; docs/logs.md lists them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from services.host.starts import Start
from services.names import CONTROL, application

READ_BYTES = 4 * 2**20
"""Maximum number of bytes that are read of what a file held before: its end."""

UP, RAY = "up", "ray"
"""Names of the supervisor and of Ray's own servers, beside the models, the runs and `CONTROL`."""

INNER = ("train", "jobs", "events")
"""Directories of files that repeat what others say, or that nobody reads."""

_REPLICA = re.compile(r"replica_(?P<application>.+)_[^_]+_(?P<id>[^_.]+)\.log[.\d]*")
_JOB = re.compile(r"job-driver-(?P<job>.+)\.log")
_MODELS_JOB = re.compile(r"(?:judge|evaluate)-(?P<model>.+)-\d+-[0-9a-f]+")
_WORKER = re.compile(r"worker-(?P<worker>[0-9a-f]+)-[0-9a-f]+-(?P<pid>\d+)\.err")
_ACTOR = re.compile(rb":actor_name:(?P<actor>.+)")
_TRAIN = re.compile(r"ray-train-app-(?P<role>controller|worker)-(?P<worker>[0-9a-f]+)\.log")
_RUN = re.compile(rb'"run_name": "(?P<run>[^"]+)"')
_MARK = re.compile(r":(?:job_id|actor_name|task_name):")

_TIMED = re.compile(
    r"(?P<level>[A-Z]+ )?\[?(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?P<part>[.,]\d{1,6})?(?P<rest>.*)", re.DOTALL
)
_COMPONENT = re.compile(r"\S+ \S+ (?P<request>\S+ )?-- ")
"""What Ray Serve writes between time and message: deployment, replica, perhaps the request's id."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was logged at once: one line, or several with a traceback."""

    time: datetime
    """Local time. Lines without a time have that of the entry before, else that of their file."""
    source: str
    text: str
    """Without the time; with the level if there is one."""


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """A file, and whose it is."""

    path: Path
    owner: str
    """A model, a run, `CONTROL`, `UP` or `RAY`."""
    source: str
    """The process, as entries show it."""
    name: str = ""
    """The path below the session, which stays the same when `services.host.starts.keep` puts a copy in the session's place."""


def files_of(start: Start) -> list[LogFile]:
    """Return the log files of a start."""
    up, ray = start.directory / "up.log", start.directory / "ray.log"
    found = [LogFile(path=up, owner=UP, source=UP, name="../up.log")] if up.is_file() else []
    found += [LogFile(path=ray, owner=RAY, source="ray start", name="../ray.log")] if ray.is_file() else []
    session = start.session.resolve()
    runs = dict(_trained(session))
    for path in sorted(session.rglob("*")):
        if path.is_file() and not path.is_symlink() and (known := _known(path, runs)):
            found.append(replace(known, name=str(path.relative_to(session))))
    return found


def _known(path: Path, runs: dict[str, str]) -> LogFile | None:
    """Return whose file ``path`` is; None if nothing in it is for people. ``runs``: see `_trained`."""
    name = path.name
    if replica := _REPLICA.fullmatch(name):
        return _of_application(path, replica["application"], replica["id"])
    if job := _JOB.fullmatch(name):
        about = _MODELS_JOB.fullmatch(job["job"])
        return LogFile(path=path, owner=about["model"] if about else job["job"], source=job["job"])
    if trained := _TRAIN.fullmatch(name):
        run = runs.get(trained["worker"])
        return LogFile(path=path, owner=run, source=f"{run} {trained['role']}") if run else None
    if worker := _WORKER.fullmatch(name):
        return _of_worker(path, worker["worker"], worker["pid"], runs)
    inner = path.parent.name in INNER or name.startswith(("worker-", "python-core-"))
    return None if inner or path.suffix not in (".log", ".out") else LogFile(path=path, owner=RAY, source=path.stem)


def _of_application(path: Path, name: str, replica: str) -> LogFile:
    owner = CONTROL if name == CONTROL else name.removeprefix(application(""))
    return LogFile(path=path, owner=owner, source=owner if name == CONTROL else f"{owner}/{replica}")


def _of_worker(path: Path, worker: str, pid: str, runs: dict[str, str]) -> LogFile | None:
    """Return whose process has written ``path`` besides its log: what a crash in compiled code leaves is there."""
    if worker in runs:
        return LogFile(path=path, owner=runs[worker], source=f"{runs[worker]} worker (pid {pid})")
    with path.open("rb") as file:
        actor = _ACTOR.search(file.read(500))
    kind, _, rest = (actor["actor"].decode(errors="replace") if actor else "").partition(":")
    return _of_application(path, rest.partition(":")[0], f"pid {pid}") if kind == "ServeReplica" else None


def _trained(session: Path) -> Iterator[tuple[str, str]]:
    """Yield the id of each process of Ray Train, and its run."""
    for path in session.glob("train/ray-train-app-*.log"):
        with path.open("rb") as file:
            run = _RUN.search(file.read(4096))
        if (name := _TRAIN.fullmatch(path.name)) and run:
            yield name["worker"], run["run"].decode(errors="replace")


class Reader:
    """Reads the files of one owner, or of all of Baton's processes, and later what was added to them."""

    def __init__(self, start: Start, owner: str | None) -> None:
        """``owner``: see `LogFile.owner`; None: all but `RAY`."""
        self._start = start
        self._owner = owner
        self._tails: dict[str, _Tail] = {}
        self._began = False
        self._logged: set[str] = set()
        """Lines of Ray Train's logs."""

    def read(self) -> list[Entry]:
        """Return the entries that were added since the last call, in the order of time."""
        for file in files_of(self._start):
            wanted = file.owner == self._owner or (self._owner is None and file.owner != RAY)
            rotated = self._began and file.path.suffix != file.path.suffix.rstrip("0123456789")  # read under its name before
            if wanted and not rotated and file.name not in self._tails:
                self._tails[file.name] = _Tail(file)
        self._began = True
        # Ray Train's processes print what they log, too: their logs first, which have times
        found: list[Entry] = []
        for tail in sorted(self._tails.values(), key=lambda tail: tail.printed):
            entries = tail.read()
            if tail.printed:
                entries = [entry for entry in entries if not self._logged.issuperset(entry.text.split("\n"))]
            elif tail.trains:
                self._logged.update(line for entry in entries for line in entry.text.partition(" ")[2].split("\n"))
            found += entries
        return sorted(found, key=lambda entry: entry.time)

    def close(self) -> None:
        """Close all files."""
        for tail in self._tails.values():
            tail.close()


class _Tail:
    """A file that is read to its end again and again, also after it was rotated."""

    def __init__(self, file: LogFile) -> None:
        self._of = file
        self.trains = _TRAIN.fullmatch(file.path.name) is not None
        self.printed = _WORKER.fullmatch(file.path.name) is not None
        self._last: datetime | None = None
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> list[Entry]:
        """Return the entries in the whole lines that were added."""
        try:
            if self._file is None:
                self._file = self._of.path.open("rb")
                self._skip(self._file)
            content = self._file.read()
            if self._rotated(self._file):
                self._file.close()
                self._file = self._of.path.open("rb")
                content += self._file.read()
        except OSError:  # it was rotated away
            return []
        lines = (self._rest + content).split(b"\n")
        self._rest = lines.pop()
        return list(self._entries([line.decode(errors="replace") for line in lines]))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _rotated(self, file: BinaryIO) -> bool:
        """Return whether the path names another file by now. If it is gone, it was removed with the service: all was read."""
        try:
            return not os.path.samestat(os.fstat(file.fileno()), self._of.path.stat())
        except FileNotFoundError:
            return False

    def _skip(self, file: BinaryIO) -> None:
        """Begin at the first whole line of the last `READ_BYTES`."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - READ_BYTES))
        if size > READ_BYTES:
            file.readline()

    def _entries(self, lines: list[str]) -> Iterator[Entry]:
        text: list[str] = []
        for raw in lines:
            line = _COLOUR.sub("", raw).rstrip("\r").rpartition("\r")[2]  # of a progress bar, what it showed last
            time, said = _parsed(line)
            if time is not None and text:
                yield self._entry(text)
                text = []
            if self.printed and text and not said.startswith((" ", "\t")):  # lines of no entry
                yield self._entry(text)
                text = []
            self._last = time or self._last
            if said.strip() and not _MARK.match(said):
                text.append(said)
        if text:
            yield self._entry(text)

    def _entry(self, text: list[str]) -> Entry:
        time = self._last or datetime.fromtimestamp(self._of.path.stat().st_mtime)
        return Entry(time=time, source=self._of.source, text="\n".join(text))


def _parsed(line: str) -> tuple[datetime | None, str]:
    """Return the time of a line and the rest of it, which begins with the level if there is one; None: it has no time."""
    if line.startswith("{"):
        try:
            record = json.loads(line)
            text = f"{record['levelname']} {record['message']}"
            trace = record.get("exc_text")
            return datetime.fromisoformat(record["asctime"].replace(",", ".")), f"{text}\n{trace}" if trace else text
        except (ValueError, KeyError, TypeError, AttributeError):
            return None, line
    timed = _TIMED.match(line)
    if timed is None:
        return None, line
    try:
        time = datetime.fromisoformat(timed["time"] + (timed["part"] or "").replace(",", "."))
    except ValueError:
        return None, line
    said = timed["rest"].lstrip(" \t]")
    said = _COMPONENT.sub(lambda found: found["request"] or "", said, count=1) if timed["level"] else said
    return time, f"{timed['level'] or ''}{said}"
