"""Logged predictions and the corrections that applications send."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.schema import UtcDateTime

revision = "0002_feedback"
down_revision = "0001"


def upgrade() -> None:
    """Create `predictions` and `feedback`."""
    op.create_table(
        "predictions",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "request_id", "position"),
    )
    op.create_index("ix_predictions_recent", "predictions", ["model", "version", "created_at"])
    op.create_index("ix_predictions_age", "predictions", ["created_at"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("client_id", sa.String(length=128), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("example", sa.JSON(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "client_id", name="uq_feedback_client_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_model", "feedback", ["model", "id"])
    op.create_index("ix_feedback_request", "feedback", ["model", "request_id", "position"])
