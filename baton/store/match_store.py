"""Matches of the gate: how often each champion was challenged on today's holdout.

Every match on a holdout gives the challenger another chance to win by luck. So matches are counted, and each may err less than
the one before (`training.judge.gate.allowed`). The count is of an epoch of the holdout, which ends when at least half of the
holdout's groups of texts have joined after the epoch's first match. Knows neither tasks nor the gate: a text is a fingerprint.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.rows import now

BATCH = 10_000
"""Maximum number of rows that one statement writes."""


class MatchStore:
    """Counts matches in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def open(self, model: str, *, champion: int | None, candidate: int, holdout_hash: str, groups: Collection[str]) -> int:
        """Record a match before it is played, and return its number: 1 plus the number of earlier matches of the epoch.

        The count belongs to the champion's version: a new champion starts at 1, and a rollback finds the old count again. The
        same candidate on the same holdout is the same match, and keeps its number. A match that was opened counts, even if the
        process dies before the decision is stored.

        Args:
            champion: None for a first version.
            groups: fingerprints of all groups of texts in the holdout.

        Raises:
            NotFound: unknown model.
        """
        table = schema.matches
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            against = (table.c.model == model, table.c.champion.is_not_distinct_from(champion))
            same = (table.c.candidate == candidate, table.c.holdout_hash == holdout_hash)
            known = connection.scalar(sa.select(table.c.number).where(*against, *same))
            if known is not None:
                return int(known)
            last = connection.execute(table.select().where(*against).order_by(table.c.id.desc()).limit(1)).one_or_none()
            first_matches = _first_matches(connection, model)
            if last is None or _renewed(groups, first_matches, last.epoch):
                number, epoch = 1, None
            else:
                number, epoch = int(last.number) + 1, int(last.epoch)
            inserted = connection.execute(
                table.insert()
                .values(
                    model=model,
                    champion=champion,
                    candidate=candidate,
                    holdout_hash=holdout_hash,
                    number=number,
                    epoch=epoch or 0,
                    created_at=now(),
                )
                .returning(table.c.id)
            )
            match = int(inserted.scalar_one())
            if epoch is None:
                connection.execute(table.update().where(table.c.id == match).values(epoch=match))
            _add_groups(connection, model, [group for group in groups if group not in first_matches], match)
            return number

    def played(self, model: str, champion: int | None) -> int:
        """Return the number of the newest match against a champion; 0 if there was none."""
        table = schema.matches
        against = (table.c.model == model, table.c.champion.is_not_distinct_from(champion))
        query = sa.select(table.c.number).where(*against).order_by(table.c.id.desc()).limit(1)
        with database.reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)


def _renewed(groups: Collection[str], first_matches: dict[str, int], epoch: int) -> bool:
    """Return whether at least half of the groups joined after match ``epoch``."""
    return 2 * sum(first_matches.get(group, epoch + 1) > epoch for group in groups) >= len(groups)


def _first_matches(connection: sa.Connection, model: str) -> dict[str, int]:
    """Return the id of the first match that each group of a model has taken part in."""
    table = schema.match_groups
    rows = connection.execute(sa.select(table.c.group_hash, table.c.first_match).where(table.c.model == model))
    return {row.group_hash: row.first_match for row in rows}


def _add_groups(connection: sa.Connection, model: str, groups: list[str], match: int) -> None:
    rows = [{"model": model, "group_hash": group, "first_match": match} for group in groups]
    for start in range(0, len(rows), BATCH):
        connection.execute(schema.match_groups.insert(), rows[start : start + BATCH])
