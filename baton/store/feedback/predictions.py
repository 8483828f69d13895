"""The prediction log: what models answered, and what shadows would have; and the answers that feedback corrects.

A correction names an answer by the answer's own id, or by the request id that the caller chose. The latter may stand for
several answers: it means the last of them, and only if all have the same input. Corrections may arrive before the log is
written, so `attach_answers` runs when one is stored, and again before corrected answers are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.database import IDS_PER_QUERY
from baton.store.records import Feedback, LoggedPrediction
from baton.store.rows import now

DELETED_AT_ONCE = 5000
"""Maximum number of answers that one transaction deletes."""

LOOKED_AT = 100
"""How many of the last answers with one request id are compared. Some clients send the same one with each request."""

LATE = timedelta(minutes=5)
"""How long a correction may wait for its answer in the log. Replicas write it every second; while the database is away, nobody
can send corrections either."""


class AnswerName(NamedTuple):
    """How a correction names the answer that it is about: by ``answer_id``, or else by ``request_id``."""

    answer_id: str | None
    request_id: str | None
    position: int


_Found = dict[AnswerName, LoggedPrediction | None]


@dataclass(frozen=True, kw_only=True)
class UncertainAnswer:
    """One of the answers with the lowest scores."""

    answer: LoggedPrediction
    corrected: bool
    """Whether an answer to the same input, among those that were looked at, has a correction."""


@dataclass(frozen=True, kw_only=True)
class CorrectedPair:
    """One corrected input that the champion answered, and that a shadow ran as a copy."""

    answer: LoggedPrediction
    """The champion's."""
    shadow_output: Mapping[str, Any]
    """The shadow's, in the form of `LoggedPrediction.output`."""
    correction: Feedback


