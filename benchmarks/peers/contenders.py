"""Servers as the benchmark sees them: a program that is started, a URL, a request body, the memory that it uses, and an end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks.service import OneModelService, write_rows

SERVERS = Path(__file__).with_name("servers")
ENVIRONMENTS = Path(__file__).parents[2] / ".venv" / "peers"
START_SECONDS = 300.0


class Contender(ABC):
    """A server that is running."""

    name: str
    url: str

    def body(self, texts: Sequence[str]) -> str:
        """Return the body of a request for the best five labels of some texts."""
        return json.dumps({"inputs": texts[0] if len(texts) == 1 else list(texts)})

    @abstractmethod
    def megabytes(self) -> float:
        """Return the resident memory of the processes that answer, in 10^6 bytes."""

    @abstractmethod
    def close(self) -> None:
        """End the server."""


class Baton(Contender):
    """Baton with two replicas of one thread each, which serve the first version of the service in a directory."""

    name = "Baton"

    def __init__(self, home: Path, precision: str, texts: Sequence[str]) -> None:
        """Start the service. Without a version it serves none yet: `prepare` registers one. ``texts``: its training rows."""
        serving = {"replicas": 2, "precision": precision}
        self._service = OneModelService(home, {**write_rows(home, texts), "serving": serving})
        self._service.__enter__()
        self.url = self._service.url

    def prepare(self, model: Path) -> Path:
        """Register ``model`` as the first version, and serve it. Return its directory, with its exports."""
        version = self._service.register(model)
        self._service.force(version)
        return self._service.version_directory(version)

    def body(self, texts: Sequence[str]) -> str:
        """Return the body of a request for the best five labels of some texts."""
        return json.dumps({**json.loads(super().body(texts)), "parameters": {"top_k": 5}})

    def megabytes(self) -> float:
        """Return the resident memory of the two replicas, in 10^6 bytes."""
        return sum(psutil.Process(replica["pid"]).memory_info().rss for replica in self._service.replicas()) / 1e6

    def close(self) -> None:
        """End the service."""
        self._service.__exit__(None, None, None)


class Peer(Contender):
    """Another server, which is a process tree of ours."""

    def __init__(self, name: str, command: Sequence[str], path: str, port: int, **environment: str) -> None:
        self.name, self.url = name, f"http://127.0.0.1:{port}{path}"
        self._log = (ENVIRONMENTS / f"{name}.log").open("wb")
        self._process = psutil.Popen(
            command,
            cwd=SERVERS,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def megabytes(self) -> float:
        """Return the resident memory of all its processes, in 10^6 bytes."""
        return sum(process.memory_info().rss for process in [self._process, *self._process.children(recursive=True)]) / 1e6

    def close(self) -> None:
        """End all its processes."""
        processes = [self._process, *self._process.children(recursive=True)]
        self._process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=15)
        for process in alive:
            process.kill()
        self._log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start; see {self._log.name}")
            try:
                if httpx.post(self.url, content=self.body(["hello"]), headers=JSON, timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)


class BentoMl(Peer):
    """BentoML, whose requests are always lists."""

    def body(self, texts: Sequence[str]) -> str:
        """Return the body of a request for the best five labels of some texts."""
        return json.dumps({"inputs": list(texts)})


JSON = {"content-type": "application/json"}

REQUIREMENTS = {
    "litserve": ("litserve==0.2.19", "onnxruntime==1.32.0", "tokenizers"),
    "bentoml": ("bentoml==1.4.40", "onnxruntime==1.32.0", "tokenizers"),
}
"""Packages of each peer's environment. Ray Serve is in the project's own."""


def start_peer(name: str, version: Path, file: str) -> Peer:
    """Start a peer that serves the export ``file`` of a version. Its environment is created first, if it is not there."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    served = (str(version), file)
    if name == "ray":
        return Peer("Ray Serve", (sys.executable, "ray_server.py", *served, str(port)), "/", port)
    python = _environment(name)
    if name == "litserve":
        return Peer("LitServe", (str(python), "litserve_server.py", *served, str(port)), "/", port)
    command = (str(python.with_name("bentoml")), "serve", "bentoml_server:Classifier", "--port", str(port))
    return BentoMl("BentoML", command, "/predict", port, PEER_DIRECTORY=served[0], PEER_FILE=file, BENTOML_DO_NOT_TRACK="True")


def _environment(name: str) -> Path:
    """Return the interpreter of a peer's virtual environment."""
    directory = ENVIRONMENTS / name
    python = directory / "bin" / "python"
    if not (directory / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True)
        (directory / "installed").touch()
    return python


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
