"""Network namespaces that a Ray cluster takes for machines. Needs root and iproute2; removes everything at the end.

Knows Ray's command line and its environment; knows nothing of Baton's service.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.environment import NODE_VARIABLES
from services.host import haproxy

HOST = "10.77.0.254"
"""Address of this machine in the network of the nodes: of the benchmark, the stores, and Redis."""

CPUS = 4
"""CPUs that each worker node says it has, however many the machine has: a node's share of Ray's bookkeeping."""

RECONNECT_SECONDS = "600"
"""How long nodes wait for a lost head, in Ray's variable for it. KubeRay sets the same value."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One namespace with an address and a /tmp of its own."""

    name: str
    address: str
    directory: Path
    environment: Mapping[str, str]

    def run(self, *command: str, timeout: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on this node, to its end. Raise if it fails."""
        # A private mount of /tmp: Ray keeps its session there, and Baton what it has fetched, as on machines of their own.
        inside = ["unshare", "--mount", "sh", "-c", f'mount --bind {self.directory} /tmp && exec "$@"', "sh"]
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *inside, *command],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done

    def start_ray(self, *options: str) -> None:
        """Start this node's Ray, which joins or becomes the cluster as ``options`` say."""
        ray = str(Path(sys.executable).with_name("ray"))
        self.run(ray, "start", f"--node-ip-address={self.address}", "--disable-usage-stats", *options)

    def processes(self) -> set[int]:
        """Return the ids of all processes of this node."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return {int(line) for line in listed.stdout.split()}

    def kill(self) -> None:
        """Kill every process of this node at once, as a machine that loses its power does."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


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
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_worker_niceness": "0",
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
            node = Node(name=f"bt{tag}-{name}", address=f"10.77.0.{number}", directory=directory, environment=environment)
            _ip("netns", "add", node.name)
            made.append(node)
            outside, inside = f"bt{tag}{number}", "eth0"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", node.name)
            _ip("link", "set", outside, "master", bridge, "up")
            for command in (("addr", "add", f"{node.address}/24", "dev", inside), ("link", "set", inside, "up")):
                _ip("-n", node.name, *command)
            _ip("-n", node.name, "link", "set", "lo", "up")
        yield made
    finally:
        for node in made:
            node.kill()
            _ip("netns", "delete", node.name)
        _ip("link", "delete", bridge)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
