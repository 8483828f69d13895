"""Ids of answers that are unique, beside the request ids that callers choose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from baton.store.schema import UNATTACHED

revision = "0013_answer_ids"
down_revision = "0012_feedback_changes"


def upgrade() -> None:
    """Name each answer by an id of its own; those that were logged before keep their request id as such.

    Where several requests had one id, the log has the first answer only: it stays for drift, and no request id finds it.
    """
    op.execute("ALTER TABLE predictions RENAME COLUMN request_id TO answer_id")
    op.execute("ALTER TABLE shadow_answers RENAME COLUMN request_id TO answer_id")
    op.add_column("predictions", sa.Column("request_id", sa.String(length=128), nullable=True))
    op.execute("UPDATE predictions SET request_id = answer_id WHERE NOT ambiguous")
    op.create_index("ix_predictions_request", "predictions", ["model", "request_id", "position", "created_at"])
    op.add_column("feedback", sa.Column("answer_id", sa.String(length=128), nullable=True))
    op.execute(
        "UPDATE feedback SET answer_id = request_id WHERE EXISTS (SELECT 1 FROM predictions AS logged "
        "WHERE logged.model = feedback.model AND logged.request_id = feedback.request_id "
        "AND logged.position = feedback.position)"
    )
    op.drop_index("ix_feedback_request", "feedback")
    op.create_index("ix_feedback_answer", "feedback", ["model", "answer_id", "position"])
    op.create_index(
        "ix_feedback_unattached",
        "feedback",
        ["model", "received_at"],
        sqlite_where=sa.text(UNATTACHED),
        postgresql_where=sa.text(UNATTACHED),
    )
    op.drop_column("predictions", "ambiguous")
