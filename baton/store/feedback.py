"""The prediction log (what models answered, and what shadows would have) and feedback (corrections that applications send).

The tables are joined by request id and position when they are read, not when they are written, because a correction may
arrive before the log is written. Knows no tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from baton.store import audit_store, database, schema
from baton.store.database import IDS_PER_QUERY
from baton.store.records import Feedback, FeedbackChange, LoggedPrediction

CHUNK = 1000
"""Rows in one query of `FeedbackStore.all`."""

DELETED_AT_ONCE = 5000
"""Maximum number of answers that one transaction deletes."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One item of feedback before it is stored.

    Of those with the same ``client_id`` from one sender, the last one counts; without an id, all are stored.
    """

    client_id: str | None
    request_id: str | None
    position: int
    example: dict[str, Any]
    answer_fields: Collection[str] = ()
    """The fields of ``example`` that `FeedbackStore.changes` shows if another correction takes its place: no quoted text."""
    sender: str | None = None
    """Id of the API key that sent it; None without one."""
    actor: str | None = None
    """Name of that key."""
    audited_as: str | None = None
    """Fingerprint of the example's content, if the sender may label what the audit has drawn; else None."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """How many corrections were stored, and how many were already known."""

    accepted: int
    duplicates: int
    replaced: int = 0
    """How many of the accepted ones took the place of an earlier one with the same id."""


@dataclass(frozen=True, kw_only=True)
class CorrectedPair:
    """One corrected input that the champion answered, and that a shadow ran as a copy."""

    answer: LoggedPrediction
    """The champion's."""
    shadow_output: Mapping[str, Any]
    """The shadow's, in the form of `LoggedPrediction.output`."""
    correction: Feedback


