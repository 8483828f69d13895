"""Rows that are never changed may name their model by another name: `baton rename`."""

from __future__ import annotations

from baton.store.migrations.triggers import rename_only

revision = "0017_renamed_models"
down_revision = "0016_audit_labels"


def upgrade() -> None:
    """Let the database accept an UPDATE of the column ``model`` alone in `promotions` and `sides`."""
    rename_only("promotions", ["id", "sequence", "version", "previous", "decision_id", "kind", "created_at"])
    rename_only("sides", ["group_hash", "side"])
