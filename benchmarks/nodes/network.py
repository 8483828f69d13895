"""Network namespaces that a Ray cluster takes for machines. Needs root and iproute2; removes everything at the end.

Knows Ray's command line and its environment; knows nothing of Baton's service.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from services.environment import NODE_VARIABLES
from services.host import haproxy

HOST = "10.77.0.254"
"""Address of this machine in the network of the nodes: of the benchmark, the stores, and Redis."""

CPUS = 4
"""CPUs that each worker node says it has, however many the machine has: a node's share of Ray's bookkeeping."""

RECONNECT_SECONDS = "600"
"""How long nodes wait for a lost head, in Ray's variable for it. KubeRay sets the same value."""


class Node:
    """One namespace with an address, a /tmp and processes of its own: the processes of a machine.

    Ray's driver joins any Ray process that it sees, so a node must not see the processes of another node.
    """

    def __init__(self, name: str, address: str, directory: Path, environment: Mapping[str, str]) -> None:
        """``directory`` becomes the node's /tmp: Ray keeps its session there, and Baton what it has fetched."""
        self.name, self.address = name, address
        self._directory, self._environment = directory, {**os.environ, **environment}
        self._init: psutil.Process | None = None

    def boot(self) -> None:
        """Start the first process of this node, which all others live with."""
        hosts = self._directory.with_suffix(".hosts")
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n")  # as Debian and Ubuntu have it, in effect
        inside = f"mount --bind {self._directory} /tmp && mount --bind {hosts} /etc/hosts && exec sleep infinity"
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside)
        self._outside = psutil.Popen(["ip", "netns", "exec", self.name, *unshare], stderr=subprocess.DEVNULL)  # about signals
        while not (found := [process for process in self._outside.children() if process.name() == "sleep"]):
            if self._outside.poll() is not None:
                raise RuntimeError(f"{self.name} did not start: are you root, and is util-linux there?")
            time.sleep(0.05)
        [self._init] = found

    def run(self, *command: str, timeout: float = 300) -> None:
        """Run a command on this node, to its end. Raise if it fails."""
        assert self._init is not None
        done = subprocess.run(
            ["nsenter", f"--target={self._init.pid}", "--net", "--mount", "--pid", *command],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,
            cwd=self._directory.parent,  # a directory that the node has, too
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}")

    def start_ray(self, *options: str) -> None:
        """Start this node's Ray, which joins or becomes the cluster as ``options`` say."""
        ray = str(Path(sys.executable).with_name("ray"))
        self.run(ray, "start", f"--node-ip-address={self.address}", "--disable-usage-stats", *options)

    def processes(self, title: str) -> list[int]:
        """Return the ids of this node's processes, as this machine counts them, whose command line contains ``title``."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        found = []
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):  # ended between our two looks
                if title.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def kill(self) -> None:
        """Kill every process of this node at once, as a machine that loses its power does."""
        if self._init is not None:
            self._init.kill()  # the kernel kills the rest of its namespace
            self._outside.wait()
            self._init = None


@contextmanager
def nodes(home: Path, names: list[str], variables: Mapping[str, str]) -> Iterator[list[Node]]:
    """Yield a node for each name, in one network with `HOST`. ``variables`` are added to the environment of all.

    ``home`` must not be below /tmp, which each node replaces by its own.
    """
    launcher = home / "haproxy"
    haproxy.write_launcher(launcher)
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **NODE_VARIABLES,
        haproxy.BINARY: str(launcher),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # three nodes share the processors of one machine
        "RAY_gcs_rpc_server_reconnect_timeout_s": RECONNECT_SECONDS,
        **variables,
    }
    tag = secrets.token_hex(2)
    bridge = f"bt{tag}"
    made: list[Node] = []
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("addr", "add", f"{HOST}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names, start=1):
            directory = home / name
            directory.mkdir()
            directory.chmod(0o1777)
            node = Node(f"bt{tag}-{name}", f"10.77.0.{number}", directory, environment)
            _ip("netns", "add", node.name)
            made.append(node)
            outside, inside = f"bt{tag}{number}", "eth0"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", node.name)
            _ip("link", "set", outside, "master", bridge, "up")
            for command in (("addr", "add", f"{node.address}/24", "dev", inside), ("link", "set", inside, "up")):
                _ip("-n", node.name, *command)
            _ip("-n", node.name, "link", "set", "lo", "up")
            _ip(
                "-n", node.name, "route", "add", "default", "via", HOST
            )  # Ray takes the address behind it for the machine's own
            node.boot()
        yield made
    finally:
        for node in made:
            node.kill()
            _ip("netns", "delete", node.name, check=False)
        _ip("link", "delete", bridge, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check)
