"""Data set versions, and the side on which each text stands for ever.

`sides` only grows; a trigger keeps it so, whoever holds the connection.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.schema import UtcDateTime

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
    _append_only("sides")


def _append_only(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    else:
        op.execute(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_append_only()"
        )
