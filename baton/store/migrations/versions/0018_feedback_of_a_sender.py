"""Indexes by which the newest corrections of one sender (`feedback.max_per_day`) and old changes of corrections are found."""

from __future__ import annotations

from alembic import op

revision = "0018_feedback_of_a_sender"
down_revision = "0017_renamed_models"


def upgrade() -> None:
    """Add the indexes: without them, each request with corrections would read all that its sender ever sent, and each deletion
    of old changes all of them.
    """
    op.create_index("ix_feedback_sender", "feedback", ["model", "sender", "received_at"])
    op.create_index("ix_feedback_changes_time", "feedback_changes", ["model", "happened_at"])
