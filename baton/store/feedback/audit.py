"""The audit in the database: the secret that decides what is drawn, the drawn texts, and which of them are labelled.

A label is a row of feedback; `FeedbackStore.add` attaches it to its text. Knows no tasks: a text is a fingerprint here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import NotFound
from baton.store import database, schema
from baton.store.records import PAGE, AuditItem
from baton.store.rows import now

HOLDOUT = "holdout"
"""The split of a drawn text in the ledger (`DatasetStore`)."""

SECRET = "audit"
"""Name of the audit's secret in the table `secrets`. The migration makes it; it never leaves the database and the service."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A logged text that the audit draws."""

    keys: tuple[str, ...]
    """Fingerprints under which the ledger records its split, that of its group first (`baton.text.masks.GroupKeys`)."""
    content_hash: str
    """Fingerprint of its whole input."""
    input: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BatchCount:
    """How many texts of a batch of the audit are in which state."""

    texts: int
    labelled: int
    undecidable: int
    """Those that have no right answer."""
    deleted: int
    """Those that nobody labelled within the retention."""

    @property
    def done(self) -> int:
        """Those that nobody needs to look at any more, except deleted ones."""
        return self.labelled + self.undecidable


class AuditStore:
    """Stores the audit in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def secret(self) -> bytes:
        """Return the secret that decides which texts are drawn. It never changes."""
        query = sa.select(schema.secrets.c.value).where(schema.secrets.c.name == SECRET)
        with database.reading(self._engine) as connection:
            return bytes.fromhex(connection.execute(query).scalar_one())

    def draw(self, model: str, texts: Sequence[Drawn]) -> int:
        """Add texts to the audit, and hold them out from now on. Return how many were added.

        Texts that were drawn before, and texts that were trained on, are left out.
        """
        if not texts or not self._new(model, texts):
            return 0
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            new = {text.keys[0]: text for text in _new(connection, model, texts)}
            stamp = now()
            for group, text in new.items():
                connection.execute(
                    schema.audit.insert().values(
                        model=model,
                        group_hash=group,
                        content_hash=text.content_hash,
                        input=dict(text.input),
                        drawn_at=stamp,
                    )
                )
            held = {key: {"model": model, "group_hash": key, "side": HOLDOUT} for text in new.values() for key in text.keys}
            known = _keys(connection, schema.sides, model, list(held))
            rows = [row for key, row in held.items() if key not in known]
            if rows:
                connection.execute(schema.sides.insert(), rows)
        return len(new)

    def items(self, model: str) -> list[AuditItem]:
        """Return everything that was drawn, in the order of the draw."""
        with database.reading(self._engine) as connection:
            return [_item(row) for row in connection.execute(_query(model))]

    def count(self, model: str, batch: int) -> list[BatchCount]:
        """Count the texts of each ``batch`` of that many texts, in the order of the draw."""
        table = schema.audit
        place = (sa.func.row_number().over(order_by=table.c.id) - 1).label("place")
        columns = (table.c.feedback_id, table.c.undecidable, table.c.forgotten)
        drawn = sa.select(*columns, place).where(table.c.model == model).subquery()
        labelled = drawn.c.feedback_id.is_not(None)
        undecidable, deleted = ~labelled & drawn.c.undecidable, ~labelled & ~drawn.c.undecidable & drawn.c.forgotten
        number = (drawn.c.place // batch).label("number")
        sums = [sa.func.sum(sa.case((it, 1), else_=0)) for it in (labelled, undecidable, deleted)]
        query = sa.select(sa.func.count(), *sums).group_by(number).order_by(number)
        with database.reading(self._engine) as connection:
            return [
                BatchCount(texts=texts, labelled=int(done), undecidable=int(none), deleted=int(gone))
                for texts, done, none, gone in connection.execute(query)
            ]

    def waiting(self, model: str, *, limit: int = PAGE, after: int = 0) -> list[AuditItem]:
        """Return texts that nobody has labelled yet, in the order of the draw.

        For the next page, pass the last id as ``after``.
        """
        table = schema.audit
        query = _query(model).where(table.c.feedback_id.is_(None), ~table.c.undecidable, ~table.c.forgotten, table.c.id > after)
        with database.reading(self._engine) as connection:
            return [_item(row) for row in connection.execute(query.limit(limit))]

    def get(self, model: str, item: int) -> AuditItem:
        """Return one text. Raises ``NotFound``."""
        with database.reading(self._engine) as connection:
            row = connection.execute(_query(model).where(schema.audit.c.id == item)).one_or_none()
        if row is None:
            raise NotFound(f"the audit of {model} has no text {item}")
        return _item(row)

    def drawn(self, model: str, content_hashes: Sequence[str]) -> set[str]:
        """Return those of the content fingerprints that drawn texts have."""
        with database.reading(self._engine) as connection:
            return drawn_contents(connection, model, content_hashes)

    def mark_undecidable(self, model: str, item: int) -> None:
        """Record that a text has no right answer, in place of its label if it has one. A later label counts again."""
        table = schema.audit
        here = (table.c.model == model, table.c.id == item)
        with database.writing(self._engine) as connection:
            connection.execute(table.update().where(*here).values(undecidable=True, feedback_id=None))

    def forget(self, model: str, before: datetime) -> int:
        """Delete the inputs of texts that were drawn before that time and that nobody has labelled. Return how many.

        Their places in the batches stay, so that other texts do not change their batch.
        """
        table = schema.audit
        old = (table.c.model == model, table.c.drawn_at < before, table.c.feedback_id.is_(None), ~table.c.forgotten)
        with database.writing(self._engine) as connection:
            return connection.execute(table.update().where(*old).values(input={}, forgotten=True)).rowcount

    def _new(self, model: str, texts: Sequence[Drawn]) -> list[Drawn]:
        with database.reading(self._engine) as connection:
            return _new(connection, model, texts)


def attach_labels(connection: sa.Connection, model: str, labels: Mapping[str, int]) -> None:
    """Make rows of feedback the labels of the drawn texts. ``labels``: content fingerprint → id of the row."""
    table = schema.audit
    for content_hash, feedback_id in labels.items():
        here = (table.c.model == model, table.c.content_hash == content_hash)
        connection.execute(table.update().where(*here).values(feedback_id=feedback_id, undecidable=False))


def drawn_contents(connection: sa.Connection, model: str, content_hashes: Sequence[str]) -> set[str]:
    """Return those of the content fingerprints that drawn texts have."""
    table = schema.audit
    found: set[str] = set()
    for start in range(0, len(content_hashes), database.IDS_PER_QUERY):
        some = content_hashes[start : start + database.IDS_PER_QUERY]
        query = sa.select(table.c.content_hash).where(table.c.model == model, table.c.content_hash.in_(some))
        found.update(connection.scalars(query))
    return found


def _new(connection: sa.Connection, model: str, texts: Sequence[Drawn]) -> list[Drawn]:
    """Return the texts that were not drawn before and that nothing was trained on.

    A text that is held out already may be drawn: if it was corrected before its request was logged, leaving it out would leave
    out errors of the champion.
    """
    groups = [text.keys[0] for text in texts]
    known = _keys(connection, schema.audit, model, groups)
    known |= _keys(connection, schema.sides, model, groups, schema.sides.c.side != HOLDOUT)
    return [text for text in texts if text.keys[0] not in known]


def _keys(
    connection: sa.Connection, table: sa.Table, model: str, keys: Sequence[str], condition: sa.ColumnElement[bool] | None = None
) -> set[str]:
    """Return those of the fingerprints that rows of a table have, if the rows meet ``condition``."""
    found: set[str] = set()
    for start in range(0, len(keys), database.IDS_PER_QUERY):
        some = keys[start : start + database.IDS_PER_QUERY]
        query = sa.select(table.c.group_hash).where(table.c.model == model, table.c.group_hash.in_(some))
        found.update(connection.scalars(query if condition is None else query.where(condition)))
    return found


def _query(model: str) -> sa.Select[Any]:
    audit, feedback = schema.audit, schema.feedback
    return (
        sa.select(audit, feedback.c.example)
        .select_from(audit.outerjoin(feedback, feedback.c.id == audit.c.feedback_id))
        .where(audit.c.model == model)
        .order_by(audit.c.id)
    )


def _item(row: sa.Row[Any]) -> AuditItem:
    return AuditItem(id=row.id, input=row.input, drawn_at=row.drawn_at, example=row.example, undecidable=row.undecidable)
