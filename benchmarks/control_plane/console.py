"""Measure what pages of the console cost with many models, versions, corrections and audited texts: time, statements, bytes.

    python -m benchmarks.control_plane.console

No service runs: the pages are asked for in this process, over SQLite, as a browser asks.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from baton.config.file import BatonConfig
from baton.store import database, schema
from baton.store.registry import Registry
from benchmarks.__main__ import RESULTS, head_of, write
from services.control.api.app import build_api
from services.control.reading_plane import ReadingPlane

LARGE = "m0"
"""The model that has most of everything."""

FEW_VERSIONS = 20
ANSWERED, AUDITED, RUNS = 2_000, 1_000, 20
"""Logged answers of the large model's champion that were corrected; its audited texts; runs of each model."""

PAGES = {
    "the overview": "/",
    "versions": f"/console/models/{LARGE}/versions",
    "history": f"/console/models/{LARGE}/history",
    "review": f"/console/models/{LARGE}/review",
    "data": f"/console/models/{LARGE}/data",
}
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
    rows = [_row(config, registry, name, path) for name, path in PAGES.items()]
    registry.close()
    return (
        f"## The console with {models} models\n\n"
        f"One model has {versions:,} versions, {corrections:,} corrections, {ANSWERED:,} of them of logged answers, and "
        f"{AUDITED:,} audited texts;\nthe others have {FEW_VERSIONS} versions. First: nothing is cached. Later: the median of "
        f"{LOOKS} looks, one after the other. Wall time.\n\n"
        "| page | first look, ms | statements | later, ms | statements | kB |\n|---|--:|--:|--:|--:|--:|\n"
        + "\n".join(rows)
        + "\n"
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
