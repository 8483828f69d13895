"""Counts of decisions and of ended runs, for all models at once. Knows no metrics."""

from __future__ import annotations

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.records import DecisionKind, RunState, Verdict

FINAL_STATES = [state for state in RunState if state.final]


class Counts:
    """Counts rows of the registry's database; every method is one query. No counted row is ever deleted, so counts only grow.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def verdicts(self) -> dict[tuple[str, Verdict], int]:
        """Return the number of gate decisions by model and verdict. Forced promotions and rollbacks do not count."""
        table = schema.decisions
        query = (
            sa.select(table.c.model, table.c.verdict, sa.func.count())
            .where(table.c.kind == DecisionKind.GATE)
            .group_by(table.c.model, table.c.verdict)
        )
        with database.reading(self._engine) as connection:
            return {(model, Verdict(verdict)): int(count) for model, verdict, count in connection.execute(query)}

    def ended_runs(self) -> dict[tuple[str, RunState], int]:
        """Return the number of ended runs by model and final state."""
        table = schema.runs
        query = (
            sa.select(table.c.model, table.c.state, sa.func.count())
            .where(table.c.state.in_(FINAL_STATES))
            .group_by(table.c.model, table.c.state)
        )
        with database.reading(self._engine) as connection:
            return {(model, RunState(state)): int(count) for model, state, count in connection.execute(query)}
