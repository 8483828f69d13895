"""Runs: their settings, their progress and how they ended. At most one run of a model is active at a time."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import Conflict, NotFound
from baton.store import database, schema
from baton.store.records import PAGE, Run, RunEvent, RunStage, RunState, Source
from baton.store.rows import as_run


class RunStore:
    """Stores runs in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self,
        model: str,
        spec: Mapping[str, Any],
        idempotency_key: str | None = None,
        *,
        started: bool = False,
        cause: str | None = None,
        owner: str | None = None,
        source: Source | None = None,
        traceparent: str = "",
    ) -> Run:
        """Create a queued run, or a running one if the caller carries it out itself (``started``), and return it.

        If the model has a run with this idempotency key, return that run instead, whatever its state and its owner. ``cause``,
        ``owner`` and ``source`` are those of `Run`. ``traceparent``: the W3C Trace Context of the request, which becomes an
        event of the run.

        Raises:
            Conflict: another run of this model is active.
            NotFound: unknown model.
        """
        table = schema.runs
        now = datetime.now(UTC)
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            if idempotency_key is not None:
                known = connection.execute(
                    table.select().where(table.c.model == model, table.c.idempotency_key == idempotency_key)
                ).one_or_none()
                if known is not None:
                    return as_run(known)
            active = connection.scalar(sa.select(table.c.id).where(table.c.model == model, sa.text(schema.ACTIVE)))
            if active is not None:
                raise Conflict(f"{model}: run {active} is active; wait for it or cancel it (`baton cancel {active}`)")
            row = connection.execute(
                table.insert()
                .values(
                    id=f"{model}-{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}",
                    model=model,
                    state=RunState.RUNNING if started else RunState.QUEUED,
                    stage=RunStage.PREPARING if started else RunStage.QUEUED,
                    spec=spec,
                    progress={},
                    idempotency_key=idempotency_key,
                    cause=cause,
                    owner=owner,
                    source=None if source is None else asdict(source),
                    created_at=now,
                    started_at=now if started else None,
                    heartbeat_at=now if started else None,
                )
                .returning(table)
            ).one()
            if traceparent:
                _note(connection, row.id, now, {"stage": row.stage, "traceparent": traceparent})
        return as_run(row)

    def get(self, run_id: str) -> Run:
        """Return one run. Raises ``NotFound``."""
        with database.reading(self._engine) as connection:
            row = connection.execute(schema.runs.select().where(schema.runs.c.id == run_id)).one_or_none()
        if row is None:
            raise NotFound(f"no run {run_id!r}; `baton runs MODEL` lists them")
        return as_run(row)

    def list(
        self, model: str | None = None, *, active: bool = False, limit: int | None = PAGE, before: str | None = None
    ) -> Sequence[Run]:
        """Return runs, newest first; if ``active``, only those that have not ended. ``limit=None`` returns all.

        For the next page, pass the last id as ``before``.
        """
        table = schema.runs
        query = table.select().order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(table.c.model == model)
        if active:
            query = query.where(sa.text(schema.ACTIVE))
        if before is not None:
            edge = sa.select(table.c.created_at).where(table.c.id == before).scalar_subquery()
            query = query.where(sa.or_(table.c.created_at < edge, sa.and_(table.c.created_at == edge, table.c.id < before)))
        with database.reading(self._engine) as connection:
            return [as_run(row) for row in connection.execute(query)]

    def start(self, run_id: str) -> Run:
        """Mark a queued run as running. Raises ``Conflict`` if it is no longer queued (cancelled, or started elsewhere)."""
        now = datetime.now(UTC)
        with database.writing(self._engine) as connection:
            return _advance(
                connection,
                run_id,
                [RunState.QUEUED],
                state=RunState.RUNNING,
                stage=RunStage.PREPARING,
                started_at=now,
                heartbeat_at=now,
            )

    def report(self, run_id: str, stage: RunStage, progress: Mapping[str, Any]) -> None:
        """Store the progress of a running run, append it to the run's events, and count it as a heartbeat.

        Raises:
            Conflict: the run has ended, for example because it was cancelled. The caller should stop.
        """
        now = datetime.now(UTC)
        with database.writing(self._engine) as connection:
            _advance(connection, run_id, [RunState.RUNNING], stage=stage, progress=dict(progress), heartbeat_at=now)
            _note(connection, run_id, now, {"stage": stage, **progress})

    def beat(self, run_id: str) -> None:
        """Record a heartbeat of a running run. Raises ``Conflict`` if the run has ended."""
        with database.writing(self._engine) as connection:
            _advance(connection, run_id, [RunState.RUNNING], heartbeat_at=datetime.now(UTC))

    def finish(
        self,
        run_id: str,
        state: RunState,
        *,
        reason: str | None = None,
        version: int | None = None,
        decision_id: int | None = None,
    ) -> Run:
        """End an active run in a final ``state``. Raises ``Conflict`` if it has already ended; its first end is kept."""
        now = datetime.now(UTC)
        with database.writing(self._engine) as connection:
            run = _advance(
                connection,
                run_id,
                [RunState.QUEUED, RunState.RUNNING],
                state=state,
                stage=RunStage(state),
                reason=reason,
                version=version,
                decision_id=decision_id,
                finished_at=now,
            )
            _note(connection, run_id, now, {"stage": state.value, "reason": reason, "version": version})
        return run

    def data_report(self, run_id: str) -> Mapping[str, Any] | None:
        """Return what a run reported last about its data set once it was frozen; None before, or if it never was."""
        table = schema.run_events
        has_report = table.c.data["data"].as_string().is_not(None)
        query = sa.select(table.c.data).where(table.c.run_id == run_id, has_report).order_by(table.c.id.desc()).limit(1)
        with database.reading(self._engine) as connection:
            data = connection.scalar(query)
        return None if data is None else data["data"]

    def events(self, run_id: str, after: int = 0) -> Sequence[RunEvent]:
        """Return the progress reports of a run with ids above ``after``, oldest first."""
        table = schema.run_events
        with database.reading(self._engine) as connection:
            rows = connection.execute(table.select().where(table.c.run_id == run_id, table.c.id > after).order_by(table.c.id))
            return [RunEvent(id=row.id, run_id=row.run_id, at=row.at, data=row.data) for row in rows]


def _advance(connection: sa.Connection, run_id: str, allowed: Sequence[RunState], **values: Any) -> Run:
    """Update a run that is in one of the ``allowed`` states. Raises ``Conflict`` for another state, ``NotFound`` for no run."""
    table = schema.runs
    row = connection.execute(
        table.update()
        .where(table.c.id == run_id, table.c.state.in_([state.value for state in allowed]))
        .values(**values)
        .returning(table)
    ).one_or_none()
    if row is None:
        state = connection.scalar(sa.select(table.c.state).where(table.c.id == run_id))
        if state is None:
            raise NotFound(f"no run {run_id!r}")
        raise Conflict(f"run {run_id} is {state}")
    return as_run(row)


def _note(connection: sa.Connection, run_id: str, at: datetime, data: Mapping[str, Any]) -> None:
    connection.execute(schema.run_events.insert().values(run_id=run_id, at=at, data=dict(data)))
