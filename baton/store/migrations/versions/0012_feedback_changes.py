"""Corrections that replace others or are withdrawn, and request ids that several requests used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.schema import UtcDateTime

revision = "0012_feedback_changes"
down_revision = "0011_incident_order"


def upgrade() -> None:
    """Add the table and the column. Which request ids were used several times before is not known."""
    op.add_column("predictions", sa.Column("ambiguous", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "feedback_changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(length=63), sa.ForeignKey("models.name"), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("client_id", sa.String(128), nullable=True),
        sa.Column("sender", sa.String(12), nullable=True),
        sa.Column("actor", sa.String(63), nullable=True),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("happened_at", UtcDateTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_changes_model", "feedback_changes", ["model", "id"])
