"""After which decision an incident happened: the clocks of two machines cannot tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011_incident_order"
down_revision = "0010_shadow_answers"


def upgrade() -> None:
    """Add the column. For old incidents the times decide, as they did."""
    op.add_column("incidents", sa.Column("after_decision", sa.Integer(), nullable=False, server_default="0"))
    incidents = sa.table("incidents", *map(sa.column, ("model", "created_at", "after_decision")))
    decisions = sa.table("decisions", *map(sa.column, ("id", "model", "created_at")))
    newest = sa.select(sa.func.coalesce(sa.func.max(decisions.c.id), 0)).where(
        decisions.c.model == incidents.c.model, decisions.c.created_at <= incidents.c.created_at
    )
    op.execute(incidents.update().values(after_decision=newest.scalar_subquery()))
