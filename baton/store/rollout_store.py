"""Roll-outs in the database: the proposal, each change of state, and what was measured.

A roll-out changes its state only from the state that the caller saw. `Registry.promote` does the one change that moves the
champion pointer as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import Conflict
from baton.store import database, schema
from baton.store.history import insert_incident
from baton.store.records import PAGE, HistoryKind, Rollout, RolloutMode, RolloutState
from baton.store.rows import now, page


class RolloutStore:
    """Roll-outs of all models in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def propose(
        self,
        model: str,
        version: int,
        champion: int | None,
        *,
        mode: RolloutMode = RolloutMode.DIRECT,
        percent: float = 0.0,
        minutes: float | None = None,
        decision_id: int | None = None,
        owner: str | None = None,
        asked: str | None = None,
    ) -> Rollout:
        """Store a new roll-out. Raises ``Conflict`` if one of the model is active, ``NotFound`` for an unknown model."""
        table, at = schema.rollouts, now()
        with database.writing(self._engine) as connection:
            database.lock_model(connection, model)
            other = _active(connection, model)
            if other is not None:
                way_out = f"; `baton rollout {model} --stop` ends it" if RolloutState(other.state).trial else ""
                raise Conflict(f"{model}: the roll-out of v{other.version} is active ({other.state}){way_out}")
            row = connection.execute(
                table.insert()
                .values(
                    model=model,
                    version=version,
                    champion=champion,
                    mode=mode,
                    percent=percent,
                    minutes=minutes,
                    decision_id=decision_id,
                    state=RolloutState.PROPOSED,
                    evidence={},
                    owner=owner,
                    asked=asked,
                    created_at=at,
                    changed_at=at,
                )
                .returning(table)
            ).one()
        return as_rollout(row)

    def active(self, model: str) -> Rollout | None:
        """Return the roll-out of a model that has not ended, or None."""
        with database.reading(self._engine) as connection:
            return _active(connection, model)

    def list_active(self) -> Sequence[Rollout]:
        """Return the roll-outs of all models that have not ended, oldest first."""
        table = schema.rollouts
        query = table.select().where(sa.text(schema.UNSETTLED)).order_by(table.c.id)
        with database.reading(self._engine) as connection:
            return [as_rollout(row) for row in connection.execute(query)]

    def list(self, model: str, *, limit: int = PAGE, before: int | None = None) -> Sequence[Rollout]:
        """Return the roll-outs of a model, newest first. For the next page, pass the last id as ``before``."""
        with database.reading(self._engine) as connection:
            return [as_rollout(row) for row in connection.execute(page(schema.rollouts, model, limit, before))]

    def count_ended(self) -> dict[tuple[str, RolloutState], int]:
        """Return the number of ended roll-outs by model and final state. None is ever deleted."""
        table = schema.rollouts
        ended = [state for state in RolloutState if state.final]
        query = sa.select(table.c.model, table.c.state, sa.func.count()).where(table.c.state.in_(ended))
        with database.reading(self._engine) as connection:
            rows = connection.execute(query.group_by(table.c.model, table.c.state))
            return {(model, RolloutState(state)): int(count) for model, state, count in rows}

    def advance(
        self, rollout: Rollout, state: RolloutState, reason: str | None = None, incident: tuple[HistoryKind, str] | None = None
    ) -> Rollout:
        """Move ``rollout`` into ``state``, and add an ``incident`` on its version (kind and text) to the history with it.

        Raises ``Conflict`` if it is no longer in the state that the caller saw.
        """
        with database.writing(self._engine) as connection:
            if incident is not None:
                insert_incident(connection, rollout.model, rollout.version, *incident)
            return advance(connection, rollout, state, reason)

    def decide(self, rollout: Rollout, decision_id: int, asked: str | None = None) -> Rollout:
        """Let a trial end with the promotion that a decision allows. Raises ``Conflict`` if the roll-out has moved on.

        ``asked``: why a person asked for the promotion; the history has said already why the trial was begun.
        """
        with database.writing(self._engine) as connection:
            return _update(connection, rollout, decision_id=decision_id, asked=asked)

    def take(self, rollout: Rollout, owner: str) -> Rollout:
        """Let the cluster ``owner`` act for a roll-out from now on. Raises ``Conflict`` if the roll-out has moved on."""
        with database.writing(self._engine) as connection:
            return _update(connection, rollout, owner=owner)

    def forget_evidence(self, model: str, before: datetime) -> None:
        """Delete what trials found that ended before a time: it quotes inputs."""
        table, ended = schema.rollouts, [state for state in RolloutState if state.final]
        old = (table.c.model == model, table.c.state.in_(ended), table.c.changed_at < before)
        with database.writing(self._engine) as connection:
            connection.execute(table.update().where(*old).values(evidence={}))

    def note(self, rollout: Rollout, evidence: Mapping[str, Any]) -> Rollout:
        """Store what a trial has found so far. Raises ``Conflict`` if the roll-out has moved on."""
        with database.writing(self._engine) as connection:
            return _update(connection, rollout, evidence=dict(evidence))


def advance(connection: sa.Connection, rollout: Rollout, state: RolloutState, reason: str | None = None) -> Rollout:
    """Do `RolloutStore.advance` in a transaction of the caller."""
    return _update(connection, rollout, state=state, reason=reason, changed_at=now())


def as_rollout(row: sa.Row[Any]) -> Rollout:
    """Convert a row of `rollouts`."""
    return Rollout(**{**row._mapping, "mode": RolloutMode(row.mode), "state": RolloutState(row.state)})


def _active(connection: sa.Connection, model: str) -> Rollout | None:
    table = schema.rollouts
    row = connection.execute(table.select().where(table.c.model == model, sa.text(schema.UNSETTLED))).one_or_none()
    return None if row is None else as_rollout(row)


def _update(connection: sa.Connection, rollout: Rollout, **values: Any) -> Rollout:
    table = schema.rollouts
    row = connection.execute(
        table.update().where(table.c.id == rollout.id, table.c.state == rollout.state).values(**values).returning(table)
    ).one_or_none()
    if row is None:
        raise Conflict(f"the roll-out of {rollout.model} v{rollout.version} is no longer {rollout.state}")
    return as_rollout(row)
