"""Logged predictions of a classifier and corrections of them, as a replica and an application store them in a registry."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from baton.store import database, schema
from baton.store.feedback.correction import Correction
from baton.store.feedback.predictions import PredictionStore
from baton.store.records import LoggedPrediction
from baton.store.registry import Registry


def logged(
    request_id: str | None,
    *,
    answer_id: str | None = None,
    model: str = "m",
    position: int = 0,
    version: int = 1,
    text: str = "hello",
    label: str = "a",
    length: int | None = None,
    at: datetime | None = None,
) -> LoggedPrediction:
    """Return a logged prediction ``label`` for ``text``, made at ``at`` (default: now).

    Its id is ``answer-REQUEST``, if none is given.
    """
    return LoggedPrediction(
        model=model,
        answer_id=answer_id or f"answer-{request_id}",
        request_id=request_id,
        position=position,
        version=version,
        input={"text": text},
        output={"labels": [label], "scores": [0.9]},
        label=label,
        confidence=0.9,
        length=len(text) if length is None else length,
        created_at=at or datetime.now(UTC),
    )


def correct_answers(registry: Registry, model: str, answers: Iterable[tuple[int, str, str]]) -> None:
    """Log each of ``answers`` (version, predicted label, right label), and correct it."""
    for index, (version, predicted, right) in enumerate(answers):
        registry.predictions.log([logged(f"r{index}", model=model, version=version, label=predicted)])
        example = {"text": "hello", "label": right}
        registry.feedback.add(model, [Correction(client_id=None, request_id=f"r{index}", position=0, example=example)])


def recent(store: PredictionStore, model: str = "m", version: int = 1, limit: int = 10_000) -> list[LoggedPrediction]:
    """Return the logged predictions of a version, newest first."""
    table = schema.predictions
    query = table.select().where(table.c.model == model, table.c.version == version)
    with database.reading(store._engine) as connection:
        rows = connection.execute(query.order_by(table.c.created_at.desc()).limit(limit))
        return [LoggedPrediction(**row._mapping) for row in rows]
