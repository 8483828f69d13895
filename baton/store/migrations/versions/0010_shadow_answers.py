"""What shadows answered to their copies of logged requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.schema import UtcDateTime

revision = "0010_shadow_answers"
down_revision = "0009_sources"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "shadow_answers",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("input_hash", sa.String(length=64), nullable=False),
        sa.Column("output", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"]),
        sa.PrimaryKeyConstraint("model", "request_id", "position", "version"),
    )
    op.create_index("ix_shadow_answers_age", "shadow_answers", ["created_at"])
