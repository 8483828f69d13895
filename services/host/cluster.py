"""A Ray cluster of Baton's own on one machine: choose its ports and directory, set its environment, start its head.

All its servers listen on loopback, except HAProxy's and Serve's gRPC (see `startup_warnings`). Knows nothing of models.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import psutil

from baton.errors import NotReady
from services.environment import NODE_VARIABLES
from services.host import haproxy, ports
from services.host.instance import Instance, start_of
from services.host.processes import MARK

START_SECONDS = 120.0
"""Maximum time that `ray start` may take."""


def plan(url: str, reserved: int) -> Instance:
    """Return a new instance that is not started yet, with a directory and reserved ports.

    ``reserved``: the service's own port, which the instance must not use for anything else.
    """
    chosen = ports.reserve(excluded=reserved)
    instance_id = secrets.token_hex(4)
    directory = ports.INSTANCES / f"baton-{instance_id}"
    directory.mkdir(mode=0o700)
    temporary_of(directory).mkdir()
    return Instance(
        id=instance_id,
        pid=os.getpid(),
        started_after_boot=start_of(psutil.Process()),
        url=url,
        ports=chosen,
        address="",
        directory=str(directory),
    )


def temporary_of(directory: Path) -> Path:
    """Return the directory for temporary files of an instance's processes. It is removed with the instance, so that killed
    processes leave nothing behind.
    """
    return directory / "tmp"


def session_logs_of(directory: Path) -> Path:
    """Return the directory of the logs of an instance's processes. It is removed with the instance."""
    return directory / "ray" / "session_latest" / "logs"


def _launcher_of(directory: Path) -> Path:
    return directory / "haproxy"


def environment(instance: Instance) -> dict[str, str]:
    """Return the environment variables that every process of ``instance`` must have."""
    directory = Path(instance.directory)
    sockets = directory / "h"
    return {
        **NODE_VARIABLES,  # turns on HAProxy mode, which must be set before Ray starts
        MARK: instance.id,
        # Under `uv run`, Ray would start every worker with `uv run` again, and wait for environments that it builds.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # An idle Ray uses an eighth of two cores, also while a run trains: ten turns of the controller's loop a second are too
        # many for one machine.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # Ray's default niceness, 15, makes workers yield to every idle daemon.
        "RAY_worker_niceness": "0",
        # A slow machine needs more than Ray's default of 30 s.
        "RAY_raylet_start_wait_time_s": "100",
        # On a busy machine, a proxy loads its libraries for longer than Serve's default of 5 s. Serve kills it after three such
        # waits, and then does not start.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        haproxy.BINARY: str(_launcher_of(directory)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(instance.ports["haproxy_stats"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(instance.ports["haproxy_metrics"]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(instance.ports["fallback"]),
        # Despite its name, this makes Ray use the loopback address as the node's own, on Linux too: none of its servers can be
        # reached from outside.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Keeps other users of this machine out of the cluster.
        "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
        # No cloud provider preempts this machine.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Ray Train's default is 2 s: it would notice the end of a run late.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "TMPDIR": str(temporary_of(directory)),
    }


def start(instance: Instance, log: Path) -> str:
    """Start Ray's head for ``instance`` and return the address at which a driver joins it.

    The process that calls this must already have the instance's `environment`. Ray's output goes to ``log``.

    Raises:
        NotReady: Ray did not start.
    """
    directory = Path(instance.directory)
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    haproxy.write_launcher(_launcher_of(directory))
    options = {
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": instance.ports["dashboard"],
        "dashboard-agent-listen-port": 0,
        "metrics-export-port": instance.ports["metrics"],
        "ray-client-server-port": instance.ports["client"],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": directory / "ray",
        # It sends the logs of all processes to drivers, and ours ask for none (`log_to_driver=False`).
        "include-log-monitor": False,
    }
    ray = Path(sys.executable).with_name("ray")
    # Without usage statistics, and without the monitor: an autoscaler has no machines to add to this one.
    flags = ("--head", "--disable-usage-stats", "--no-monitor")
    command = [str(ray), "start", *flags, *(f"--{name}={value}" for name, value in options.items())]
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
