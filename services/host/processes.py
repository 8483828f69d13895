"""The processes of an instance's Ray cluster: find them, check Ray's servers, stop all of them.

Each process carries ``BATON_INSTANCE`` in its environment, which distinguishes it from the processes of other Ray clusters.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from baton.errors import NotReady
from services.host import starts
from services.host.instance import Instance
from services.names import application

MARK = "BATON_INSTANCE"
"""Environment variable with the instance's id."""

STOP_SECONDS = 5.0
"""How long replicas may take to end after SIGTERM; also the pause between two rounds of SIGKILL."""

KILL_SECONDS = 30.0
"""How long SIGKILL is repeated before giving up."""


def find(instance_id: str) -> Iterator[psutil.Process]:
    """Yield all live processes of an instance's cluster: Ray, its workers, HAProxy, jobs.

    Excluded are its supervisor and the process that calls this.

    Ray's dashboard modules are missing, because their title overwrites their whole environment. They are children of a process
    that is found.
    """
    mark = f"{MARK}={instance_id}".encode()
    for process in psutil.process_iter():
        if process.pid == os.getpid():  # a command that was started by a process of the instance has inherited the variable
            continue
        with contextlib.suppress(psutil.Error, OSError):
            # Not `process.environ()`: it stops at the gap that the process titles of Ray's agents leave in their environment.
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes() and _runs(process):
                yield process


def stop_all(instance: Instance) -> int:
    """Stop every process of the instance's cluster, keep its logs, remove its directory. Return how many processes there were.

    Replicas get SIGTERM first, because they still write their prediction logs. All others get SIGKILL at once: Ray's
    own servers take many seconds to handle a SIGTERM, and hold nothing that must be saved.

    Raises:
        NotReady: some still run after `KILL_SECONDS`.
    """
    found = set(find(instance.id))
    for process in list(found):
        with contextlib.suppress(psutil.Error):
            found.update(process.children(recursive=True))
    replicas = {process for process in found if _is_replica(process)}
    for process in replicas:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _wait(replicas, STOP_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while left := {process for process in (*found, *find(instance.id)) if _runs(process)}:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _wait(left, STOP_SECONDS)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise NotReady(f"process(es) {pids} still run {KILL_SECONDS:.0f} s after SIGKILL; end them, then run `baton down`")
    if instance.logs:
        starts.keep(Path(instance.logs))
    shutil.rmtree(instance.directory, ignore_errors=True)
    return len(found)


def head_runs(instance: Instance) -> bool:
    """Return whether both servers of Ray's head run: the GCS and the raylet."""
    names = set()
    for process in find(instance.id):
        with contextlib.suppress(psutil.Error):
            names.add(process.name())
    return {"gcs_server", "raylet"} <= names


def _is_replica(process: psutil.Process) -> bool:
    """Return whether ``process`` is a replica of a model, by the process title that Serve gives it."""
    try:
        return f"ray::ServeReplica:{application('')}" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _wait(ending: Collection[psutil.Process], timeout_s: float) -> None:
    """Wait until all have ended. A zombie has: its parent may take a long time to reap it."""
    deadline = time.monotonic() + timeout_s
    while any(_runs(process) for process in ending) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    """Return whether ``process`` runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
