"""Measure the cost of the prediction log: a replica that logs every answer and one that logs none, under load in turn.

``python -m benchmarks.prediction_log`` writes its section to ``benchmarks/RESULTS.md``. Needs wrk. Each replica is a separate
process behind uvicorn, without Ray. The version has a random head: its answers do not matter here.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from baton.config.model_settings import ModelSettings
from benchmarks import wrk

MODEL = "m"
LABELS = tuple(f"label {number}" for number in range(77))
TEXTS = (
    "I was charged twice for my order and want the money back",
    "Where is my parcel? It was due on Monday.",
    "The app crashes when I open my profile",
    "How do I change the address of a delivery that is on its way?",
)
VARIANTS = {"off": {"log": 0.0}, "on": {}, "on, two patterns masked": {"redact": [r"\b\d{13,19}\b", r"\S+@\S+"]}}
CONCURRENCIES = (8, 64)
SECONDS, ROUNDS = 6, 5


class Cost(NamedTuple):
    """The cost of one measurement."""

    rate: float
    """Requests per second."""
    cpu_ms: float
    """CPU milliseconds of the replica per request."""
    p99_ms: float
    """99th percentile of the latency, in milliseconds."""


def main() -> None:
    """Measure, and write the section. With ``--serve``, be the replica that is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction_log", description=__doc__)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--out", type=Path, help="default: benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _serve(arguments.home, arguments.serve)
        return
    from benchmarks.__main__ import RESULTS, head_of, write

    with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
        section = measure(Path(home), arguments.rounds)
    write(arguments.out or RESULTS, section, head_of("benchmarks.prediction_log", f"--rounds {arguments.rounds}"))


def measure(home: Path, rounds: int) -> str:
    """Measure, and return a section of the results."""
    seen: dict[tuple[int, str], list[Cost]] = {}
    for variant in VARIANTS:
        _publish(home / variant)
    with contextlib.ExitStack() as stack:
        replicas = {variant: stack.enter_context(_replica(home, variant)) for variant in VARIANTS}
        for number in range(-1, rounds):  # the first round warms up
            for concurrency in CONCURRENCIES:
                for variant, (process, url) in replicas.items():
                    cost = _cost(home, process, url, concurrency, f"{concurrency}-{number}")
                    if number >= 0:
                        seen.setdefault((concurrency, variant), []).append(cost)
    logged = ", ".join(f"{variant}: {_logged(home / variant):,}" for variant in VARIANTS)
    rows = []
    for (concurrency, variant), loads in seen.items():
        rate, cpu, p99 = (statistics.median(column) for column in zip(*loads, strict=True))
        more = statistics.median(load.cpu_ms / off.cpu_ms for load, off in zip(loads, seen[concurrency, "off"], strict=True))
        extremes = f"{min(load.rate for load in loads):.0f}–{max(load.rate for load in loads):.0f}"
        rows.append(f"| {concurrency} | {variant} | {rate:.0f} ({extremes}) | {cpu:.2f} ms | {more:.2f} | {p99:.0f} ms |")
    return (
        "## The prediction log\n\n"
        f"One replica of {len(LABELS)} labels (uvicorn, one model thread, SQLite), `wrk -t1 -cN -d{SECONDS}s`, one text a\n"
        f"request, each with a request id; medians of {rounds} rounds, the ways in turn. CPU is the replica's own,\n"
        "all its threads, of one request: unlike the rate it hardly depends on what else runs on the machine.\n\n"
        "| concurrency | log | requests/s (extremes) | CPU | of off | p99 |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nRows in the log afterwards: {logged}.\n"
    )


def _settings(variant: str) -> ModelSettings:
    return ModelSettings.model_validate(
        {
            "name": MODEL,
            "task": "classification",
            "data": {"train": "nowhere.jsonl"},
            "feedback": VARIANTS[variant],
            "serving": {"device": "cpu"},
        }
    )


def _publish(home: Path) -> None:
    """Publish a version with a random head to a storage and registry in ``home``, and make it the champion."""
    from transformers import AutoTokenizer

    from baton.artifacts.manifest import Manifest
    from baton.artifacts.storage import Storage
    from baton.config.base_models import find_base_model
    from baton.engines.torch_engine import load_model
    from baton.predict.predictor import Predictor
    from baton.store.records import Champion, Decision, DecisionKind, Verdict
    from baton.store.registry import Registry

    settings = _settings("off")
    base = find_base_model(settings.base_model)
    directory = home / "checkpoint"
    load_model("AutoModelForSequenceClassification", base, LABELS).save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    manifest = Manifest(
        model=MODEL,
        task="classification",
        labels=LABELS,
        max_length=128,
        base_model=settings.base_model,
        dataset={},
        training={},
        metrics={},
        code_version="0",
    )
    probes = Predictor.load(directory, manifest, settings.serving).probe()
    registry = Registry(f"sqlite:///{home}/baton.db")
    registry.migrate()
    registry.declare_model(MODEL)
    number = registry.versions.reserve(MODEL, None)
    uri, sha256 = Storage(str(home / "storage")).publish(number, directory, manifest.model_copy(update={"probes": probes}))
    registry.versions.publish(MODEL, number, uri=uri, manifest_sha256=sha256, metrics={}, lineage={})
    decision = Decision(
        model=MODEL,
        candidate=number,
        champion=None,
        champion_sequence=0,
        kind=DecisionKind.FORCE,
        verdict=Verdict.PROMOTE,
        sentence="Forced.",
        reason="a benchmark",
    )
    registry.promote(decision, Champion(version=None, sequence=0))


@contextlib.contextmanager
def _replica(home: Path, variant: str) -> Iterator[tuple[psutil.Process, str]]:
    """Run a replica with the log of ``variant``. Yield its process and its URL.

    It is stopped as Serve stops a replica, so that it writes what is still in memory.
    """
    command = [sys.executable, "-m", "benchmarks.prediction_log", "--serve", variant, "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise RuntimeError("the replica did not start")
            yield psutil.Process(server.pid), f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _serve(home: Path, variant: str) -> None:
    """Serve on a free port, and print the port."""
    import uvicorn

    from services.replica.replica import ModelReplica

    database, storage = f"sqlite:///{home / variant}/baton.db", str(home / variant / "storage")
    replica = ModelReplica(_settings(variant).model_dump(mode="json"), database, storage, replica_id=variant)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    application = replica.__serve_build_asgi_app__()
    Server(uvicorn.Config(application, port=0, log_level="warning", access_log=False)).run()


def _cost(home: Path, process: psutil.Process, url: str, concurrency: int, name: str) -> Cost:
    script = wrk.write_script(home / "load.lua", TEXTS, request_ids=name)
    before = process.cpu_times()
    load = wrk.load(script, url, concurrency, SECONDS)
    after = process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    return Cost(rate=load.rate, cpu_ms=1000 * cpu / load.requests, p99_ms=load.p99_ms)


def _logged(home: Path) -> int:
    import sqlalchemy as sa

    from baton.store import database, schema

    with database.reading(database.connect(f"sqlite:///{home}/baton.db")) as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(schema.predictions)) or 0)


if __name__ == "__main__":
    main()