class PredictionStore:
    """Stores answers in the registry's database, and finds the corrected ones. Thread-safe.

    Every method is one transaction (`forget`: several), which is durable when the method returns.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine, *, read_only: bool = False) -> None:
        """``read_only``: nothing can be written; corrected answers are then those that were attached before."""
        self._engine, self._read_only = engine, read_only

    def log(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Store predictions; those that are stored already are left out."""
        # `asdict` would copy inputs and outputs deeply, in the replica, beside its requests
        self._insert_new(schema.predictions, [dict(vars(prediction)) for prediction in predictions])

    def log_shadow(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Store what shadows answered to copies.

        Answers in a form that cannot be scored are left out: nothing else needs them. The input is kept with the champion's
        answer, here only its hash, by which `corrected_pairs` knows that both answered the same.
        """
        kept = ("model", "answer_id", "position", "version", "output", "created_at")
        rows = [
            {**{name: getattr(it, name) for name in kept}, "input_hash": _input_hash(it.input)}
            for it in predictions
            if it.output is not None
        ]
        self._insert_new(schema.shadow_answers, rows)

    def find(self, model: str, names: Collection[AnswerName]) -> _Found:
        """Return the logged answers that ``names`` mean; names without one are left out.

        None stands for a request id that several answers to different inputs have: nobody knows which one is meant.
        """
        with database.reading(self._engine) as connection:
            by_id = _answers(connection, model, [name for name in names if name.answer_id is not None])
            return {**by_id, **_by_request(connection, model, [name for name in names if name.answer_id is None])}

    def summaries(self, model: str, version: int, limit: int) -> list[tuple[str | None, float | None, int]]:
        """Return label, confidence and text length of a version's newest predictions, newest first, to measure drift."""
        table = schema.predictions
        query = (
            sa.select(table.c.label, table.c.confidence, table.c.length)
            .where(table.c.model == model, table.c.version == version)
            .order_by(table.c.created_at.desc())
            .limit(limit)
        )
        with database.reading(self._engine) as connection:
            return [(row.label, row.confidence, row.length) for row in connection.execute(query)]

    def least_certain(self, model: str, version: int, *, among: int, limit: int) -> list[UncertainAnswer]:
        """Return those of a version's ``among`` newest answers that have the lowest scores, the lowest first.

        Of answers to the same input, only the one with the lowest score. Answers without a score are left out. The cost is that
        of reading ``among`` rows by an index, however long the log is.
        """
        logged, feedback = schema.predictions, schema.feedback
        recent = (
            sa.select(
                logged.c.answer_id, logged.c.position, logged.c.confidence, sa.cast(logged.c.input, sa.Text).label("text")
            )
            .where(logged.c.model == model, logged.c.version == version)
            .order_by(logged.c.created_at.desc())
            .limit(among)
            .subquery()
        )
        here = (feedback.c.model == model, feedback.c.answer_id == recent.c.answer_id, feedback.c.position == recent.c.position)
        has_correction = sa.case((sa.exists().where(*here), 1), else_=0)
        by_score = (recent.c.confidence, recent.c.answer_id, recent.c.position)
        ranked = (
            sa.select(
                recent.c.answer_id,
                recent.c.position,
                sa.func.max(has_correction).over(partition_by=recent.c.text).label("corrected"),
                sa.func.row_number().over(partition_by=recent.c.text, order_by=by_score).label("place"),
                recent.c.confidence,
            )
            .where(recent.c.confidence.is_not(None))
            .subquery()
        )
        order = (ranked.c.confidence, ranked.c.answer_id, ranked.c.position)
        lowest = ranked.select().where(ranked.c.place == 1).order_by(*order).limit(limit).subquery()
        same = sa.and_(
            logged.c.model == model, logged.c.answer_id == lowest.c.answer_id, logged.c.position == lowest.c.position
        )
        query = sa.select(logged, lowest.c.corrected).select_from(lowest.join(logged, same))
        query = query.order_by(logged.c.confidence, logged.c.answer_id, logged.c.position)
        with database.reading(self._engine) as connection:
            return [
                UncertainAnswer(
                    answer=LoggedPrediction(**{column.name: row._mapping[column] for column in logged.c}),
                    corrected=bool(row.corrected),
                )
                for row in connection.execute(query)
            ]

    def corrected(
        self, model: str, version: int, limit: int, since: datetime | None = None
    ) -> list[tuple[LoggedPrediction, Feedback]]:
        """Return the newest corrections of a version's logged answers, newest first; only the newest one of each answer.

        ``since``: only of answers that were given after this time.
        """
        self.attach(model)
        logged, feedback = schema.predictions, schema.feedback
        condition = _joined(logged, feedback)
        newest = (
            sa.select(sa.func.max(feedback.c.id).label("id"))
            .select_from(feedback.join(logged, condition))
            .where(logged.c.model == model, logged.c.version == version)
            .where(sa.true() if since is None else logged.c.created_at > since)
            .group_by(feedback.c.answer_id, feedback.c.position)
            .order_by(sa.desc("id"))
            .limit(limit)
            .subquery()
        )
        query = (
            sa.select(logged, feedback)
            .select_from(newest.join(feedback, feedback.c.id == newest.c.id).join(logged, condition))
            .order_by(feedback.c.id.desc())
        )
        with database.reading(self._engine) as connection:
            return [
                (
                    LoggedPrediction(**{column.name: row._mapping[column] for column in logged.c}),
                    Feedback(**{column.name: row._mapping[column] for column in feedback.c}),
                )
                for row in connection.execute(query)
            ]

    def corrected_pairs(
        self, model: str, champion: int, shadow: int, limit: int, since: datetime | None = None
    ) -> list[CorrectedPair]:
        """Return those of the newest corrections of the champion's answers whose inputs the shadow has run, newest first.

        Args:
            champion, shadow: numbers of the versions.
            limit: of the corrections; as in `corrected`, only the newest one of each answer counts.
            since: only of answers that both gave after this time.

        A pair whose inputs differ is left out.
        """
        table = schema.shadow_answers
        conditions = [table.c.model == model, table.c.version == shadow]
        if since is not None:
            conditions.append(table.c.created_at > since)
        corrected = self.corrected(model, champion, limit, since)
        wanted = sorted({answer.answer_id for answer, _ in corrected})
        copies = {}
        # not one query that joins three tables: PostgreSQL runs into its time limit while it has no statistics of a new one
        with database.reading(self._engine) as connection:
            for start in range(0, len(wanted), IDS_PER_QUERY):
                here = table.c.answer_id.in_(wanted[start : start + IDS_PER_QUERY])
                for row in connection.execute(table.select().where(*conditions, here)):
                    copies[row.answer_id, row.position] = row
        return [
            CorrectedPair(answer=answer, shadow_output=copy.output, correction=correction)
            for answer, correction in corrected
            if (copy := copies.get((answer.answer_id, answer.position))) and copy.input_hash == _input_hash(answer.input)
        ]

    def corrected_by_version(self, model: str) -> dict[int, int]:
        """Return the number of corrections of logged answers by version."""
        self.attach(model)
        logged, feedback = schema.predictions, schema.feedback
        query = (
            sa.select(logged.c.version, sa.func.count())
            .select_from(feedback.join(logged, _joined(logged, feedback)))
            .where(feedback.c.model == model)
            .group_by(logged.c.version)
        )
        with database.reading(self._engine) as connection:
            return {int(version): int(count) for version, count in connection.execute(query)}

    def answered_versions(self, model: str, limit: int) -> list[int]:
        """Return the newest versions with logged predictions, newest first. Each takes one look-up in an index."""
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

    def attach(self, model: str) -> None:
        """Attach corrections that came before their answers were in the log (see `attach_answers`)."""
        if self._read_only:
            return
        table = schema.feedback
        waiting = (table.c.model == model, table.c.version.is_(None), table.c.received_at > now() - LATE)
        with database.reading(self._engine) as connection:
            if not connection.scalar(sa.select(sa.exists().where(*waiting, sa.or_(_named(), _meant())))):
                return
        with database.writing(self._engine) as connection:
            attach_answers(connection, *waiting)

    def forget(self, model: str, before: datetime) -> int:
        """Delete a model's predictions from before that time, and return how many there were. Shadows' answers go as well.

        Several transactions of `DELETED_AT_ONCE` rows, so that other writers never wait for long.
        """
        self._forget(schema.shadow_answers, model, before)
        return self._forget(schema.predictions, model, before)

    def _insert_new(self, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert answers; leave out those that are there: a batch whose commit was not confirmed is written again."""
        if rows:
            with database.writing(self._engine) as connection:
                connection.execute(database.insert(connection, table).on_conflict_do_nothing(), rows)

    def _forget(self, table: sa.Table, model: str, before: datetime) -> int:
        old = table.select().where(table.c.model == model, table.c.created_at < before)
        key = [column for column in table.primary_key if column is not table.c.model]
        some = old.with_only_columns(*key).order_by(table.c.created_at).limit(DELETED_AT_ONCE)
        here = sa.tuple_(*key).in_(some)
        deleted = 0
        while True:
            with database.writing(self._engine) as connection:
                count = connection.execute(table.delete().where(table.c.model == model, here)).rowcount
            deleted += count
            if count < DELETED_AT_ONCE:
                return deleted


def attach_answers(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> None:
    """Let the corrections that meet ``conditions`` know the answers that they correct, and the versions that gave these.

    A request id means an answer if the last answers that have it (`LOOKED_AT`) have the same input: then it means the last one.
    """
    table, logged = schema.feedback, schema.predictions
    last = _newest_first(_with_request_id(sa.select(logged.c.answer_id))).limit(1).scalar_subquery()
    connection.execute(table.update().where(*conditions, _meant()).values(answer_id=last))
    version = _with_answer_id(sa.select(logged.c.version)).scalar_subquery()
    connection.execute(table.update().where(*conditions, table.c.version.is_(None), _named()).values(version=version))


def _named() -> sa.ColumnElement[bool]:
    """Return whether the log has the answer that a correction names by its id."""
    return sa.exists(_with_answer_id(sa.select(sa.literal(1))))


def _meant() -> sa.ColumnElement[bool]:
    """Return whether a correction names its answer by a request id only, and whether that means one."""
    table, logged = schema.feedback, schema.predictions
    asked = sa.select(sa.cast(logged.c.input, sa.Text).label("text"))
    texts = _newest_first(_with_request_id(asked)).limit(LOOKED_AT).subquery().c.text
    clear = sa.select(sa.func.min(texts) == sa.func.max(texts)).scalar_subquery()
    return sa.and_(table.c.answer_id.is_(None), table.c.request_id.is_not(None), clear)


def _newest_first(query: sa.Select[Any]) -> sa.Select[Any]:
    return query.order_by(schema.predictions.c.created_at.desc(), schema.predictions.c.answer_id.desc())


def _with_answer_id(query: sa.Select[Any]) -> sa.Select[Any]:
    table, logged = schema.feedback, schema.predictions
    here = (logged.c.model == table.c.model, logged.c.answer_id == table.c.answer_id, logged.c.position == table.c.position)
    return query.where(*here).correlate(table)


def _with_request_id(query: sa.Select[Any]) -> sa.Select[Any]:
    table, logged = schema.feedback, schema.predictions
    here = (logged.c.model == table.c.model, logged.c.request_id == table.c.request_id, logged.c.position == table.c.position)
    return query.where(*here).correlate(table)


def _by_request(connection: sa.Connection, model: str, names: Collection[AnswerName]) -> _Found:
    """Return the answers that request ids mean (see `attach_answers`), None for those that are ambiguous."""
    table = schema.predictions
    found: _Found = {}
    for name in set(names):
        here = (table.c.model == model, table.c.request_id == name.request_id, table.c.position == name.position)
        rows = connection.execute(_newest_first(table.select().where(*here)).limit(LOOKED_AT)).all()
        if rows:
            clear = all(row.input == rows[0].input for row in rows)
            found[name] = LoggedPrediction(**rows[0]._mapping) if clear else None
    return found


def _answers(connection: sa.Connection, model: str, names: Sequence[AnswerName]) -> _Found:
    """Return the logged answers that are named by their ids, as far as there are any."""
    table = schema.predictions
    keys = list({(name.answer_id, name.position) for name in names})
    found: dict[tuple[str | None, int], LoggedPrediction] = {}
    for start in range(0, len(keys), IDS_PER_QUERY):
        here = sa.tuple_(table.c.answer_id, table.c.position).in_(keys[start : start + IDS_PER_QUERY])
        for row in connection.execute(table.select().where(table.c.model == model, here)):
            found[row.answer_id, row.position] = LoggedPrediction(**row._mapping)
    return {name: found[name.answer_id, name.position] for name in names if (name.answer_id, name.position) in found}


def _input_hash(item: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a (masked) input."""
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()


def _joined(logged: sa.FromClause, feedback: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that a correction belongs to a logged answer."""
    return sa.and_(
        feedback.c.model == logged.c.model,
        feedback.c.answer_id == logged.c.answer_id,
        feedback.c.position == logged.c.position,
    )
