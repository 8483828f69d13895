"""Free TCP ports on this machine. Knows nothing of Ray."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path

import psutil

from baton.errors import ConfigError, Conflict

PREFERRED_PORTS = {
    "dashboard": 8265,
    "metrics": 8080,
    "haproxy_stats": 8404,
    "haproxy_metrics": 9101,
    "fallback": 8500,
    "client": 10001,
}
"""Ports that an instance needs in addition to the service's own. Where one is taken, the next free one is used."""

INSTANCES = Path("/tmp")
"""Directory of the instances' own directories, and of the locks with which they reserve ports.

Fixed, whatever TMPDIR says: all instances must use the same locks, and HAProxy accepts at most 97 characters for a socket's
path, into which Serve puts 70 of its own.
"""


CLOSING_SECONDS = 2.0
"""How long a port that nobody seems to hold is waited for. The threads of a process that was killed close its sockets a moment
after it counts as ended."""


def require_free(host: str, port: int) -> None:
    """Raise unless this machine can listen on ``port`` of ``host``.

    Raises:
        Conflict: a process listens there already; the message names it.
        ConfigError: nothing could listen there, for example because this machine does not have the address.
    """
    deadline = time.monotonic() + CLOSING_SECONDS
    while True:
        try:
            _bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"http: cannot listen on {host}:{port}: {error.strerror or error}") from error
        else:
            return
        holder = _holder(port)
        if holder is not None or time.monotonic() > deadline:
            held = holder or "another process"
            raise Conflict(f"port {port} is taken by {held}; stop it, or choose another port with http.port or BATON_HTTP_PORT")
        time.sleep(0.05)


def _holder(port: int) -> str | None:
    """Return the process that listens on ``port``; None if there is none that this user may see."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:2] == (port,):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return None


def reserve(excluded: int) -> dict[str, int]:
    """Reserve a free port for each name in `PREFERRED_PORTS`, other than ``excluded``, until this process ends."""
    taken = {excluded}
    reserved: dict[str, int] = {}
    for name, preferred in PREFERRED_PORTS.items():
        port = preferred
        while port in taken or not _try_reserve(port):
            port += 1
        taken.add(port)
        reserved[name] = port
    return reserved


def _try_reserve(port: int) -> bool:
    """Reserve ``port`` for this process, and return whether that succeeded.

    A check that the port is free is not enough: Ray takes it seconds later, and a second instance that starts meanwhile would
    choose the same one. The lock file prevents that.
    """
    try:
        lock = os.open(INSTANCES / f"baton-port-{port}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # the lock file belongs to another user
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _bind("0.0.0.0", port)
    except OSError:
        os.close(lock)
        return False
    return True  # the file stays open: the lock ends with this process


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
