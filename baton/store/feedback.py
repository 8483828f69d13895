"""What models answered (the prediction log), and what applications say that they should have answered (feedback).

The two are joined by request id and position when they are read, not when they are written: a correction may arrive before the
log has been written. Knows no tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.records import Feedback, LoggedPrediction

CHUNK = 1000
"""Rows that are read at once where all are wanted."""

NAMES_AT_ONCE = 500
"""Client ids or places in one query: databases bound the parameters of a statement."""

FORGOTTEN_AT_ONCE = 5000
"""Predictions that are deleted in one transaction."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One item of feedback on its way in. Two with the same ``client_id`` are one; without it nobody can tell."""

    client_id: str | None
    request_id: str | None
    position: int
    example: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Added:
    """How many corrections were new, and how many were there already."""

    accepted: int
    duplicates: int


class FeedbackStore:
    """On the registry's engine. Thread-safe; every method is one transaction, durable when it returns.

    Any method raises ``RegistryError`` when the database does not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # --- feedback ----------------------------------------------------------------------------------------------------

    def add(self, model: str, corrections: Sequence[Correction]) -> Added:
        """Keep what is new of ``corrections``: the first of those with one client id stays.

        Senders take turns, model by model, so that ids become visible in their order: who has read up to one misses none below.
        """
        now = datetime.now(UTC)
        table = schema.feedback
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            seen = _known(connection, model, [it.client_id for it in corrections if it.client_id is not None])
            rows = []
            for correction in corrections:
                if correction.client_id is not None:
                    if correction.client_id in seen:
                        continue
                    seen.add(correction.client_id)
                rows.append({"model": model, "received_at": now, **asdict(correction)})
            if rows:
                connection.execute(table.insert(), rows)
        return Added(accepted=len(rows), duplicates=len(corrections) - len(rows))

    def known(self, model: str, client_ids: Sequence[str]) -> set[str]:
        """Which of these ids corrections of ``model`` have."""
        with database.reading(self._engine) as connection:
            return _known(connection, model, client_ids)

    def after(self, model: str, feedback_id: int, limit: int) -> list[Feedback]:
        """Up to ``limit`` corrections with ids above ``feedback_id``, oldest first."""
        table = schema.feedback
        query = table.select().where(table.c.model == model, table.c.id > feedback_id).order_by(table.c.id).limit(limit)
        with database.reading(self._engine) as connection:
            return [Feedback(**row._mapping) for row in connection.execute(query)]

    def all(self, model: str) -> Iterator[Feedback]:
        """Every correction, oldest first, a chunk at a time."""
        last = 0
        while chunk := self.after(model, last, CHUNK):
            yield from chunk
            last = chunk[-1].id

    def newest(self, model: str, limit: int, before: int | None = None) -> list[Feedback]:
        """Corrections, newest first; ``before`` an id for the next page."""
        table = schema.feedback
        query = table.select().where(table.c.model == model).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.id < before)
        with database.reading(self._engine) as connection:
            return [Feedback(**row._mapping) for row in connection.execute(query)]

    def count_after(self, model: str, feedback_id: int) -> int:
        """How many corrections have ids above ``feedback_id``."""
        table = schema.feedback
        query = sa.select(sa.func.count()).where(table.c.model == model, table.c.id > feedback_id)
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)

    def count_up_to(self, model: str, feedback_id: int) -> int:
        """How many corrections have ids up to ``feedback_id``, it included."""
        table = schema.feedback
        query = sa.select(sa.func.count()).where(table.c.model == model, table.c.id <= feedback_id)
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)

    # --- prediction log ----------------------------------------------------------------------------------------------

    def log(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Keep predictions. A client that uses one request id twice has the first answer kept."""
        if predictions:
            with database.writing(self._engine) as connection:
                insert = database.insert(connection, schema.predictions).on_conflict_do_nothing()
                # in one order everywhere: two replicas that log the same request ids must not wait for each other
                rows = sorted(predictions, key=lambda it: (it.model, it.request_id, it.position))
                connection.execute(insert, [asdict(prediction) for prediction in rows])

    def predictions(self, model: str, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], LoggedPrediction]:
        """The logged predictions at these request ids and positions; what is not there (any more, or yet) is missing."""
        table, wanted = schema.predictions, list(places)
        found: dict[tuple[str, int], LoggedPrediction] = {}
        with database.reading(self._engine) as connection:
            for start in range(0, len(wanted), NAMES_AT_ONCE):
                here = sa.tuple_(table.c.request_id, table.c.position).in_(wanted[start : start + NAMES_AT_ONCE])
                for row in connection.execute(table.select().where(table.c.model == model, here)):
                    found[row.request_id, row.position] = LoggedPrediction(**row._mapping)
        return found

    def summaries(self, model: str, version: int, limit: int) -> list[tuple[str | None, float | None, int]]:
        """Label, confidence and length of the newest predictions of one version, newest first: what drift is measured by."""
        table = schema.predictions
        query = (
            sa.select(table.c.label, table.c.confidence, table.c.length)
            .where(table.c.model == model, table.c.version == version)
            .order_by(table.c.created_at.desc())
            .limit(limit)
        )
        with database.reading(self._engine) as connection:
            return [(row.label, row.confidence, row.length) for row in connection.execute(query)]

    def corrected(self, model: str, version: int, limit: int) -> list[tuple[LoggedPrediction, Feedback]]:
        """The newest corrections of one version's logged answers, newest first. Of two on one answer, the newer counts."""
        logged, told = schema.predictions, schema.feedback
        same = _same(logged, told)
        newest = (
            sa.select(sa.func.max(told.c.id).label("id"))
            .select_from(told.join(logged, same))
            .where(logged.c.model == model, logged.c.version == version)
            .group_by(told.c.request_id, told.c.position)
            .order_by(sa.desc("id"))
            .limit(limit)
            .subquery()
        )
        query = (
            sa.select(logged, told)
            .select_from(newest.join(told, told.c.id == newest.c.id).join(logged, same))
            .order_by(told.c.id.desc())
        )
        with database.reading(self._engine) as connection:
            return [
                (
                    LoggedPrediction(**{column.name: row._mapping[column] for column in logged.c}),
                    Feedback(**{column.name: row._mapping[column] for column in told.c}),
                )
                for row in connection.execute(query)
            ]

    def corrected_by_version(self, model: str) -> dict[int, int]:
        """How many corrections of its logged answers each version has."""
        logged, told = schema.predictions, schema.feedback
        query = (
            sa.select(logged.c.version, sa.func.count())
            .select_from(told.join(logged, _same(logged, told)))
            .where(told.c.model == model)
            .group_by(logged.c.version)
        )
        with database.reading(self._engine) as connection:
            return {int(version): int(count) for version, count in connection.execute(query)}

    def answered_versions(self, model: str, limit: int) -> list[int]:
        """The newest versions that have logged predictions, newest first: one look at an index for each."""
        table = schema.predictions
        found: list[int] = []
        with database.reading(self._engine) as connection:
            while len(found) < limit:
                query = sa.select(sa.func.max(table.c.version)).where(table.c.model == model)
                version = connection.scalar(query.where(table.c.version < found[-1]) if found else query)
                if version is None:
                    break
                found.append(int(version))
        return found

    def forget_predictions(self, model: str, before: datetime) -> int:
        """Delete a model's predictions from before that moment; returns how many there were.

        In several transactions, so that others who write never wait for long.
        """
        table = schema.predictions
        old = table.select().where(table.c.model == model, table.c.created_at < before)
        some = old.with_only_columns(table.c.request_id, table.c.position).order_by(table.c.created_at).limit(FORGOTTEN_AT_ONCE)
        here = sa.tuple_(table.c.request_id, table.c.position).in_(some)
        forgotten = 0
        while True:
            with database.writing(self._engine) as connection:
                count = connection.execute(table.delete().where(table.c.model == model, here)).rowcount
            forgotten += count
            if count < FORGOTTEN_AT_ONCE:
                return forgotten


def _same(logged: sa.FromClause, told: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether a correction is about a logged answer."""
    return sa.and_(
        told.c.model == logged.c.model, told.c.request_id == logged.c.request_id, told.c.position == logged.c.position
    )


def _known(connection: sa.Connection, model: str, names: Sequence[str]) -> set[str]:
    """Which of these client ids the model has feedback from."""
    table = schema.feedback
    found: set[str] = set()
    for start in range(0, len(names), NAMES_AT_ONCE):
        some = names[start : start + NAMES_AT_ONCE]
        found.update(
            connection.scalars(sa.select(table.c.client_id).where(table.c.model == model, table.c.client_id.in_(some)))
        )
    return found
