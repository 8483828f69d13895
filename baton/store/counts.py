"""How often what has happened: counts over the registry's history, for all models at once. Knows no metrics."""

from __future__ import annotations

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.records import DecisionKind, RunState, Verdict

FINAL = [state for state in RunState if state.final]


class Counts:
    """On the registry's engine; every method is one query. Nothing that is counted is ever deleted: counts only grow.

    Any method raises ``RegistryError`` when the database does not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def verdicts(self) -> dict[tuple[str, Verdict], int]:
        """By model and verdict, what the gate has said; forced moves and rollbacks are not the gate's."""
        table = schema.decisions
        query = (
            sa.select(table.c.model, table.c.verdict, sa.func.count())
            .where(table.c.kind == DecisionKind.GATE)
            .group_by(table.c.model, table.c.verdict)
        )
        with database.reading(self._engine) as connection:
            return {(model, Verdict(verdict)): int(count) for model, verdict, count in connection.execute(query)}

    def ended_runs(self) -> dict[tuple[str, RunState], int]:
        """By model and final state, the runs that have ended."""
        table = schema.runs
        query = (
            sa.select(table.c.model, table.c.state, sa.func.count())
            .where(table.c.state.in_(FINAL))
            .group_by(table.c.model, table.c.state)
        )
        with database.reading(self._engine) as connection:
            return {(model, RunState(state)): int(count) for model, state, count in connection.execute(query)}
