"""Runs that register a version from elsewhere: where it comes from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009_sources"
down_revision = "0008_rollouts"


def upgrade() -> None:
    """Add a source to runs."""
    op.add_column("runs", sa.Column("source", sa.JSON(none_as_null=True), nullable=True))
