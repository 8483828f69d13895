"""Measure what pages of the console cost with many models, versions, corrections and audited texts: time, statements, bytes.

    python -m benchmarks.control_plane.console

No Ray runs: the pages are asked for in this process, over SQLite, as a browser asks. Then Chromium loads them over loopback and
tells when it painted first (`PerformancePaintTiming`).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.artifacts.suspects import MOST_SUSPECTS, store_suspects
from baton.config.file import BatonConfig
from baton.store import database, schema
from baton.store.records import DatasetVersion
from baton.store.registry import Registry
from baton.tasks.classification import Classification
from benchmarks.__main__ import RESULTS, head_of, write
from services.control.api.app import build_api
from services.control.reading_plane import ReadingPlane

LARGE = "m0"
"""The model that has most of everything."""

FEW_VERSIONS = 20
ANSWERED, AUDITED, RUNS = 2_000, 1_000, 20
"""Logged answers of the large model's champion that were corrected; its audited texts; runs of each model."""

UNSURE = 20_000
"""Logged answers of that champion that nobody corrected, with scores and texts that differ."""

PAGES = {
    "the overview": "/",
    "versions": f"/console/models/{LARGE}/versions",
    "a version": f"/console/models/{LARGE}/versions/990",
    "side by side": f"/console/models/{LARGE}/compare?a=990&b=1000",
    "playground": f"/console/models/{LARGE}/playground",
    "history": f"/console/models/{LARGE}/history",
    "runs": f"/console/models/{LARGE}/runs",
    "a run": f"/console/models/{LARGE}/runs/{LARGE}-1000",
    "review, the audit": f"/console/models/{LARGE}/review",
    "review, least certain": f"/console/models/{LARGE}/review?queue=unsure",
    "review, suspects": f"/console/models/{LARGE}/review?queue=suspect",
    "data": f"/console/models/{LARGE}/data",
    "a data set": f"/console/models/{LARGE}/data/2",
    "changes of the data": f"/console/models/{LARGE}/data/diff?a=1&b=2",
}
CHROMIUM = "/usr/bin/chromium"

FIRST_PAINT = """() => new Promise((told) =>
    new PerformanceObserver((list) => told(list.getEntriesByName("first-contentful-paint")[0].startTime))
        .observe({ type: "paint", buffered: true }))"""

ROWS = 10_000
"""Train rows of each of the two data sets."""

LOOKS = 5
"""Looks at each page after the first one."""


