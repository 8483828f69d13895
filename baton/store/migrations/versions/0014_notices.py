"""Notices that are to be sent, or were."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.schema import DUE, UtcDateTime

revision = "0014_notices"
down_revision = "0013_answer_ids"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "notices",
        sa.Column("receiver", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(length=63), sa.ForeignKey("models.name"), primary_key=True),
        sa.Column("event", sa.String(96), primary_key=True),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=True),
    )
    op.create_index(
        "ix_notices_due", "notices", ["receiver", "due_at"], sqlite_where=sa.text(DUE), postgresql_where=sa.text(DUE)
    )
