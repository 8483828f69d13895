"""Decisions of runs that were not carried out yet: those that may be, and those whose champion was replaced first.

Queries inside a transaction of the caller; `Registry` has them as methods.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from baton.store import schema
from baton.store.records import Decision, DecisionKind, HistoryKind, Verdict
from baton.store.rows import as_decision, now

OVERTAKEN_FOR = timedelta(days=1)
"""How long a version that another one has overtaken may still be judged again: much longer than any outage."""


def pending(connection: sa.Connection) -> list[Decision]:
    """Return decisions that allow a promotion over the current champion and were not carried out, the largest gain first.

    A decision was carried out if it has a promotion. A newer decision on the same version ends it, and so does an incident that
    names the version and gives it up (`HistoryKind.gives_up`).
    """
    decisions, models, promotions = schema.decisions, schema.models, schema.promotions
    return _of_runs(
        connection,
        decisions.c.champion_sequence == models.c.champion_sequence,  # the pointer has not moved since
        decisions.c.champion.is_not_distinct_from(models.c.champion_version),
        ~sa.exists().where(promotions.c.decision_id == decisions.c.id),
    )


def overtaken(connection: sa.Connection) -> list[Decision]:
    """Return decisions that allowed a promotion, but whose champion was replaced before they were carried out.

    Such a version beat an older champion, and must be judged again: a new decision on it ends the old one. The decision with
    the largest gain comes first. After a rollback nothing is judged again by itself: whoever rolled back wants an old version,
    not one that has never served. What was decided more than `OVERTAKEN_FOR` ago is out of date.
    """
    decisions, models, promotions = schema.decisions, schema.models, schema.promotions
    later = (promotions.c.model == decisions.c.model, promotions.c.sequence > decisions.c.champion_sequence)
    return _of_runs(
        connection,
        decisions.c.champion_sequence < models.c.champion_sequence,
        decisions.c.created_at > now() - OVERTAKEN_FOR,
        ~sa.exists().where(promotions.c.model == decisions.c.model, promotions.c.version == decisions.c.candidate),
        ~sa.exists().where(*later, promotions.c.kind == DecisionKind.ROLLBACK),
    )


def _of_runs(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Decision]:
    """Return decisions of runs that allow a promotion and meet the conditions, the one with the largest gain first.

    Left out are those whose version has a newer decision of the gate, or was given up since.
    """
    decisions, runs, models, newer = schema.decisions, schema.runs, schema.models, schema.decisions.alias()
    incidents = schema.incidents
    query = (
        decisions.select()
        .join(runs, runs.c.decision_id == decisions.c.id)
        .join(models, models.c.name == decisions.c.model)
        .where(
            decisions.c.verdict == Verdict.PROMOTE,
            ~sa.exists().where(
                newer.c.model == decisions.c.model,
                newer.c.candidate == decisions.c.candidate,
                newer.c.kind == DecisionKind.GATE,
                newer.c.id > decisions.c.id,
            ),
            ~sa.exists().where(
                incidents.c.model == decisions.c.model,
                incidents.c.version == decisions.c.candidate,
                incidents.c.kind.in_([kind for kind in HistoryKind if kind.gives_up]),
                incidents.c.after_decision >= decisions.c.id,
            ),
            *conditions,
        )
        .order_by(decisions.c.id)
    )
    found = [as_decision(row) for row in connection.execute(query)]
    return sorted(found, key=lambda decision: -decision.numbers.get("gain", 0.0))