def main() -> None:
    """Parse the command line, measure, write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control_plane.console", description=__doc__)
    parser.add_argument("--models", type=int, default=40, help="default: 40")
    parser.add_argument("--versions", type=int, default=1_000, help="of one model; the others have 20; default: 1000")
    parser.add_argument("--corrections", type=int, default=100_000, help="of the same model; default: 100000")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file to write; only the section with the same heading is replaced"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-console-") as home:
        text = measure(Path(home), arguments.models, arguments.versions, arguments.corrections)
    options = f"--models {arguments.models} --versions {arguments.versions} --corrections {arguments.corrections}"
    write(arguments.out, text, head_of("benchmarks.control_plane.console", options, model=None))
    print(text)


def measure(home: Path, models: int, versions: int, corrections: int) -> str:
    """Fill a database, ask for each page several times, and return a section of the results."""
    config = _config(home, models)
    registry = Registry(config.database)
    registry.migrate()
    for settings in config.models:
        registry.declare_model(settings.name, settings.model_dump(mode="json"))
        with database.writing(registry._engine) as connection:
            fill(connection, settings.name, versions if settings.name == LARGE else FEW_VERSIONS)
    with database.writing(registry._engine) as connection:
        correct(connection, corrections)
    freeze(registry, Storage(config.storage), versions)
    rows = [_row(config, registry, name, path) for name, path in PAGES.items()]
    paints = painted(build_api(ReadingPlane(config, registry), _nothing))
    rows = [f"{row} {paints[name]} |" for row, name in zip(rows, PAGES, strict=True)]
    registry.close()
    return (
        f"## The console with {models} models\n\n"
        f"One model has {versions:,} versions, {corrections:,} corrections, {ANSWERED:,} of them of logged answers, and "
        f"{AUDITED:,} audited texts,\n{UNSURE:,} more logged answers, {MOST_SUSPECTS} suspects and two data sets of {ROWS:,} "
        f"rows; the others have {FEW_VERSIONS} versions.\nFirst: nothing is cached. Later: the median of {LOOKS} looks, one "
        f"after the other. Wall time. First paint: of Chromium over\nloopback, the median of {LOOKS} loads in an open tab with "
        "the style sheets in its cache.\n\n"
        "| page | first look, ms | statements | later, ms | statements | kB | first paint, ms |\n"
        "|---|--:|--:|--:|--:|--:|--:|\n" + "\n".join(rows) + "\n"
    )


def fill(connection: sa.Connection, model: str, versions: int) -> None:
    """Store versions of a model, each tenth of which was promoted, and its newest runs with their decisions."""
    start = datetime.now(UTC) - timedelta(days=1)
    times = [start + timedelta(minutes=number) for number in range(versions + 1)]
    labels = [f"intent {number}" for number in range(77)]
    per_class = {label: {"f1": 0.9, "precision": 0.9, "recall": 0.9, "support": 40} for label in labels}
    connection.execute(
        schema.versions.insert(),
        [
            {
                "model": model,
                "number": number,
                "published": True,
                "uri": f"models/{model}/versions/{number}",
                "manifest_sha256": "a" * 64,
                "metrics": {"f1": 0.8 + number % 100 / 1000, "accuracy": 0.9, "per_class": per_class, "labels": labels},
                "lineage": {"dataset": {"train_rows": 10_000, "feedback_until": 0}, "labels": labels, "task": "classification"},
                "run_id": None,
                "created_at": times[number],
            }
            for number in range(1, versions + 1)
        ],
    )
    decisions: list[dict[str, Any]] = [
        {
            "model": model,
            "candidate": number,
            "champion": None,
            "champion_sequence": 0,
            "kind": "gate",
            "verdict": "promote" if number % 10 == 0 else "reject",
            "sentence": f"v{number} was judged by the gate on 2,000 texts of the holdout.",
            "policy": {},
            "numbers": {"f1": 0.9, "gain": 0.01},
            "reason": None,
            "created_at": times[number],
        }
        for number in range(1, versions + 1)
    ]
    for decision in decisions:
        inserted = connection.execute(
            schema.decisions.insert().values(**decision).returning(schema.decisions.c.id)
        ).scalar_one()
        number = decision["candidate"]
        if decision["verdict"] == "promote":
            moved = {"model": model, "sequence": number // 10, "version": number, "previous": number - 10 or None}
            connection.execute(
                schema.promotions.insert().values(**moved, decision_id=inserted, kind="gate", created_at=times[number])
            )
        if number > versions - RUNS:
            connection.execute(
                schema.runs.insert().values(
                    id=f"{model}-{number}",
                    model=model,
                    state="succeeded",
                    stage="succeeded",
                    spec={},
                    progress={},
                    version=number,
                    decision_id=inserted,
                    created_at=times[number],
                    started_at=times[number],
                    finished_at=times[number],
                )
            )
    champion = {"champion_version": versions - versions % 10, "champion_sequence": versions // 10}
    connection.execute(schema.models.update().where(schema.models.c.name == model).values(**champion))


def correct(connection: sa.Connection, corrections: int) -> None:
    """Store corrections of the large model, some of them of logged answers, and audited texts that wait."""
    champion = connection.scalar(sa.select(schema.models.c.champion_version).where(schema.models.c.name == LARGE))
    at, text = datetime.now(UTC) - timedelta(hours=1), "a text of nine words as customers write them here"
    answered = [
        {"model": LARGE, "answer_id": f"{number:032x}", "position": 0, "version": champion} for number in range(ANSWERED)
    ]
    logged = {"input": {"text": text}, "output": {"labels": ["intent 1"], "scores": [0.9]}, "label": "intent 1"}
    rest = {"request_id": None, "confidence": 0.9, "length": len(text), "created_at": at}
    connection.execute(schema.predictions.insert(), [{**it, **logged, **rest} for it in answered])
    unsure = [
        {**answered[0], **logged, **rest, "answer_id": f"{ANSWERED + number:032x}"}
        | {"input": {"text": f"{text}, {number}"}, "confidence": number * 7919 % UNSURE / UNSURE}
        | {"created_at": at + timedelta(milliseconds=number)}
        for number in range(UNSURE)
    ]
    connection.execute(schema.predictions.insert(), unsure)
    stored = {"model": LARGE, "client_id": None, "request_id": None, "received_at": at, "sender": None}
    plain = {"answer_id": None, "position": 0, "version": None}
    for start in range(0, corrections, 10_000):
        numbers = range(start, min(start + 10_000, corrections))
        connection.execute(
            schema.feedback.insert(),
            [
                {**stored, **plain, **(answered[number] if number < ANSWERED else {})}
                | {"example": {"text": text, "label": f"intent {number % 77}"}}
                for number in numbers
            ],
        )
    drawn = {"model": LARGE, "input": {"text": text}, "drawn_at": at}
    connection.execute(
        schema.audit.insert(), [{**drawn, "group_hash": f"{it:064x}", "content_hash": f"{it:064x}"} for it in range(AUDITED)]
    )


def freeze(registry: Registry, storage: Storage, versions: int) -> None:
    """Store two data sets of the large model, which differ in some rows, suspects, and the scores of two versions."""
    text = "a text of nine words as customers write them here"
    for first in (0, 50):
        rows = [Classification.Example(text=f"{text}, {row}", label=f"intent {row % 77}") for row in range(first, ROWS + first)]
        splits = {frozen.TRAIN: frozen.to_bytes(rows), frozen.HOLDOUT: frozen.to_bytes(rows[:1000])}
        holdout_hash, content_hash = frozen.hashes(splits)
        version = DatasetVersion(
            hash=content_hash,
            holdout_hash=holdout_hash,
            uri=f"models/{LARGE}/datasets/{content_hash}",
            labels=tuple(f"intent {label}" for label in range(77)),
            train_rows=ROWS,
            holdout_rows=1000,
            removed_leaks=0,
            removed_duplicates=0,
            previous=1 if first else None,
        )
        storage.write_dataset(
            version.uri, {f"{name}.jsonl": content for name, content in splits.items()}, {frozen.QUARANTINE: b""}
        )
        registry.datasets.add(LARGE, version, {})
    notes = {"_suggested": "intent 2", "_margin": 0.5, "_where": "train.jsonl line 3"}
    suspects = [{"text": f"{text}, {row}", "label": "intent 1", **notes} for row in range(MOST_SUSPECTS)]
    store_suspects(storage, LARGE, suspects)
    for number in (versions - 10, versions):
        metrics = registry.versions.get(LARGE, number).metrics
        registry.evaluations.add(LARGE, number, "h", metrics, np.zeros((3000, 2), dtype=np.int32))


def painted(application: FastAPI) -> dict[str, str]:
    """Return how many milliseconds after the start of its loading Chromium first paints each page; «–» without Chromium."""
    if not Path(CHROMIUM).exists():
        return dict.fromkeys(PAGES, "–")
    from playwright.sync_api import sync_playwright

    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, found = browser.new_page(), {}
        for name, path in PAGES.items():
            times = []
            for _ in range(1 + LOOKS):
                page.goto(url + path)
                times.append(page.evaluate(FIRST_PAINT))
            found[name] = f"{statistics.median(times[1:]):.0f}"
        browser.close()
    server.should_exit = True
    thread.join()
    return found


def _row(config: BatonConfig, registry: Registry, name: str, path: str) -> str:
    """Return the line of the table for one page."""
    client = TestClient(
        build_api(ReadingPlane(config, registry), _nothing), base_url="http://localhost", follow_redirects=False
    )
    client.get("/console/static/console.css")  # what is built for the first page is none of the pages' business
    with _counted(registry._engine) as statements:
        looks = [_look(client, path, statements) for _ in range(1 + LOOKS)]
    first, later = looks[0], looks[1:]
    milliseconds, queries = (statistics.median(look[place] for look in later) for place in (0, 1))
    return f"| {name} | {first[0]:.0f} | {first[1]} | {milliseconds:.0f} | {queries:.0f} | {first[2] / 1000:.0f} |"


def _look(client: TestClient, path: str, statements: list[str]) -> tuple[float, int, int]:
    """Return the time in milliseconds, the number of statements, and the bytes of one look at a page."""
    statements.clear()
    began = time.perf_counter()
    answer = client.get(path)
    took = time.perf_counter() - began
    assert answer.status_code == 200, answer.text
    return 1000 * took, len(statements), len(answer.content)


@contextlib.contextmanager
def _counted(engine: sa.Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield statements
    sa.event.remove(engine, "before_cursor_execute", note)


@contextlib.asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def _config(home: Path, models: int) -> BatonConfig:
    return BatonConfig.model_validate(
        {
            "storage": str(home / "storage"),
            "database": f"sqlite:///{home}/baton.db",
            "models": [
                {"name": f"m{number}", "task": "classification", "data": {"train": "train.jsonl"}} for number in range(models)
            ],
        }
    )


if __name__ == "__main__":
    main()
