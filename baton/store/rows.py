"""Rows of the registry's tables as records, and the query for one page of rows. Opens no connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import RegistryError
from baton.store.records import Decision, DecisionKind, ModelVersion, Promotion, Run, RunStage, RunState, Source, Verdict


def now() -> datetime:
    """Return the current time in UTC, the time zone of every column."""
    return datetime.now(UTC)


def page(table: sa.Table, model: str, limit: int, before: int | None = None) -> sa.Select[Any]:
    """Return the query for the ``limit`` newest rows of ``model``, newest first; only ids below ``before``, if it is given."""
    query = table.select().where(table.c.model == model).order_by(table.c.id.desc()).limit(limit)
    return query if before is None else query.where(table.c.id < before)


def as_version(row: sa.Row[Any]) -> ModelVersion:
    """Convert a row of `versions`."""
    return ModelVersion(
        model=row.model,
        number=row.number,
        uri=row.uri,
        manifest_sha256=row.manifest_sha256,
        metrics=row.metrics,
        lineage=row.lineage,
        run_id=row.run_id,
        created_at=row.created_at,
    )


def as_decision(row: sa.Row[Any]) -> Decision:
    """Convert a row of `decisions`."""
    return Decision(**{**row._mapping, "kind": DecisionKind(row.kind), "verdict": Verdict(row.verdict)})


def as_promotion(row: sa.Row[Any]) -> Promotion:
    """Convert a row of `promotions`."""
    return Promotion(**{**row._mapping, "kind": DecisionKind(row.kind)})


def as_run(row: sa.Row[Any]) -> Run:
    """Convert a row of `runs`."""
    values = {key: value for key, value in row._mapping.items() if key != "idempotency_key"}
    return Run(**{**values, "state": RunState(row.state), "stage": _stage(row.stage), "source": _source(row.source)})


def _source(stored: Mapping[str, Any] | None) -> Source | None:
    if stored is None:
        return None
    return Source(location=str(stored.get("location", "")), labels=stored.get("labels"), by=stored.get("by"))


def _stage(stored: str) -> RunStage:
    """Convert a stage. The database may hold «evaluating v3» from earlier versions of Baton: the number is left out.

    Raises:
        RegistryError: another version of Baton wrote a stage that this code does not know.
    """
    try:
        return RunStage(stored.partition(" ")[0])
    except ValueError:
        raise RegistryError(
            f"a run has the stage {stored!r}, which this version of Baton does not know; upgrade Baton"
        ) from None
