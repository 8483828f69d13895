"""An index by which a correction is known to be a label of the audit."""

from __future__ import annotations

from alembic import op

revision = "0016_audit_labels"
down_revision = "0015_who_asked"


def upgrade() -> None:
    """Add the index: without it, every correction that is counted or deleted is looked for in the whole audit."""
    op.create_index("ix_audit_label", "audit", ["feedback_id"])
