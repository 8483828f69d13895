"""Feedback: the corrections that applications send."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from baton.errors import OverQuota
from baton.store import database, schema
from baton.store.database import IDS_PER_QUERY
from baton.store.feedback import audit
from baton.store.feedback.correction import Correction, Key, Plan, StoredCorrection
from baton.store.feedback.predictions import attach_answers
from baton.store.records import Feedback, FeedbackChange
from baton.store.rows import now
from baton.wording import counted

CHUNK = 1000
"""Rows in one query of `FeedbackStore.all`."""

DAY = timedelta(hours=24)
"""Time within which the corrections of one sender are limited. It ends now, not at midnight."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """How many corrections were stored, and how many were already known."""

    accepted: int
    duplicates: int
    replaced: int = 0
    """How many of the accepted ones took the place of an earlier one with the same id."""


class FeedbackStore:
    """Stores feedback in the registry's database. Thread-safe.

    Every method is one transaction (`all`: several), which is durable when the method returns.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, model: str, corrections: Sequence[Correction], *, max_per_day: int | None = None) -> Added:
        """Store the ``corrections`` that are new. Of several with one client id from one sender, the last one stays.

        One that takes the place of another gets an id of its own, so that it counts as new, and `changes` lists it. Writers of
        one model are serialised, so that ids become visible in ascending order: a reader that has read up to an id never misses
        a smaller one.

        ``max_per_day``: how many corrections a sender may have that were stored within the last `DAY`; None: any number. One
        that takes the place of another of that time adds none, and neither do withdrawn ones or labels of the audit.

        Raises:
            NotFound: unknown model.
            OverQuota: a sender of new ones would have more than ``max_per_day``; none of them is stored.
        """
        received_at = now()
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            stored = _stored(connection, model, corrections)
            plan = Plan.of(corrections, stored)
            replaced = [
                {
                    "model": model,
                    "what": "replaced",
                    "client_id": new.client_id,
                    "sender": new.sender,
                    "actor": new.actor,
                    "rows": 1,
                    "answer": {name: old.example.get(name) for name in new.answer_fields},
                    "happened_at": received_at,
                }
                for old, new in plan.replaced
            ]
            _delete(connection, [old.id for old, _ in plan.replaced])
            if replaced:
                connection.execute(schema.feedback_changes.insert(), replaced)
            rows = [{"model": model, "received_at": received_at, **vars(correction)} for correction in plan.added]
            _insert(connection, model, rows)
            if max_per_day is not None:
                for sender in plan.growing:
                    _check_quota(connection, model, sender, received_at, max_per_day)
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

    def forget_changes(self, model: str, before: datetime) -> int:
        """Delete what `changes` lists from before that time, and return how many there were. Corrections stay."""
        table = schema.feedback_changes
        with database.writing(self._engine) as connection:
            old = (table.c.model == model, table.c.happened_at < before)
            return connection.execute(table.delete().where(*old)).rowcount

    def _withdraw(
        self, model: str, conditions: Sequence[sa.ColumnElement[bool]], actor: str | None, *, sender: str | None, named: bool
    ) -> int:
        table = schema.feedback
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            query = sa.select(table.c.id, table.c.client_id).where(table.c.model == model, *conditions)
            found = connection.execute(query).all()
            _delete(connection, [row.id for row in found])
            change = {
                "model": model,
                "what": "withdrawn",
                "sender": sender,
                "actor": actor,
                "happened_at": now(),
                "answer": None,
            }
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

    def known(self, model: str, client_ids: Sequence[str]) -> set[str]:
        """Return those of the client ids that stored corrections of ``model`` have, whoever sent them.

        One look-up in an index for each sender, and for each of its ids.
        """
        table = schema.feedback
        found: set[str] = set()
        with database.reading(self._engine) as connection:
            for sender in _senders(connection, model):
                for start in range(0, len(client_ids), IDS_PER_QUERY):
                    some = table.c.client_id.in_(client_ids[start : start + IDS_PER_QUERY])
                    query = sa.select(table.c.client_id).where(table.c.model == model, table.c.sender == sender, some)
                    found.update(connection.scalars(query))
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

    def waiting(self, model: str, after: int, limit: int) -> list[Feedback]:
        """Return the newest of the corrections that `count_after` counts, newest first."""
        table = schema.feedback
        query = table.select().where(table.c.model == model, table.c.id > after, ~is_label())
        with database.reading(self._engine) as connection:
            return [Feedback(**row._mapping) for row in connection.execute(query.order_by(table.c.id.desc()).limit(limit))]

    def count_after(self, model: str, feedback_id: int) -> int:
        """Return the number of corrections with ids above ``feedback_id``. Labels of the audit are none: they never train."""
        table = schema.feedback
        query = sa.select(sa.func.count()).where(table.c.model == model, table.c.id > feedback_id, ~is_label())
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)

    def count_up_to(self, model: str, feedback_id: int) -> int:
        """Return the number of corrections with ids up to and including ``feedback_id``."""
        table = schema.feedback
        query = sa.select(sa.func.count()).where(table.c.model == model, table.c.id <= feedback_id)
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)


