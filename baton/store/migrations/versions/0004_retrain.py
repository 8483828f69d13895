"""The causes of runs, and what automatic retraining remembers between two checks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_retrain"
down_revision = "0003_datasets"


def upgrade() -> None:
    """Create `retrain_state`, and add a cause to runs."""
    op.add_column("runs", sa.Column("cause", sa.Text(), nullable=True))
    op.create_table(
        "retrain_state",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "kind"),
    )
