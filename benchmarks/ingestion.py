"""Measure streamed feedback into a control API in a separate process: rows per second, memory, and ignored duplicates.

``python -m benchmarks.ingestion`` writes its section to ``benchmarks/RESULTS.md``. Needs neither Ray nor a model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
from fastapi import FastAPI

from baton.config.file import BatonConfig

MODEL = "intents"
ROWS = 100_000
PASSES = {"new": "first", "the same again": "first", "new, into the filled table": "second"}
"""Names of the passes, with the prefix of the ids that each sends."""

LINES_A_CHUNK = 100
SAMPLE_SECONDS = 0.05


def main() -> None:
    """Measure, and write the section. With ``--serve``, be the server that is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingestion", description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default: {ROWS:,}")
    parser.add_argument("--out", type=Path, help="default: benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _serve(arguments.serve)
        return
    from benchmarks.__main__ import RESULTS, head_of, write

    with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
        section = measure(Path(home), arguments.rows)
    write(arguments.out or RESULTS, section, head_of("benchmarks.ingestion", f"--rows {arguments.rows}", model=None))


def measure(home: Path, rows: int) -> str:
    """Measure, and return a section of the results."""
    table = []
    with _server(home) as (process, url), httpx.Client(base_url=url, timeout=600) as client:
        _send(client, "warm-up", 1000)
        for name, batch in PASSES.items():
            before = process.memory_info().rss
            began = time.perf_counter()
            with _peak(process) as peak:
                report = _send(client, batch, rows)
            seconds = time.perf_counter() - began
            after = process.memory_info().rss
            memory = " | ".join(f"{value / 2**20:.0f} MiB" for value in (before, max(peak), after))
            table.append(f"| {name} | {rows / seconds:,.0f} | {memory} | {report['accepted']:,} | {report['duplicates']:,} |")
        size = len(_lines("first", 0, rows)) / 2**20
    return (
        "## Ingestion of feedback\n\n"
        f"{rows:,} corrections with ids in one JSON Lines stream of {size:.1f} MiB to the control API in a process of its own\n"
        "(uvicorn, SQLite in WAL mode, each batch of 1,000 synced to disk before the next), three passes in a row. Memory is\n"
        "the server's resident set. Sender and server share the machine.\n\n"
        "| rows | rows/s | memory before | highest | after | accepted | duplicates |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(table)
        + "\n"
    )


def _lines(batch: str, start: int, stop: int) -> bytes:
    row = '{"id": "%s-%d", "text": "Where is parcel %d? It was due on Monday.", "label": "shipping"}\n'
    return "".join(row % (batch, number, number) for number in range(start, stop)).encode()


def _send(client: httpx.Client, batch: str, rows: int) -> dict[str, int]:
    def chunks() -> Iterator[bytes]:
        for start in range(0, rows, LINES_A_CHUNK):
            yield _lines(batch, start, min(rows, start + LINES_A_CHUNK))

    answer = client.post(f"/api/models/{MODEL}/feedback", content=chunks(), headers={"content-type": "application/x-ndjson"})
    answer.raise_for_status()
    report: dict[str, int] = answer.json()
    return report


@contextlib.contextmanager
def _peak(process: psutil.Process) -> Iterator[list[int]]:
    """Yield a list to which the resident size of ``process`` is added every `SAMPLE_SECONDS` while the block runs."""
    seen, done = [process.memory_info().rss], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _server(home: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Run the control API with an empty registry in ``home``. Yield its process and its URL."""
    model = {"name": MODEL, "task": "classification", "data": {"train": "nowhere.jsonl"}}
    content = {"storage": str(home / "storage"), "database": f"sqlite:///{home}/baton.db", "models": [model]}
    path = home / "config.json"
    path.write_text(json.dumps(content))
    command = [sys.executable, "-m", "benchmarks.ingestion", "--serve", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise RuntimeError("the server did not start")
            yield psutil.Process(server.pid), f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _serve(path: Path) -> None:
    """Serve the control API on a free port, and print the port."""
    import uvicorn

    from services.control.api.app import build_api
    from services.control.plane import ControlPlane

    control = ControlPlane(BatonConfig.model_validate_json(path.read_text()).model_dump(mode="json"))
    control.registry.migrate()
    control.registry.declare_model(MODEL)

    @contextlib.asynccontextmanager
    async def no_loops(_: FastAPI) -> AsyncIterator[None]:
        yield

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    Server(uvicorn.Config(build_api(control, no_loops), port=0, log_level="warning")).run()


if __name__ == "__main__":
    main()
