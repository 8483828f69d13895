"""Data set versions, and the split (`side`) of each text, which never changes.

`sides` is append-only: triggers enforce it, also against other programs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.migrations.triggers import append_only
from baton.store.schema import UtcDateTime

revision = "0003_datasets"
down_revision = "0002_feedback"


def upgrade() -> None:
    """Create `datasets` and `sides`."""
    op.create_table(
        "datasets",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("holdout_hash", sa.String(length=64), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "number"),
        sa.UniqueConstraint("model", "hash", name="uq_datasets_hash"),
    )
    op.create_table(
        "sides",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("group_hash", sa.String(length=64), nullable=False),
        sa.Column("side", sa.String(length=7), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "group_hash"),
    )
    append_only("sides")
