"""The record of the service that runs on this machine, and the directory ``.baton`` that keeps it.

Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from baton.config.file import BatonConfig
from baton.errors import Conflict


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A running service of this machine, as recorded in ``instance.json``."""

    id: str
    pid: int
    """Process id of its supervisor, `baton up`."""
    started_after_boot: float
    """When the supervisor started, see `start_of`. Needed because the system reuses process ids."""
    url: str
    ports: Mapping[str, int]
    """Ports other than the service's own, by the names in `services.host.ports.PREFERRED_PORTS`."""
    address: str
    """Where a driver joins its Ray cluster; empty until Ray has started."""
    directory: str
    """Ray's session files and sockets, and temporary files."""
    logs: str = ""
    """The directory of this start's logs, which stays when the service has stopped (`services.host.starts`)."""


class StateDirectory:
    """The directory ``.baton`` next to the configuration: the record of the instance that runs from there, a lock, and logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self.up_log = self.logs / "up.log"
        """The output of the last `baton up --detach`."""
        self._file = directory / "instance.json"

    def claimed(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of this directory while the block runs, so that only one supervisor works here.

        The lock ends with this process, however the process ends.

        Raises:
            Conflict: another process holds it.
        """
        return self._locked("up.lock", f"another `baton up` is using {self.directory}; `baton status` shows its progress")

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock on changes of a service that runs, as `claimed` does. Raises ``Conflict``."""
        return self._locked("apply.lock", f"another `baton apply` is at work in {self.directory}; try again when it has ended")

    @contextlib.contextmanager
    def _locked(self, name: str, complaint: str) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / name).open("w") as lock:  # not inherited by the programs that this process starts
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(complaint) from None
            yield

    def read(self) -> Instance | None:
        """Return the recorded instance, running or not; None if there is no record."""
        try:
            record = json.loads(self._file.read_text())
            if "started" in record:  # by the wall clock, as earlier code wrote it: a service runs on when Baton is upgraded
                record["started_after_boot"] = record.pop("started") - psutil.boot_time()
            return Instance(**record)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # an incomplete file is of no use
            return None

    def write(self, instance: Instance) -> None:
        """Record ``instance``, atomically."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(instance), indent=2))
        partial.replace(self._file)

    def clear(self) -> None:
        """Remove the record."""
        self._file.unlink(missing_ok=True)


def start_of(process: psutil.Process) -> float:
    """Return when a process started, in seconds after the boot of the machine: its wall clock may be set meanwhile."""
    return process.create_time() - psutil.boot_time()


def alive(instance: Instance) -> bool:
    """Return whether the supervisor of ``instance`` runs."""
    try:
        process = psutil.Process(instance.pid)
        return abs(start_of(process) - instance.started_after_boot) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_for_exit(instance: Instance, timeout_s: float) -> bool:
    """Wait until the supervisor of ``instance`` has ended. Return False if it still runs after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while alive(instance):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def url_of(config: BatonConfig) -> str:
    """Return the URL at which a client on this machine reaches the service."""
    return config.http.url
