"""A Ray cluster of one machine, of our own: started on loopback, found again after a crash, stopped without leftovers.

Every process of it carries ``BATON_INSTANCE`` in its environment, which is how they are told from anybody else's.
Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from baton.errors import ConfigError, Conflict, NotReady
from services.environment import EVERYWHERE
from services.names import application

MARK = "BATON_INSTANCE"
SOCKETS = Path("/tmp")
"""Not `tempfile.gettempdir()`, which may be long: HAProxy takes at most 97 characters for a socket's path, and Serve puts
70 of its own into it."""

STOP_SECONDS = 5.0
KILL_SECONDS = 30.0
START_SECONDS = 120.0

PREFERRED = {
    "dashboard": 8265,
    "metrics": 8080,
    "haproxy_stats": 8404,
    "haproxy_metrics": 9101,
    "fallback": 8500,
    "client": 10001,
}
"""Ports besides the service's own; where one is taken, the next free one is used."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A running service of this machine, as noted in ``instance.json``.

    ``pid`` and ``started`` (seconds since the epoch) identify its supervisor: pids alone are given out again.
    """

    id: str
    pid: int
    started: float
    url: str
    ports: Mapping[str, int]
    address: str
    directory: str
    """Ray's session files and sockets."""


class State:
    """The directory ``.baton`` next to the configuration: which instance runs from here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self._file = directory / "instance.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """No other supervisor starts from here while the block runs. The claim ends with the process, however that ends.

        Raises ``Conflict`` where somebody else has it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "up.lock").open("w") as lock:  # closed in every program that this process starts
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another `baton up` is at work here; `baton status` shows how far it is") from None
            yield

    def read(self) -> Instance | None:
        """The noted instance, alive or not."""
        try:
            return Instance(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # cut off while it was written: nothing in it is of use
            return None

    def write(self, instance: Instance) -> None:
        """Note ``instance``, atomically."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(instance), indent=2))
        partial.replace(self._file)

    def clear(self) -> None:
        """Forget the noted instance."""
        self._file.unlink(missing_ok=True)


def alive(instance: Instance) -> bool:
    """Whether the instance's supervisor runs."""
    try:
        process = psutil.Process(instance.pid)
        return abs(process.create_time() - instance.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def processes(instance_id: str) -> Iterator[psutil.Process]:
    """All live processes of an instance's cluster: Ray, its workers, HAProxy, jobs. Not its supervisor, and not this one.

    Missing are Ray's dashboard modules, whose title overwrites their whole environment; they are children of one that is here.
    """
    mark = f"{MARK}={instance_id}".encode()
    for process in psutil.process_iter():
        if process.pid == os.getpid():  # a command that was started by such a process has its environment
            continue
        with contextlib.suppress(psutil.Error, OSError):
            # Not `process.environ()`: it stops at the gap that the titles of Ray's agents tear into their environment.
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes() and _lives(process):
                yield process


def sweep(instance: Instance) -> int:
    """Stop every process of the instance's cluster: replicas politely, because they still write their logs, the rest by force.
    Ray's own servers take many seconds over a SIGTERM, and nothing that they hold outlives them. Returns how many there were.
    """
    found = set(processes(instance.id))
    for process in list(found):
        with contextlib.suppress(psutil.Error):
            found.update(process.children(recursive=True))
    replicas = {process for process in found if _is_replica(process)}
    for process in replicas:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _wait(replicas, STOP_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while left := {process for process in (*found, *processes(instance.id)) if _lives(process)}:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _wait(left, STOP_SECONDS)
        if time.monotonic() > deadline:
            raise NotReady(f"cannot stop process(es) {', '.join(str(process.pid) for process in left)}, not even by SIGKILL")
    shutil.rmtree(instance.directory, ignore_errors=True)
    return len(found)


def head_lives(instance: Instance) -> bool:
    """Whether both of Ray's own servers run."""
    names = set()
    for process in processes(instance.id):
        with contextlib.suppress(psutil.Error):
            names.add(process.name())
    return {"gcs_server", "raylet"} <= names


def _is_replica(process: psutil.Process) -> bool:
    """Whether it is a replica of a model, by the title that Serve gives it."""
    try:
        return f"ray::ServeReplica:{application('')}" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _wait(expected: Collection[psutil.Process], timeout_s: float) -> None:
    """Until all of them are gone, or zombies: who has to bury those may take its time."""
    deadline = time.monotonic() + timeout_s
    while any(_lives(process) for process in expected) and time.monotonic() < deadline:
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    """Whether ``process`` still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def require_free(host: str, port: int) -> None:
    """Raise ``Conflict`` naming the process that holds ``port``, or ``ConfigError`` when nobody could listen there."""
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"http: cannot listen on {host}:{port}: {error.strerror or error}") from error
    else:
        return
    holder = "another process"
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:2] == (port,):
                holder = f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    raise Conflict(f"port {port} is taken by {holder}; stop it, or choose another with http.port or BATON_HTTP_PORT")


def plan(url: str, reserved: int) -> Instance:
    """A new instance on free ports other than ``reserved`` (the service's own), not started yet."""
    taken = {reserved}
    ports: dict[str, int] = {}
    for name, preferred in PREFERRED.items():
        port = preferred
        while port in taken or not _claim(port):
            port += 1
        taken.add(port)
        ports[name] = port
    instance_id = secrets.token_hex(4)
    directory = SOCKETS / f"baton-{instance_id}"
    directory.mkdir(mode=0o700)
    temporary_of(directory).mkdir()
    return Instance(
        id=instance_id,
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        url=url,
        ports=ports,
        address="",
        directory=str(directory),
    )


def temporary_of(directory: Path) -> Path:
    """Where the instance's processes put temporary files: what a killed one leaves goes when the instance stops."""
    return directory / "tmp"


def environment(instance: Instance) -> dict[str, str]:
    """What every process of the instance must find in its environment.

    HAProxy mode has to be set before Ray starts. The oddly named ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`` makes Ray use the
    loopback address as the node's own, so that none of its servers can be reached from outside. The Ray token keeps other
    users of the machine out. An idle Ray takes an eighth of two cores, from training too: the controller's loop need not
    turn ten times a second, nobody preempts a laptop, and workers at Ray's niceness of 15 yield to every idle daemon. Ray
    may take longer to start than the 30 s that it gives itself. Ray Train looks at its workers every half second instead of
    every two, so that a run's end is seen when it comes.
    """
    directory = Path(instance.directory)
    haproxy = directory / "h"
    return {
        **EVERYWHERE,
        MARK: instance.id,
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": "100",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(instance.ports["haproxy_stats"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(instance.ports["haproxy_metrics"]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(instance.ports["fallback"]),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "TMPDIR": str(temporary_of(directory)),
    }


def start(instance: Instance, log: Path) -> str:
    """Start Ray's head for ``instance``, whose `environment` must already be this process's own.

    Returns: the address to join it at.

    Raises:
        NotReady: it did not start; ``log`` has its words.
    """
    directory = Path(instance.directory)
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ports = instance.ports
    options = {
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": 0,
        "metrics-export-port": ports["metrics"],
        "ray-client-server-port": ports["client"],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": directory / "ray",
    }
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", "--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    with log.open("ab") as output:
        try:
            # A session of its own: Ctrl-C in the terminal is for the supervisor, which then stops the rest in order.
            code = subprocess.run(
                command, stdout=output, stderr=output, timeout=START_SECONDS, check=False, start_new_session=True
            ).returncode
        except subprocess.TimeoutExpired:
            raise NotReady(f"Ray did not start within {START_SECONDS:.0f} s; see {log}") from None
    if code != 0:
        raise NotReady(f"Ray did not start (exit status {code}); see {log}")
    return (directory / "ray" / "ray_current_cluster").read_text().strip()


def wait_for_exit(instance: Instance, timeout_s: float) -> bool:
    """Wait until the instance's supervisor is gone; False when it is still there after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while alive(instance):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _claim(port: int) -> bool:
    """Whether ``port`` is free, and then nobody else's as long as this process lives: two instances that start at once would
    otherwise both find it free, because Ray takes it seconds later.
    """
    try:
        lock = os.open(SOCKETS / f"baton-port-{port}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # another user's
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _bind("0.0.0.0", port)
    except OSError:
        os.close(lock)
        return False
    return True  # the lock stays open, and ends with this process


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