class FeedbackStore:
    """Stores feedback and logged predictions in the registry's database. Thread-safe.

    Every method is one transaction (`all` and `forget_predictions`: several), which is durable when the method returns.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # --- feedback ----------------------------------------------------------------------------------------------------

    def add(self, model: str, corrections: Sequence[Correction]) -> Added:
        """Store the ``corrections`` that are new. Of several with one client id from one sender, the last one stays.

        One that takes the place of another gets an id of its own, so that it counts as new, and `changes` lists it. Writers of
        one model are serialised, so that ids become visible in ascending order: a reader that has read up to an id never misses
        a smaller one. Raises ``NotFound`` for an unknown model.
        """
        now = datetime.now(UTC)
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            stored = _stored(connection, model, corrections)
            plan = _Plan.of(corrections, stored)
            replaced = [
                {
                    "model": model,
                    "what": "replaced",
                    "client_id": new.client_id,
                    "sender": new.sender,
                    "actor": new.actor,
                    "rows": 1,
                    "answer": {name: old.example.get(name) for name in new.answer_fields},
                    "happened_at": now,
                }
                for old, new in plan.replaced
            ]
            _delete(connection, [old.id for old, _ in plan.replaced])
            if replaced:
                connection.execute(schema.feedback_changes.insert(), replaced)
            rows = [{"model": model, "received_at": now, **vars(correction)} for correction in plan.added]
            _insert(connection, model, rows)
        return Added(accepted=plan.accepted, duplicates=plan.duplicates, replaced=plan.overwritten)

    def withdraw(self, model: str, client_ids: Collection[str], *, sender: str | None, actor: str | None) -> int:
        """Delete the corrections of ``model`` that this sender sent with these ids, and return how many there were."""
        table = schema.feedback
        here = (table.c.sender.is_not_distinct_from(sender), table.c.client_id.in_(client_ids))
        return self._withdraw(model, here, actor, sender=sender, named=True)

    def withdraw_all(
        self, model: str, *, sender: str | None, since: datetime | None, until: datetime | None, actor: str | None
    ) -> int:
        """Delete the corrections of ``model`` by sender and time, and return how many there were.

        Args:
            sender: id of the API key that sent them; None: whoever sent them.
            since, until: only those received from this time on, and before that time.
        """
        table = schema.feedback
        conditions = [
            *([] if sender is None else [table.c.sender == sender]),
            *([] if since is None else [table.c.received_at >= since]),
            *([] if until is None else [table.c.received_at < until]),
        ]
        return self._withdraw(model, conditions, actor, sender=sender, named=False)

    def changes(self, model: str, limit: int, before: int | None = None) -> list[FeedbackChange]:
        """Return replaced and withdrawn corrections, newest first. For the next page, pass the last id as ``before``."""
        table = schema.feedback_changes
        query = table.select().where(table.c.model == model).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.id < before)
        with database.reading(self._engine) as connection:
            return [FeedbackChange(**row._mapping) for row in connection.execute(query)]

    def _withdraw(
        self, model: str, conditions: Sequence[sa.ColumnElement[bool]], actor: str | None, *, sender: str | None, named: bool
    ) -> int:
        table, now = schema.feedback, datetime.now(UTC)
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            query = sa.select(table.c.id, table.c.client_id).where(table.c.model == model, *conditions)
            found = connection.execute(query).all()
            _delete(connection, [row.id for row in found])
            change = {"model": model, "what": "withdrawn", "sender": sender, "actor": actor, "happened_at": now, "answer": None}
            told = (
                [{"client_id": row.client_id, "rows": 1} for row in found]
                if named
                else [{"client_id": None, "rows": len(found)}]
            )
            if found:
                connection.execute(schema.feedback_changes.insert(), [{**change, **one} for one in told])
        return len(found)

    def named(self, model: str, sender: str | None, client_ids: Sequence[str]) -> dict[str, Feedback]:
        """Return the stored corrections of ``model`` from this sender that have these client ids, by id."""
        table = schema.feedback
        found: dict[str, Feedback] = {}
        with database.reading(self._engine) as connection:
            for start in range(0, len(client_ids), IDS_PER_QUERY):
                some = client_ids[start : start + IDS_PER_QUERY]
                here = (table.c.model == model, table.c.sender.is_not_distinct_from(sender), table.c.client_id.in_(some))
                for row in connection.execute(table.select().where(*here)):
                    found[row.client_id] = Feedback(**row._mapping)
        return found

    def after(self, model: str, feedback_id: int, limit: int) -> list[Feedback]:
        """Return up to ``limit`` corrections with ids above ``feedback_id``, oldest first."""
        table = schema.feedback
        query = table.select().where(table.c.model == model, table.c.id > feedback_id).order_by(table.c.id).limit(limit)
        with database.reading(self._engine) as connection:
            return [Feedback(**row._mapping) for row in connection.execute(query)]

    def all(self, model: str) -> Iterator[Feedback]:
        """Yield every correction that there is now, oldest first. Reads `CHUNK` rows at a time.

        One that takes the place of another meanwhile is left out, as it is newer: the same correction never comes twice.
        """
        newest = self.newest(model, 1)
        last, until = 0, newest[0].id if newest else 0
        while chunk := self.after(model, last, CHUNK):
            yield from (row for row in chunk if row.id <= until)
            last = chunk[-1].id

    def newest(self, model: str, limit: int, before: int | None = None) -> list[Feedback]:
        """Return corrections, newest first. For the next page, pass the last id as ``before``."""
        table = schema.feedback
        query = table.select().where(table.c.model == model).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.id < before)
        with database.reading(self._engine) as connection:
            return [Feedback(**row._mapping) for row in connection.execute(query)]

    def count_after(self, model: str, feedback_id: int) -> int:
        """Return the number of corrections with ids above ``feedback_id``. Labels of the audit are none: they never train."""
        table = schema.feedback
        is_label = sa.exists().where(schema.audit.c.feedback_id == table.c.id)
        query = sa.select(sa.func.count()).where(table.c.model == model, table.c.id > feedback_id, ~is_label)
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)

    def count_up_to(self, model: str, feedback_id: int) -> int:
        """Return the number of corrections with ids up to and including ``feedback_id``."""
        table = schema.feedback
        query = sa.select(sa.func.count()).where(table.c.model == model, table.c.id <= feedback_id)
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)

    # --- prediction log ----------------------------------------------------------------------------------------------

    def log(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Store predictions. If a client uses a request id twice, the first answer is kept; other inputs make it ambiguous."""
        table = schema.predictions
        # `asdict` would copy inputs and outputs deeply, in the replica, beside its requests
        self._insert_new(table, [dict(vars(prediction)) for prediction in predictions], ambiguous_by=table.c.input)

    def log_shadow(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Store what shadows answered to copies; of one version and request id the first answer is kept.

        Answers in a form that cannot be scored are left out: nothing else needs them. The input is kept with the champion's
        answer, here only its hash, by which `corrected_pairs` knows that both answered the same.
        """
        kept = ("model", "request_id", "position", "version", "output", "created_at")
        rows = [
            {**{name: getattr(it, name) for name in kept}, "input_hash": _input_hash(it.input)}
            for it in predictions
            if it.output is not None
        ]
        self._insert_new(schema.shadow_answers, rows)

    def predictions(self, model: str, answers: Collection[tuple[str, int]]) -> dict[tuple[str, int], LoggedPrediction]:
        """Return the logged predictions with these pairs of request id and position. Pairs without one are left out."""
        table, wanted = schema.predictions, list(answers)
        found: dict[tuple[str, int], LoggedPrediction] = {}
        with database.reading(self._engine) as connection:
            for start in range(0, len(wanted), IDS_PER_QUERY):
                here = sa.tuple_(table.c.request_id, table.c.position).in_(wanted[start : start + IDS_PER_QUERY])
                for row in connection.execute(table.select().where(table.c.model == model, here)):
                    found[row.request_id, row.position] = LoggedPrediction(**row._mapping)
        return found

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

    def corrected(
        self, model: str, version: int, limit: int, since: datetime | None = None
    ) -> list[tuple[LoggedPrediction, Feedback]]:
        """Return the newest corrections of a version's logged answers, newest first; only the newest one of each answer.

        ``since``: only of answers that were given after this time.
        """
        logged, feedback = schema.predictions, schema.feedback
        condition = _joined(logged, feedback)
        newest = (
            sa.select(sa.func.max(feedback.c.id).label("id"))
            .select_from(feedback.join(logged, condition))
            .where(logged.c.model == model, logged.c.version == version)
            .where(sa.true() if since is None else logged.c.created_at > since)
            .group_by(feedback.c.request_id, feedback.c.position)
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

        A pair whose inputs differ, because a client used a request id twice, is left out.
        """
        table = schema.shadow_answers
        conditions = [table.c.model == model, table.c.version == shadow]
        if since is not None:
            conditions.append(table.c.created_at > since)
        corrected = self.corrected(model, champion, limit, since)
        wanted = sorted({answer.request_id for answer, _ in corrected})
        copies = {}
        # not one query that joins three tables: PostgreSQL runs into its time limit while it has no statistics of a new one
        with database.reading(self._engine) as connection:
            for start in range(0, len(wanted), IDS_PER_QUERY):
                here = table.c.request_id.in_(wanted[start : start + IDS_PER_QUERY])
                for row in connection.execute(table.select().where(*conditions, here)):
                    copies[row.request_id, row.position] = row
        return [
            CorrectedPair(answer=answer, shadow_output=copy.output, correction=correction)
            for answer, correction in corrected
            if (copy := copies.get((answer.request_id, answer.position))) and copy.input_hash == _input_hash(answer.input)
        ]

    def corrected_by_version(self, model: str) -> dict[int, int]:
        """Return the number of corrections of logged answers by version."""
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

    def forget_predictions(self, model: str, before: datetime) -> int:
        """Delete a model's predictions from before that time, and return how many there were. Shadows' answers go as well.

        Several transactions of `DELETED_AT_ONCE` rows, so that other writers never wait for long.
        """
        self._forget(schema.shadow_answers, model, before)
        return self._forget(schema.predictions, model, before)

    def _insert_new(
        self, table: sa.Table, rows: Sequence[dict[str, Any]], ambiguous_by: sa.ColumnElement[Any] | None = None
    ) -> None:
        """Insert answers whose key is new, and leave those that are there.

        ``ambiguous_by``: mark those that are there as ambiguous if the new one differs in this column.
        """
        if rows:
            with database.writing(self._engine) as connection:
                insert = database.insert(connection, table)
                if ambiguous_by is None:
                    insert = insert.on_conflict_do_nothing()
                else:
                    told = insert.excluded[str(ambiguous_by.key)]
                    insert = insert.on_conflict_do_update(
                        index_elements=[*table.primary_key],
                        set_={"ambiguous": sa.true()},
                        where=sa.cast(ambiguous_by, sa.Text) != sa.cast(told, sa.Text),
                    )
                # the same order in every process: replicas that log the same request ids must not deadlock
                ordered = sorted(rows, key=lambda row: (row["model"], row["request_id"], row["position"], row["version"]))
                connection.execute(insert, ordered)

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


def _insert(connection: sa.Connection, model: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows of feedback in order, with the versions whose logged answers they correct.

    Those on texts that the audit has drawn become their labels.
    """
    contents = [row.pop("audited_as") for row in rows]
    for row in rows:
        del row["answer_fields"], row["actor"]
    drawn = audit_store.drawn_contents(connection, model, [content for content in contents if content is not None])
    table, logged = schema.feedback, schema.predictions
    before = connection.scalar(sa.select(sa.func.max(table.c.id)).where(table.c.model == model)) or 0
    labels = {}
    plain = []
    for row, content in zip(rows, contents, strict=True):
        if content in drawn:
            labels[content] = int(connection.execute(table.insert().values(row).returning(table.c.id)).scalar_one())
        else:
            plain.append(row)
    if plain:
        connection.execute(table.insert(), plain)
    if any(row["request_id"] is not None for row in rows):
        version = sa.select(logged.c.version).where(_joined(logged, table)).scalar_subquery()
        new = (table.c.model == model, table.c.id > before, table.c.request_id.is_not(None))
        connection.execute(table.update().where(*new).values(version=version))
    audit_store.attach_labels(connection, model, labels)


def _input_hash(item: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a (masked) input."""
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()


def _joined(logged: sa.FromClause, feedback: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that a correction belongs to a logged answer."""
    return sa.and_(
        ~logged.c.ambiguous,
        feedback.c.model == logged.c.model,
        feedback.c.request_id == logged.c.request_id,
        feedback.c.position == logged.c.position,
    )


_Key = tuple[str | None, str]
"""The sender and the client id of a correction."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A stored correction that has a client id."""

    id: int
    example: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What becomes of some corrections."""

    added: Sequence[Correction]
    replaced: Sequence[tuple[_Stored, Correction]]
    """Stored corrections with those that take their place."""
    accepted: int
    duplicates: int
    overwritten: int
    """How many took the place of another, of this batch or stored."""

    @classmethod
    def of(cls, corrections: Sequence[Correction], stored: Mapping[_Key, _Stored]) -> _Plan:
        """Of each client id the last correction counts. If it is what is stored already, all with that id are duplicates."""
        named: dict[_Key, list[Correction]] = {}
        for correction in corrections:
            if correction.client_id is not None:
                named.setdefault((correction.sender, correction.client_id), []).append(correction)
        added = [correction for correction in corrections if correction.client_id is None]
        accepted, overwritten, replaced = len(added), 0, []
        for key, items in named.items():
            old = stored.get(key)
            if old is not None and old.example == items[-1].example:
                continue
            states = [*([] if old is None else [old.example]), *(item.example for item in items)]
            moves = sum(before != after for before, after in pairwise(states))
            accepted += moves + (old is None)
            overwritten += moves
            added.append(items[-1])
            if old is not None:
                replaced.append((old, items[-1]))
        order = {id(correction): place for place, correction in enumerate(corrections)}
        return cls(
            added=sorted(added, key=lambda correction: order[id(correction)]),
            replaced=replaced,
            accepted=accepted,
            duplicates=len(corrections) - accepted,
            overwritten=overwritten,
        )


def _stored(connection: sa.Connection, model: str, corrections: Sequence[Correction]) -> dict[tuple[str | None, str], _Stored]:
    """Return the stored corrections that have the senders and client ids of these."""
    table = schema.feedback
    ids: dict[str | None, list[str]] = {}
    for correction in corrections:
        if correction.client_id is not None:
            ids.setdefault(correction.sender, []).append(correction.client_id)
    found = {}
    for sender, wanted in ids.items():
        for start in range(0, len(wanted), IDS_PER_QUERY):
            here = table.c.client_id.in_(wanted[start : start + IDS_PER_QUERY])
            query = sa.select(table.c.id, table.c.client_id, table.c.example).where(
                table.c.model == model, table.c.sender.is_not_distinct_from(sender), here
            )
            for row in connection.execute(query):
                found[sender, row.client_id] = _Stored(id=row.id, example=row.example)
    return found


def _delete(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Delete corrections. Texts of the audit that one of them labelled have no label any more."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        some = ids[start : start + IDS_PER_QUERY]
        connection.execute(schema.feedback.delete().where(schema.feedback.c.id.in_(some)))
