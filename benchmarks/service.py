"""A service of the benchmark's own: started in a temporary directory, on a free port, stopped at the end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from services.client import Client

MODEL = "intents"
TRAINING = {"epochs": 3, "learning_rate": 2.0e-4, "batch_size": 32, "max_length": 128}


def holdout_of(data: Path) -> Path:
    """``test.jsonl`` or ``holdout.jsonl``."""
    test = data / "test.jsonl"
    return test if test.exists() else data / "holdout.jsonl"


class Service:
    """Two replicas of one model over the benchmark's data, without a version at first."""

    def __init__(self, home: Path, data: Path) -> None:
        self.home = home
        self.data = data.resolve()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.client = Client(f"http://127.0.0.1:{port}")
        self.url = f"{self.client.url}/models/{MODEL}"
        content = {
            "http": {"port": port},
            "models": [
                {
                    "name": MODEL,
                    "task": "classification",
                    "data": {"train": str(self.data / "train.jsonl"), "holdout": str(holdout_of(self.data))},
                    "training": TRAINING,
                    "gate": {"min_f1": 0.0},
                    "serving": {"replicas": 2},
                }
            ],
        }
        (home / "baton.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def __enter__(self) -> Service:
        self._baton("up", "--detach")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._baton("down")

    def texts(self, count: int = 500) -> list[str]:
        """Texts of the holdout."""
        lines = holdout_of(self.data).read_text(encoding="utf-8").splitlines()[:count]
        return [json.loads(line)["text"] for line in lines]

    def train(self, *assignments: str) -> tuple[dict[str, Any], float]:
        """A run watched to its end, and the seconds from asking for it to its decision."""
        began = time.perf_counter()
        run: dict[str, Any] = self.client.post(f"/api/models/{MODEL}/runs", {"set": list(assignments)})
        while run["state"] in ("queued", "running"):
            time.sleep(1.0)
            run = self.client.get(f"/api/runs/{run['id']}")
        if run["state"] != "succeeded":
            raise RuntimeError(f"run {run['id']} {run['state']}: {run['reason']}")
        return run, time.perf_counter() - began

    def first_version(self) -> int:
        """A quickly trained champion, where no benchmark has made one."""
        champion = self.client.get(f"/api/models/{MODEL}")["champion"]
        if champion is None:
            run, _ = self.train("training.epochs=1", "training.tune=head")
            champion = run["version"]
            self.wait_for(champion)
        return int(champion)

    def wait_for(self, version: int) -> None:
        """Until ``version`` serves everywhere."""
        while True:
            model = self.client.get(f"/api/models/{MODEL}")
            if model["champion"] == version and not model["rolling_out"]:
                return
            time.sleep(0.1)

    def _baton(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "services.cli", *arguments, "-c", str(self.home / "baton.yaml")]
        subprocess.run(command, check=True)
