"""HAProxy as Ray Serve runs it, started by our program, in front of servers that behave as a test wants."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from services.host import haproxy
from services.names import REFUSED, ROOM
from tests.support.waiting import free_port, until


class Backend:
    """An HTTP server in this process that stands for a replica, the control plane or Serve's own proxy."""

    def __init__(self, name: str, *, ready: bool = True) -> None:
        self.name = name
        self.ready = ready
        """Whether it has a version."""
        self.refusing = False
        """Whether it answers requests with 503, although its health check has not said so yet."""
        self.draining = False
        """Whether Serve stops it."""
        self.dying = 0.0
        """How many of the next requests get no answer: the connection is closed once it has the request."""
        self.room: int | None = None
        """How many further requests it says it has room for; None: it says nothing."""
        self.open = threading.Event()
        """Whether predictions are answered; those that come before it is set wait for it."""
        self.open.set()
        self.headers: dict[str, str] = {}
        """Further headers of its answers."""
        self.requests: list[str] = []
        """Methods and paths that it got, health checks left out."""
        self.refused: list[str] = []
        """How many requests it was told that HAProxy had refused."""
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer is one write: HAProxy closes the connection on the head of one that it asks another for

            def do_GET(self) -> None:
                if self.path == "/-/healthz":
                    self._answer(503 if backend.draining else 200)
                elif self.path.endswith("/health"):
                    self._answer(200 if backend.ready else 503)
                else:
                    self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                backend.requests.append(f"{self.command} {self.path}")
                backend.refused += self.headers.get_all(REFUSED, [])
                if self.command == "POST":
                    backend.open.wait(60)
                if backend.dying > 0:
                    backend.dying -= 1
                    self.close_connection = True
                else:
                    self._answer(200 if backend.ready and not backend.refusing else 503)

            def _answer(self, status: int) -> None:
                body = json.dumps({"by": backend.name}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                for name, value in backend.told().items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep the output of tests clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def told(self) -> dict[str, str]:
        """Return the headers of the next answer, besides the usual ones."""
        return self.headers if self.room is None else {ROOM: str(self.room), **self.headers}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def render(
    directory: Path,
    replicas: Sequence[Backend],
    control: Backend,
    fallback: Backend,
    maxconn: int,
    port: int,
    host: str = "127.0.0.1",
) -> Path:
    """Write what Ray writes for a model ``m`` and the control plane of a service with ``http.host``."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    def server(backend: Backend) -> ServerConfig:
        return ServerConfig(name=backend.name, host="127.0.0.1", port=backend.port)

    backends = [
        BackendConfig(name=name, path_prefix=path, servers=[server(it) for it in servers], fallback_server=server(fallback))
        for name, path, servers in (("http-model-m", "/models/m", replicas), ("http-control", "/", [control]))
    ]
    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "server-state"),
        metrics_socket_path=str(directory / "metrics.sock"),
        stats_port=free_port(),
        metrics_port=free_port(),
        maxconn=maxconn,
        http_options=HTTPOptions(host=host, port=port),
        has_received_routes=True,
        is_head=True,
    )
    path = directory / "haproxy.cfg"
    HAProxyApi(config, {backend.name: backend for backend in backends}, str(path))._generate_config_file_internal()
    return path


class Front:
    """HAProxy before two replicas of model ``m`` and the control plane, during a ``with`` block.

    ``request_seconds``: in place of the limit that users get, which is too long for a test. ``lately_seconds``: in place of the
    time for which HAProxy remembers the room that it was told, which is too short for a test on busy processors.
    """

    def __init__(
        self,
        *replicas: Backend,
        maxconn: int = 200,
        request_seconds: int = haproxy.REQUEST_SECONDS,
        lately_seconds: int = 600,
    ) -> None:
        self.replicas = replicas
        self.control, self.fallback = Backend("control"), Backend("fallback", ready=False)
        self._directory = tempfile.TemporaryDirectory(prefix="haproxy-")
        directory = Path(self._directory.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = render(directory, replicas, self.control, self.fallback, maxconn, self.port)
        changed = haproxy.adapt(self._config.read_text())
        lately = "acl lately date,sub(txn.told) -m int le"
        assert f"{lately} {haproxy.LATELY_SECONDS}\n" in changed
        changed = changed.replace(f"{lately} {haproxy.LATELY_SECONDS}\n", f"{lately} {lately_seconds}\n")
        haproxy.replace(self._config, changed.replace(f"{haproxy.REQUEST_SECONDS}s", f"{request_seconds}s"))
        self._launcher = directory / "haproxy"
        haproxy.write_launcher(self._launcher)

    def __enter__(self) -> Self:
        environment = {**os.environ, haproxy.BINARY: str(self._launcher)}
        log = self._config.with_suffix(".log")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._launcher, "-db", "-f", self._config, "-dR"], env=environment, stdout=output, stderr=output
            )
        until(lambda: self._started(log), 20, "HAProxy answers")
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for backend in (*self.replicas, self.control, self.fallback):
            backend.close()
        self._directory.cleanup()

    def _started(self, log: Path) -> bool:
        assert self._process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            return bool(self.states())
        return False

    def predict(self) -> httpx.Response:
        return httpx.post(f"{self.url}/models/m", json={"inputs": "text"}, timeout=60)

    def states(self) -> dict[str, str]:
        """What HAProxy thinks of each replica: UP, DOWN, or something between."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._config.with_name("admin.sock")))
            admin.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: admin.recv(65536), b"")).decode().removeprefix("# ")
        rows = csv.DictReader(answer.splitlines())
        return {row["svname"]: row["status"] for row in rows if row["pxname"] == "http-model-m"}
