"""Measure outages of the database and of the storage, half a minute each, under load.

``python -m benchmarks.outage --data DIRECTORY`` starts its own PostgreSQL and S3 server (moto), and writes its section to
``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.service import MODEL, OneModelService, holdout_of, read_rows, train_of
from services.demo.traffic import Exchange, Traffic, failed, latency_ms
from tests.support.stores import S3, Postgres

CONCURRENCY = 4
STEADY_SECONDS = 15.0
OUTAGE_SECONDS = 30.0
CALL_SECONDS = 1.0
"""Pause between two control calls."""


@dataclass(kw_only=True)
class Phase:
    """One outage, or the steady time before, and the control calls during it."""

    name: str
    began: float = 0.0
    """In seconds of `time.perf_counter`."""
    ended: float = 0.0
    """In the same seconds."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Number of control calls, by HTTP status."""
    slowest: float = 0.0
    """Duration of the slowest control call, in seconds."""
    reason: str = ""
    """Error message of the last control call."""
    recovery: float = 0.0
    """Seconds from the end of the outage until the control call succeeded."""


def main() -> None:
    """Measure, and write the section to the results."""
    from benchmarks.__main__ import RESULTS, head_of, write

    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl or holdout.jsonl")
    parser.add_argument(
        "--seconds", type=float, default=OUTAGE_SECONDS, help=f"duration of each outage; default: {OUTAGE_SECONDS:.0f}"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    database, bucket = Postgres(), S3()
    try:
        os.environ |= bucket.environment  # for the service, which inherits it
        os.environ |= {"BATON_DATABASE": database.url(database.create()), "BATON_STORAGE": bucket.url()}
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
            section = measure(Path(home), arguments.data.resolve(), arguments.seconds, database, bucket)
    finally:
        database.close()
        bucket.close()
    write(arguments.out, section, head_of("benchmarks.outage", f"--data …/{arguments.data.resolve().name}"))


def measure(home: Path, data: Path, seconds: float, database: Postgres, bucket: S3) -> str:
    """Measure, and return a section of the results."""
    model = {
        "task": "classification",
        "data": {"train": str(train_of(data)), "holdout": str(holdout_of(data))},
        "training": {"method": "fine_tune", "epochs": 1, "tune": "head"},
        "gate": {"min_f1": 0.0},
    }
    texts = [row["text"] for row in read_rows(holdout_of(data))[:500]]
    with OneModelService(home, model) as service:
        first, _ = service.train()
        service.wait_for(first["version"])
        second, _ = service.train("training.seed=1")
        control = httpx.Client(base_url=service.client.url, timeout=120)
        control.post(f"/api/models/{MODEL}/promotions", json={"version": first["version"], "force": True, "reason": "begin"})
        champion = control.get(f"/api/models/{MODEL}").json()["champion"]
        other = first["version"] + second["version"] - champion
        move = {"version": other, "force": True, "reason": "during an outage"}

        def list_versions() -> httpx.Response:
            return control.get(f"/api/models/{MODEL}/versions")

        def promote() -> httpx.Response:
            return control.post(f"/api/models/{MODEL}/promotions", json=move)

        with Traffic(service.url, texts, CONCURRENCY) as traffic:
            time.sleep(3.0)
            steady = Phase(name=f"steady ({STEADY_SECONDS:.0f} s)", began=time.perf_counter())
            time.sleep(STEADY_SECONDS)
            steady.ended = time.perf_counter()
            phases = [
                _outage("PostgreSQL stopped", database.stop, database.start, list_versions, seconds),
                _outage("PostgreSQL frozen", database.freeze, database.thaw, list_versions, seconds),
                _outage("S3 frozen", bucket.freeze, bucket.thaw, promote, seconds),
            ]
            time.sleep(3.0)
        unlogged = sum(replica["unlogged"] for replica in control.get(f"/api/models/{MODEL}").json()["replicas"])
        control.close()
    return _section(traffic.exchanges, steady, phases, unlogged, seconds)


def _outage(
    name: str, begin: Callable[[], None], end: Callable[[], None], call: Callable[[], httpx.Response], seconds: float
) -> Phase:
    """Repeat ``call`` during an outage, and after it until ``call`` succeeds."""
    phase = Phase(name=name, began=time.perf_counter())
    begin()
    try:
        while time.perf_counter() - phase.began < seconds:
            asked = time.perf_counter()
            answer = call()
            phase.slowest = max(phase.slowest, time.perf_counter() - asked)
            phase.statuses[answer.status_code] += 1
            phase.reason = answer.json().get("detail", "")
            time.sleep(CALL_SECONDS)
    finally:
        end()
    phase.ended = time.perf_counter()
    while call().status_code != 200:
        time.sleep(0.1)
    phase.recovery = time.perf_counter() - phase.ended
    return phase


def _section(exchanges: list[Exchange], steady: Phase, phases: list[Phase], unlogged: int, seconds: float) -> str:
    rows = [_row(steady, exchanges, "", "", "")]
    for phase in phases:
        statuses = ", ".join(f"{count} × {status}" for status, count in sorted(phase.statuses.items()))
        rows.append(_row(phase, exchanges, statuses, f"{phase.slowest:.1f} s", f"{phase.recovery:.1f} s"))
    reasons = "\n".join(f"- {phase.name}: «{phase.reason}»" for phase in phases)
    return (
        "## Outages under load\n\n"
        f"One replica, {CONCURRENCY} clients without a pause; PostgreSQL and S3 (moto's server) on the same machine,\n"
        f"each away for {seconds:.0f} s. Control calls, one after the other: the list of versions without the database, a\n"
        "promotion without the storage. Back: from the store's return until the same call answers 200, which for the\n"
        "promotion means that the version serves.\n\n"
        "| | predictions | failed | p50 | p99 | control calls | slowest answer | back after |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"All predictions of the run: {len(exchanges):,}, failed: {failed(exchanges)}, missing in the log of answers:\n"
        f"{unlogged}. The last control call of each outage got this answer:\n\n{reasons}\n"
    )


def _row(phase: Phase, exchanges: list[Exchange], *control: str) -> str:
    during = [it for it in exchanges if it.answered > phase.began and it.sent < phase.ended]
    p50, p99 = latency_ms(during, 0.5), latency_ms(during, 0.99)
    return f"| {phase.name} | {len(during):,} | {failed(during)} | {p50:.1f} ms | {p99:.1f} ms | {' | '.join(control)} |"


if __name__ == "__main__":
    main()
