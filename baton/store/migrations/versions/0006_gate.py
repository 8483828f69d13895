"""What the gate needs since version 0.2: matches, the champion's sequence in decisions, the audit, the origin of feedback.

Matches that were played before count, too: they are taken from the stored decisions. All texts that any holdout has had count
as old, because nobody recorded since when each of them judges. `data.feedback_holdout` is removed from stored settings.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

from baton.store.schema import UtcDateTime

revision = "0006_gate"
down_revision = "0005_keys"


def upgrade() -> None:
    """Create the tables and columns, and fill them from what is stored."""
    with op.batch_alter_table("feedback", table_kwargs={"sqlite_autoincrement": True}) as feedback:  # ids of clients are theirs
        feedback.add_column(sa.Column("sender", sa.String(length=12), nullable=True))
        feedback.add_column(sa.Column("version", sa.Integer(), nullable=True))
        feedback.drop_constraint("uq_feedback_client_id", type_="unique")
        feedback.create_unique_constraint("uq_feedback_client_id", ["model", "sender", "client_id"])
    _create_audit()
    _count_matches()
    _drop_setting("models", "settings")
    _drop_setting("runs", "spec")


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("group_hash", sa.String(length=64), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("drawn_at", UtcDateTime(), nullable=False),
        sa.Column("feedback_id", sa.Integer(), nullable=True),
        sa.Column("undecidable", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("forgotten", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["feedback_id"],
            ["feedback.id"],
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "group_hash", name="uq_audit_group"),
    )
    op.create_index("ix_audit_content", "audit", ["model", "content_hash"])
    table = op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.bulk_insert(table, [{"name": "audit", "value": secrets.token_hex(32)}])


def _count_matches() -> None:
    matches = op.create_table(
        "matches",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("champion", sa.Integer(), nullable=True),
        sa.Column("candidate", sa.Integer(), nullable=False),
        sa.Column("holdout_hash", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_matches_champion", "matches", ["model", "champion", "id"])
    op.create_table(
        "match_groups",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("group_hash", sa.String(length=64), nullable=False),
        sa.Column("first_match", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "group_hash"),
    )
    op.add_column("decisions", sa.Column("champion_sequence", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "UPDATE decisions SET champion_sequence = COALESCE((SELECT MAX(promotions.sequence) FROM promotions "
        "WHERE promotions.model = decisions.model AND promotions.version = decisions.champion "
        "AND promotions.created_at <= decisions.created_at), 0)"
    )
    op.execute(
        "INSERT INTO match_groups (model, group_hash, first_match) "
        "SELECT model, group_hash, 0 FROM sides WHERE side = 'holdout'"
    )
    played = _played(op.get_bind())
    op.bulk_insert(matches, played)
    if played and op.get_bind().dialect.name == "postgresql":  # rows with ids of their own leave its sequence where it was
        op.execute("SELECT setval(pg_get_serial_sequence('matches', 'id'), (SELECT MAX(id) FROM matches))")


def _drop_setting(table_name: str, column: str) -> None:
    """Remove `data.feedback_holdout` from the settings in a column: today's code does not know it."""
    key = "name" if table_name == "models" else "id"
    table = sa.table(table_name, sa.column(key), sa.column(column, sa.JSON))
    connection = op.get_bind()
    for row in connection.execute(sa.select(table)).all():
        settings = getattr(row, column) or {}
        if "feedback_holdout" in settings.get("data", {}):
            data = {name: value for name, value in settings["data"].items() if name != "feedback_holdout"}
            connection.execute(
                table.update().where(table.c[key] == getattr(row, key)).values({column: {**settings, "data": data}})
            )


def _played(connection: sa.Connection) -> list[dict[str, object]]:
    """Return the matches behind the stored decisions: one for each champion, candidate and holdout."""
    decisions = sa.table(
        "decisions",
        *(sa.column(name) for name in ("id", "model", "champion", "candidate", "kind")),
        sa.column("numbers", sa.JSON),
        sa.column("created_at", UtcDateTime),
    )
    played: dict[tuple[object, ...], dict[str, object]] = {}
    first_id: dict[tuple[object, ...], int] = {}
    numbers: dict[tuple[object, ...], int] = {}
    for row in connection.execute(sa.select(decisions).where(decisions.c.kind == "gate").order_by(decisions.c.id)):
        holdout_hash = (row.numbers or {}).get("holdout_hash")
        against, match = (row.model, row.champion), (row.model, row.champion, row.candidate, holdout_hash)
        if holdout_hash is None or match in played:
            continue
        identity = len(played) + 1
        numbers[against] = numbers.get(against, 0) + 1
        played[match] = {
            "id": identity,
            "model": row.model,
            "champion": row.champion,
            "candidate": row.candidate,
            "holdout_hash": holdout_hash,
            "number": numbers[against],
            "epoch": first_id.setdefault(against, identity),
            "created_at": row.created_at,
        }
    return list(played.values())
