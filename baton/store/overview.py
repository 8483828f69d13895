"""All models at a glance: what serves, what goes on and what waits.

The number of statements does not grow with the number of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from baton.store import database, schema
from baton.store.feedback.store import is_label
from baton.store.history import newest_entries
from baton.store.records import HistoryEntry, Rollout, Run
from baton.store.rollout_store import as_rollout
from baton.store.rows import as_run

MOST_MODELS = 100
"""Number of models that one statement counts corrections of: SQLite joins at most 500 SELECTs."""


@dataclass(kw_only=True)
class Glance:
    """What the database knows of one model, in short."""

    champion: int | None = None
    f1: float | None = None
    """Of the champion, on its holdout."""
    scores: dict[int, float] = field(default_factory=dict)
    """F1 on their holdouts of the newest versions that have one, by number, newest first."""
    promoted: set[int] = field(default_factory=set)
    """Numbers of the versions that ever were champion."""
    run: Run | None = None
    """The run that has not ended."""
    rollout: Rollout | None = None
    """The roll-out that has not ended."""
    paused: str | None = None
    """Why retraining is paused."""
    corrections: int = 0
    """Those that the newest version has not been trained on."""
    to_label: int = 0
    """Texts that the audit has drawn and that nobody has labelled."""
    newest: HistoryEntry | None = None


class OverviewStore:
    """Reads many models at once. Thread-safe. Raises ``RegistryError`` if the database does not respond."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def read(self, models: Sequence[str], versions: int) -> dict[str, Glance]:
        """Return a glance at each of ``models``, with the scores of at most ``versions`` newest versions."""
        found = {model: Glance() for model in models}
        with database.reading(self._engine) as connection:
            _champions(connection, found)
            read_until = _scores(connection, found, versions)
            _events(connection, found)
            _corrections(connection, found, read_until)
            _audits(connection, found)
            for model, entry in newest_entries(connection, models).items():
                found[model].newest = entry
        return found


def _champions(connection: sa.Connection, found: dict[str, Glance]) -> None:
    models, versions, promotions = schema.models, schema.versions, schema.promotions
    champion = sa.and_(versions.c.model == models.c.name, versions.c.number == models.c.champion_version)
    query = sa.select(models.c.name, models.c.champion_version, versions.c.metrics["f1"].as_float().label("f1"))
    query = query.select_from(models.outerjoin(versions, champion)).where(models.c.name.in_(found))
    for row in connection.execute(query):
        found[row.name].champion, found[row.name].f1 = row.champion_version, row.f1
    moved = sa.select(promotions.c.model, promotions.c.version).distinct().where(promotions.c.model.in_(found))
    for row in connection.execute(moved):
        found[row.model].promoted.add(row.version)


def _scores(connection: sa.Connection, found: dict[str, Glance], limit: int) -> dict[str, int]:
    """Read the scores; return the last correction that each model's newest version has seen."""
    table = schema.versions
    place = sa.func.row_number().over(partition_by=table.c.model, order_by=table.c.number.desc()).label("place")
    ranked = sa.select(table.c.model, table.c.number, place).where(table.c.model.in_(found), table.c.published).subquery()
    newest = sa.and_(table.c.model == ranked.c.model, table.c.number == ranked.c.number, ranked.c.place <= limit)
    until = table.c.lineage[("dataset", "feedback_until")].as_integer().label("until")
    query = sa.select(table.c.model, table.c.number, table.c.metrics["f1"].as_float().label("f1"), until)
    read_until: dict[str, int] = {}
    for row in connection.execute(query.join(ranked, newest).order_by(table.c.number.desc())):
        read_until.setdefault(row.model, row.until or 0)
        if row.f1 is not None:
            found[row.model].scores[row.number] = row.f1
    return read_until


def _events(connection: sa.Connection, found: dict[str, Glance]) -> None:
    runs, rollouts, state = schema.runs, schema.rollouts, schema.retrain_state
    for run in connection.execute(runs.select().where(runs.c.model.in_(found), sa.text(schema.ACTIVE))):
        found[run.model].run = as_run(run)
    for rollout in connection.execute(rollouts.select().where(rollouts.c.model.in_(found), sa.text(schema.UNSETTLED))):
        found[rollout.model].rollout = as_rollout(rollout)
    for pause in connection.execute(state.select().where(state.c.model.in_(found), state.c.kind == "paused")):
        found[pause.model].paused = pause.value


def _corrections(connection: sa.Connection, found: dict[str, Glance], read_until: dict[str, int]) -> None:
    """Count as `FeedbackStore.count_after`."""
    table, names = schema.feedback, list(found)
    for start in range(0, len(names), MOST_MODELS):
        counts = [
            sa.select(sa.literal(name).label("model"), sa.func.count().label("count")).where(
                table.c.model == name, table.c.id > read_until.get(name, 0), ~is_label()
            )
            for name in names[start : start + MOST_MODELS]
        ]
        for row in connection.execute(sa.union_all(*counts)):
            found[row.model].corrections = int(row._mapping["count"])


def _audits(connection: sa.Connection, found: dict[str, Glance]) -> None:
    table = schema.audit
    waits = (table.c.feedback_id.is_(None), ~table.c.undecidable, ~table.c.forgotten)
    query = sa.select(table.c.model, sa.func.count().label("waiting")).where(table.c.model.in_(found), *waits)
    for row in connection.execute(query.group_by(table.c.model)):
        found[row.model].to_label = row.waiting
