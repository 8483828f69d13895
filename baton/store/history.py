"""The history of a model: promotions, refusals, failed runs and incidents as one list, newest first; and counts for metrics.

`History` reads the rows; the functions below it turn each row into one entry with its text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.records import (
    PAGE,
    Decision,
    DecisionKind,
    HistoryEntry,
    HistoryKind,
    Incident,
    Promotion,
    Run,
    RunState,
    Verdict,
)
from baton.store.rows import as_decision, as_promotion, as_run, now

ENDED_BADLY = {RunState.FAILED: HistoryKind.RUN_FAILED, RunState.CANCELLED: HistoryKind.RUN_CANCELLED}
NOT_PROMOTED = {Verdict.REJECT: HistoryKind.REFUSED, Verdict.INCONCLUSIVE: HistoryKind.INCONCLUSIVE}
FINAL_STATES = [state for state in RunState if state.final]


class History:
    """Stores incidents in the registry's database, and lists them with the other events. Thread-safe.

    Every method is one transaction. Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add_incident(self, model: str, kind: HistoryKind, detail: str, version: int | None = None) -> None:
        """Add an event without a table of its own, for example a failed roll-out. Raises ``NotFound`` for an unknown model."""
        with database.writing(self._engine) as connection:
            database.require_model(connection, model)
            insert_incident(connection, model, version, kind, detail)

    def rejection(self, model: str, version: int) -> str | None:
        """Return why somebody rejected a version; None if nobody did."""
        return self.rejections(model).get(version)

    def rejections(self, model: str) -> dict[int, str]:
        """Return the versions that somebody rejected, each with the newest reason."""
        table = schema.incidents
        here = (table.c.model == model, table.c.version.is_not(None), table.c.kind == HistoryKind.REJECTED)
        query = sa.select(table.c.version, table.c.detail).where(*here).order_by(table.c.id)
        with database.reading(self._engine) as connection:
            return {row.version: row.detail for row in connection.execute(query)}

    def incidents(self, model: str, *, limit: int = PAGE) -> Sequence[Incident]:
        """Return incidents, newest first."""
        with database.reading(self._engine) as connection:
            return _incidents(connection, model, limit)

    def list(self, model: str, *, limit: int = PAGE, before: datetime | None = None) -> Sequence[HistoryEntry]:
        """Return the ``limit`` newest entries of a model's history, newest first.

        For the next page, pass the time of the last entry as ``before``.
        """
        with database.reading(self._engine) as connection:
            entries = [
                *(_moved(*move) for move in _promotions(connection, model, limit, before)),
                *(_not_promoted(decision) for decision in _refusals(connection, model, limit, before)),
                *(_run_ended(run) for run in _failed_runs(connection, model, limit, before)),
                *(_happened(incident) for incident in _incidents(connection, model, limit, before)),
            ]
        return sorted(entries, key=lambda entry: entry.at, reverse=True)[:limit]

    def mark(self) -> tuple[object, ...]:
        """Return values of which at least one changes with each new entry of any model: to know cheaply that there is none."""
        tables = (schema.promotions, schema.decisions, schema.incidents)
        newest = [sa.select(sa.func.max(table.c.id)).scalar_subquery() for table in tables]
        ended = sa.select(sa.func.max(schema.runs.c.finished_at)).scalar_subquery()
        with database.reading(self._engine) as connection:
            return tuple(connection.execute(sa.select(*newest, ended)).one())

    def count_verdicts(self) -> dict[tuple[str, Verdict], int]:
        """Return the number of gate decisions by model and verdict. Forced promotions and rollbacks do not count.

        No decision is ever deleted, so that the counts only grow.
        """
        table = schema.decisions
        query = (
            sa.select(table.c.model, table.c.verdict, sa.func.count())
            .where(table.c.kind == DecisionKind.GATE)
            .group_by(table.c.model, table.c.verdict)
        )
        with database.reading(self._engine) as connection:
            return {(model, Verdict(verdict)): int(count) for model, verdict, count in connection.execute(query)}

    def count_ended_runs(self) -> dict[tuple[str, RunState], int]:
        """Return the number of ended runs by model and final state. No run is ever deleted."""
        table = schema.runs
        query = (
            sa.select(table.c.model, table.c.state, sa.func.count())
            .where(table.c.state.in_(FINAL_STATES))
            .group_by(table.c.model, table.c.state)
        )
        with database.reading(self._engine) as connection:
            return {(model, RunState(state)): int(count) for model, state, count in connection.execute(query)}


def insert_incident(connection: sa.Connection, model: str, version: int | None, kind: HistoryKind, detail: str) -> None:
    """Write an incident down, and which decision on the model was the newest: clocks of two machines cannot order them."""
    decisions = schema.decisions
    newest = sa.select(sa.func.coalesce(sa.func.max(decisions.c.id), 0)).where(decisions.c.model == model).scalar_subquery()
    incident = {"model": model, "version": version, "kind": kind, "detail": detail, "created_at": now()}
    connection.execute(schema.incidents.insert().values(**incident, after_decision=newest))


# --- reading ---------------------------------------------------------------------------------------------------------


