"""Owners: the cluster that queued a run, and leases on work that one control plane does at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.schema import UtcDateTime

revision = "0007_owners"
down_revision = "0006_gate"


def upgrade() -> None:
    """Create `leases`, and add an owner to runs. Older runs have none."""
    op.add_column("runs", sa.Column("owner", sa.String(length=96), nullable=True))
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
