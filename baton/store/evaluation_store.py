"""Evaluations: the scores of each version on each holdout. Each is stored once and never changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from baton.store import database, schema
from baton.store.records import Evaluation
from baton.store.rows import now


class EvaluationStore:
    """Stores evaluations in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(
        self,
        model: str,
        version: int,
        holdout_hash: str,
        metrics: Mapping[str, Any],
        statistics: NDArray[np.int32],
    ) -> Evaluation:
        """Store the scores of a version on a holdout, and return the stored evaluation.

        Neither the version nor the holdout ever changes, so a second evaluation tells nothing new: the first one is kept and
        returned. ``statistics``: int32 [n, d], see `Evaluation`. Raises ``NotFound`` for an unknown model.
        """
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            known = find(connection, model, version, holdout_hash)
            if known is not None:
                return known
            connection.execute(
                schema.evaluations.insert().values(
                    model=model,
                    version=version,
                    holdout_hash=holdout_hash,
                    metrics=metrics,
                    statistics=statistics,
                    created_at=now(),
                )
            )
            stored = find(connection, model, version, holdout_hash)
            assert stored is not None
            return stored

    def get(self, model: str, version: int, holdout_hash: str) -> Evaluation | None:
        """Return the stored scores of a version on a holdout, or None if it was not evaluated on it."""
        with database.reading(self._engine) as connection:
            return find(connection, model, version, holdout_hash)

    def newest_pair(self, model: str, versions: tuple[int, int]) -> tuple[Evaluation, Evaluation] | None:
        """Return the scores of two versions on the same holdout, the one that both were evaluated on last; None without one."""
        table = schema.evaluations
        here = (table.c.model == model, table.c.version.in_(versions))
        both = sa.func.count(table.c.version.distinct()) == len(set(versions))
        last = sa.select(table.c.holdout_hash).where(*here).group_by(table.c.holdout_hash).having(both)
        with database.reading(self._engine) as connection:
            holdout = connection.scalar(last.order_by(sa.func.max(table.c.id).desc()).limit(1))
            found = [find(connection, model, version, holdout) for version in versions] if holdout else [None, None]
        first, second = found
        return None if first is None or second is None else (first, second)


def find(connection: sa.Connection, model: str, version: int, holdout_hash: str) -> Evaluation | None:
    """Return what `EvaluationStore.get` returns, inside a transaction of the caller."""
    table = schema.evaluations
    row = connection.execute(
        table.select().where(table.c.model == model, table.c.version == version, table.c.holdout_hash == holdout_hash)
    ).one_or_none()
    return None if row is None else Evaluation(**row._mapping)
