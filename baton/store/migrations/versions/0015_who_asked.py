"""Who asked for a roll-out, and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_who_asked"
down_revision = "0014_notices"


def upgrade() -> None:
    """Add the reason of a person to roll-outs."""
    op.add_column("rollouts", sa.Column("asked", sa.Text(), nullable=True))
