"""Which of a model's data sets was frozen last: content that comes back has its old number, and is the newest all the same."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_current"
down_revision = "0004_retrain"


def upgrade() -> None:
    """`datasets` get a turn; until now they were frozen in the order of their numbers."""
    op.add_column("datasets", sa.Column("turn", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE datasets SET turn = number")
