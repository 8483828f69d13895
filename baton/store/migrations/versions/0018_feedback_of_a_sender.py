"""An index by which the newest corrections of one sender are found: `feedback.max_per_day`."""

from __future__ import annotations

from alembic import op

revision = "0018_feedback_of_a_sender"
down_revision = "0017_renamed_models"


def upgrade() -> None:
    """Add the index: without it, each request with corrections would read all that its sender ever sent."""
    op.create_index("ix_feedback_sender", "feedback", ["model", "sender", "received_at"])
