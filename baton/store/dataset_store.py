"""Numbered data set versions of each model, and the ledger of splits, which records for ever in which split each text is.

Knows neither tasks nor the artifact storage: a text is a fingerprint here. The table and the column of the ledger are named
`sides` and `side`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import Conflict, NotFound
from baton.store import database, schema
from baton.store.records import PAGE, DatasetVersion
from baton.wording import counted

BATCH = 10_000
"""Maximum number of ledger rows that one statement writes."""


class DatasetStore:
    """Stores data set versions in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, model: str, version: DatasetVersion, splits: Mapping[str, str]) -> DatasetVersion:
        """Store ``version`` and the splits of its groups of texts (fingerprint → split), and return it with its number.

        A version with a known hash keeps its number and becomes the `latest` again. Its counts of rows that were left out are
        replaced, because other feedback may have led to the same splits; its `feedback_until` never decreases.

        Raises:
            Conflict: the ledger has one of the groups in the other split, or a version was added at the same time.
            NotFound: unknown model.
        """
        table = schema.datasets
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            _extend(connection, model, splits)
            known = connection.execute(table.select().where(table.c.model == model, table.c.hash == version.hash)).one_or_none()
            if known is None:
                return _insert(connection, model, version)
            stored = _version(known)
            until = max(stored.feedback_until, version.feedback_until)
            again = replace(
                version, number=stored.number, previous=stored.previous, created_at=stored.created_at, feedback_until=until
            )
            connection.execute(
                table.update()
                .where(table.c.model == model, table.c.number == known.number)
                .values(manifest=asdict(again), turn=_turn(connection, model))
            )
            return again

    def ledger(self, model: str) -> dict[str, str]:
        """Return the whole ledger: fingerprints of groups of texts → ``train`` or ``holdout``."""
        with database.reading(self._engine) as connection:
            return _ledger(connection, model)

    def get(self, model: str, number: int) -> DatasetVersion:
        """Return one version. Raises ``NotFound``."""
        table = schema.datasets
        with database.reading(self._engine) as connection:
            row = connection.execute(table.select().where(table.c.model == model, table.c.number == number)).one_or_none()
            if row is None:
                last = connection.scalar(sa.select(sa.func.max(table.c.number)).where(table.c.model == model))
                known = f"its data sets go from 1 to {last}" if last else "it has none yet; a training run freezes the first"
                raise NotFound(f"{model} has no data set {number}; {known}")
        return _version(row)

    def list(self, model: str, *, limit: int = PAGE, before: int | None = None) -> Sequence[DatasetVersion]:
        """Return versions, newest first. For the next page, pass the last number as ``before``."""
        table = schema.datasets
        query = table.select().where(table.c.model == model).order_by(table.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.number < before)
        with database.reading(self._engine) as connection:
            return [_version(row) for row in connection.execute(query)]

    def latest(self, model: str, *, holdout_source: str | None = None) -> DatasetVersion | None:
        """Return the version that was frozen last, or None if there is none.

        It need not have the highest number: data that returns to an earlier state keeps the earlier number.
        ``holdout_source``: prefer the newest version whose holdout comes from there (`DataSettings.holdout_source`).
        """
        with database.reading(self._engine) as connection:
            newest = connection.execute(_by_turn(model).limit(1)).one_or_none()
            if newest is None or holdout_source is None:
                return None if newest is None else _version(newest)
            versions = map(_version, connection.execute(_by_turn(model)))
            return next((one for one in versions if one.sources.get("holdout") == holdout_source), _version(newest))


def _by_turn(model: str) -> sa.Select[Any]:
    """Return the query for all versions, the one that was frozen last first."""
    table = schema.datasets
    return table.select().where(table.c.model == model).order_by(table.c.turn.desc(), table.c.number.desc())


def _turn(connection: sa.Connection, model: str) -> int:
    """Return the next value of the column ``turn``, which orders versions by when they were last frozen."""
    table = schema.datasets
    return int(connection.scalar(sa.select(sa.func.max(table.c.turn)).where(table.c.model == model)) or 0) + 1


def _insert(connection: sa.Connection, model: str, version: DatasetVersion) -> DatasetVersion:
    """Store ``version`` under the next number."""
    table = schema.datasets
    last = connection.scalar(sa.select(sa.func.max(table.c.number)).where(table.c.model == model))
    latest = connection.execute(_by_turn(model).limit(1)).one_or_none()
    now = datetime.now(UTC)
    numbered = replace(
        version, number=int(last or 0) + 1, previous=latest.number if latest else None, created_at=now.isoformat()
    )
    connection.execute(
        table.insert().values(
            model=model,
            number=numbered.number,
            hash=numbered.hash,
            holdout_hash=numbered.holdout_hash,
            uri=numbered.uri,
            manifest=asdict(numbered),
            created_at=now,
            turn=_turn(connection, model),
        )
    )
    return numbered


def _ledger(connection: sa.Connection, model: str) -> dict[str, str]:
    table = schema.sides
    rows = connection.execute(sa.select(table.c.group_hash, table.c.side).where(table.c.model == model))
    return {row.group_hash: row.side for row in rows}


def _extend(connection: sa.Connection, model: str, splits: Mapping[str, str]) -> None:
    """Add new groups to the ledger. Raises ``Conflict`` if a group would change its split."""
    known = _ledger(connection, model)
    wrong = [group for group, split in splits.items() if known.get(group, split) != split]
    if wrong:
        raise Conflict(
            f"{model}: {counted(len(wrong), 'text')} would change splits, {wrong[0][:12]}… from {known[wrong[0]]} to "
            f"{splits[wrong[0]]}; a text never changes its split: freeze the data again"
        )
    new = [{"model": model, "group_hash": group, "side": split} for group, split in splits.items() if group not in known]
    for start in range(0, len(new), BATCH):
        connection.execute(schema.sides.insert(), new[start : start + BATCH])


def _version(row: sa.Row[Any]) -> DatasetVersion:
    manifest = dict(row.manifest)
    tuples = {name: tuple(manifest.get(name, ())) for name in ("labels", "quarantined", "classes", "remarks")}
    return DatasetVersion(**{**manifest, **tuples})