def is_label() -> sa.ColumnElement[bool]:
    """Return the condition that a row of feedback is a label of the audit, which never trains."""
    return sa.exists().where(schema.audit.c.feedback_id == schema.feedback.c.id)


def _senders(connection: sa.Connection, model: str) -> Iterator[str | None]:
    """Yield all senders of corrections of a model, and None. Each takes one look-up in an index, not a scan."""
    table = schema.feedback
    yield None
    last = ""
    while last is not None:
        query = sa.select(sa.func.min(table.c.sender)).where(table.c.model == model, table.c.sender > last)
        last = connection.scalar(query)
        if last is not None:
            yield last


def _insert(connection: sa.Connection, model: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows of feedback in order, with the logged answers that they correct.

    Those on texts that the audit has drawn become their labels.
    """
    contents = [row.pop("audited_as") for row in rows]
    for row in rows:
        del row["answer_fields"], row["actor"]
    drawn = audit.drawn_contents(connection, model, [content for content in contents if content is not None])
    table = schema.feedback
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
    attach_answers(connection, table.c.model == model, table.c.id > before)
    audit.attach_labels(connection, model, labels)


def _check_quota(connection: sa.Connection, model: str, sender: str | None, at: datetime, most: int) -> None:
    """Raise ``OverQuota`` if a sender has more than ``most`` corrections that were stored within the `DAY` before ``at``.

    Reads ``most + 1`` entries of an index and no table, and labels of the audit besides. The number is exact, because writers
    of one model are serialised.
    """
    table = schema.feedback
    query = (
        sa.select(table.c.received_at)
        .where(
            table.c.model == model,
            table.c.sender == sender,  # IS NULL for None; PostgreSQL finds no index for IS NOT DISTINCT FROM
            table.c.received_at > at - DAY,
            ~is_label(),
        )
        .order_by(table.c.received_at.desc())
        .offset(most)  # when this one is older than a day, so are all before it, and the number is allowed
        .limit(1)
    )
    first_over = connection.scalar(query)
    if first_over is None:
        return
    who = "calls without an API key" if sender is None else f"API key {sender}"
    limit = f"{who} may have {counted(most, 'correction')} of {model} stored in 24 hours (feedback.max_per_day)"
    if first_over == at:  # they are too many by themselves, whenever they come
        raise OverQuota(f"{limit}, and these are more; send fewer at once, none of them was stored", retry_after=None)
    seconds = math.ceil((first_over + DAY - at).total_seconds())
    raise OverQuota(f"{limit}; none of these was stored, there is room for them in {seconds:,} s", retry_after=seconds)


def _stored(connection: sa.Connection, model: str, corrections: Sequence[Correction]) -> dict[Key, StoredCorrection]:
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
                found[sender, row.client_id] = StoredCorrection(id=row.id, example=row.example)
    return found


def _delete(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Delete corrections. Texts of the audit that one of them labelled have no label any more."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        some = ids[start : start + IDS_PER_QUERY]
        connection.execute(schema.feedback.delete().where(schema.feedback.c.id.in_(some)))