def _newest(table: sa.Table, model: str, limit: int, before: datetime | None, at: str = "created_at") -> sa.Select[Any]:
    """Return the query for the newest rows of a model, newest first. ``at``: the column with the time of the entry."""
    time = table.c[at]
    query = table.select().where(table.c.model == model).order_by(time.desc(), table.c.id.desc()).limit(limit)
    return query if before is None else query.where(time < before)


def _promotions(
    connection: sa.Connection, model: str, limit: int, before: datetime | None
) -> list[tuple[Promotion, Decision, str | None]]:
    """Return the newest promotions, each with the decision that allowed it, and why somebody asked for it."""
    promotions = [as_promotion(row) for row in connection.execute(_newest(schema.promotions, model, limit, before))]
    ids = [promotion.decision_id for promotion in promotions]
    rows = connection.execute(schema.decisions.select().where(schema.decisions.c.id.in_(ids)))
    decisions = {row.id: as_decision(row) for row in rows}
    rollouts = schema.rollouts
    asking = sa.select(rollouts.c.decision_id, rollouts.c.asked).where(rollouts.c.decision_id.in_(ids)).order_by(rollouts.c.id)
    asked = {row.decision_id: row.asked for row in connection.execute(asking)}
    return [(it, decisions[it.decision_id], asked.get(it.decision_id)) for it in promotions]


def newest_entries(connection: sa.Connection, models: Collection[str]) -> dict[str, HistoryEntry]:
    """Return the newest entry of each model's history, in one statement for each table. Promotions tell no reasons here."""

    def newest(table: sa.Table, at: str, *conditions: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
        last = sa.func.max(table.c[at]).label("last")
        times = sa.select(table.c.model, last).where(table.c.model.in_(models), *conditions).group_by(table.c.model).subquery()
        here = sa.and_(table.c.model == times.c.model, table.c[at] == times.c.last)
        return connection.execute(table.select().join(times, here).where(*conditions)).all()

    promotions = [as_promotion(row) for row in newest(schema.promotions, "created_at")]
    ids = [promotion.decision_id for promotion in promotions]
    rows = connection.execute(schema.decisions.select().where(schema.decisions.c.id.in_(ids)))
    decisions = {row.id: as_decision(row) for row in rows}
    refused = newest(schema.decisions, "created_at", schema.decisions.c.verdict.in_(list(NOT_PROMOTED)))
    ended = newest(schema.runs, "finished_at", schema.runs.c.state.in_(list(ENDED_BADLY)))
    entries = [
        *((it.model, _moved(it, decisions[it.decision_id], None)) for it in promotions),
        *((row.model, _not_promoted(as_decision(row))) for row in refused),
        *((row.model, _run_ended(as_run(row))) for row in ended),
        *((row.model, _happened(Incident(**row._mapping))) for row in newest(schema.incidents, "created_at")),
    ]
    return dict(sorted(entries, key=lambda found: found[1].at))


def _refusals(connection: sa.Connection, model: str, limit: int, before: datetime | None) -> list[Decision]:
    """Return the newest decisions that did not allow a promotion."""
    query = _newest(schema.decisions, model, limit, before).where(schema.decisions.c.verdict.in_(list(NOT_PROMOTED)))
    return [as_decision(row) for row in connection.execute(query)]


def _failed_runs(connection: sa.Connection, model: str, limit: int, before: datetime | None) -> list[Run]:
    query = _newest(schema.runs, model, limit, before, "finished_at").where(schema.runs.c.state.in_(list(ENDED_BADLY)))
    return [as_run(row) for row in connection.execute(query)]


def _incidents(connection: sa.Connection, model: str, limit: int, before: datetime | None = None) -> list[Incident]:
    return [Incident(**row._mapping) for row in connection.execute(_newest(schema.incidents, model, limit, before))]


# --- telling ---------------------------------------------------------------------------------------------------------


def _moved(promotion: Promotion, decision: Decision, asked: str | None) -> HistoryEntry:
    reason = decision.reason or asked
    return HistoryEntry(
        id=f"promotion-{promotion.id}",
        at=promotion.created_at,
        what=HistoryKind.ROLLED_BACK if promotion.kind is DecisionKind.ROLLBACK else HistoryKind.PROMOTED,
        version=promotion.version,
        text=decision.sentence + (f" Reason: {reason}" if reason else ""),
        details={"previous": promotion.previous, "kind": promotion.kind, "decision_id": promotion.decision_id},
    )


def _not_promoted(decision: Decision) -> HistoryEntry:
    assert decision.created_at is not None
    return HistoryEntry(
        id=f"decision-{decision.id}",
        at=decision.created_at,
        what=NOT_PROMOTED[decision.verdict],
        version=decision.candidate,
        text=decision.sentence,
        details={"decision_id": decision.id},
    )


def _run_ended(run: Run) -> HistoryEntry:
    assert run.finished_at is not None
    return HistoryEntry(
        id=f"run-{run.id}",
        at=run.finished_at,
        what=ENDED_BADLY[run.state],
        version=run.version,
        text=f"Run {run.id}: {run.reason}",
    )


def _happened(incident: Incident) -> HistoryEntry:
    return HistoryEntry(
        id=f"incident-{incident.id}",
        at=incident.created_at,
        what=incident.kind,
        version=incident.version,
        text=incident.detail,
    )
