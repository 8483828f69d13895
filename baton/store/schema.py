"""The registry's tables (SQLAlchemy Core) and its two column types. Knows no queries.

A change here needs a migration in `migrations/versions`; a test compares the two.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Dialect


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A column of time-zone aware datetimes in UTC, on databases with and without time zones."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class IntArray(sa.types.TypeDecorator[NDArray[np.int32]]):
    """A column of int32 numpy arrays, stored as compressed .npy files, which keep the shape and need no pickle."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: NDArray[np.int32] | None, dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        buffer = BytesIO()
        np.save(buffer, np.asarray(value, dtype=np.int32, order="C"), allow_pickle=False)
        return zlib.compress(buffer.getvalue())

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> NDArray[np.int32] | None:
        if value is None:
            return None
        array: NDArray[np.int32] = np.load(BytesIO(zlib.decompress(value)), allow_pickle=False)
        return array


metadata = sa.MetaData()

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("champion_version", sa.Integer, nullable=True),
    sa.Column("champion_sequence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String(96), nullable=True, unique=True),
    sa.Column("published", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("uri", sa.Text, nullable=True),
    sa.Column("manifest_sha256", sa.String(64), nullable=True),
    sa.Column("metrics", sa.JSON, nullable=True),
    sa.Column("lineage", sa.JSON, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(96), primary_key=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("decision_id", sa.Integer, nullable=True),
    sa.Column("idempotency_key", sa.String(128), nullable=True),
    sa.Column("cause", sa.Text, nullable=True),
    sa.Column("source", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=True),
    sa.Column("finished_at", UtcDateTime, nullable=True),
    sa.Column("heartbeat_at", UtcDateTime, nullable=True),
    sa.Column("owner", sa.String(96), nullable=True),
    sa.UniqueConstraint("model", "idempotency_key", name="uq_runs_idempotency"),
)

ACTIVE = "state IN ('queued', 'running')"
"""Condition on `runs`: the run has not ended."""

sa.Index(
    "uq_runs_one_active",
    runs.c.model,
    unique=True,
    sqlite_where=sa.text(ACTIVE),
    postgresql_where=sa.text(ACTIVE),
)

run_events = sa.Table(
    "run_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.ForeignKey("runs.id"), nullable=False, index=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("holdout_hash", sa.String(64), nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("statistics", IntArray, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("model", "version", "holdout_hash", name="uq_evaluations"),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False, index=True),
    sa.Column("candidate", sa.Integer, nullable=False),
    sa.Column("champion", sa.Integer, nullable=True),
    sa.Column("champion_sequence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("policy", sa.JSON, nullable=False),
    sa.Column("numbers", sa.JSON, nullable=False),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

matches = sa.Table(
    "matches",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False),
    sa.Column("champion", sa.Integer, nullable=True),
    sa.Column("candidate", sa.Integer, nullable=False),
    sa.Column("holdout_hash", sa.String(64), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
sa.Index("ix_matches_champion", matches.c.model, matches.c.champion, matches.c.id)

match_groups = sa.Table(
    "match_groups",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("group_hash", sa.String(64), primary_key=True),
    sa.Column("first_match", sa.Integer, nullable=False),
)

promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous", sa.Integer, nullable=True),
    sa.Column("decision_id", sa.ForeignKey("decisions.id"), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("model", "sequence", name="uq_promotions_sequence"),
)

incidents = sa.Table(
    "incidents",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("after_decision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("champion", sa.Integer, nullable=True),
    sa.Column("mode", sa.String(8), nullable=False),
    sa.Column("percent", sa.Float, nullable=False),
    sa.Column("minutes", sa.Float, nullable=True),
    sa.Column("decision_id", sa.ForeignKey("decisions.id"), nullable=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("owner", sa.String(128), nullable=True),
    sa.Column("asked", sa.Text, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

UNSETTLED = "state IN ('proposed', 'preparing', 'canary', 'shadow', 'committing')"
"""Condition on `rollouts`: the roll-out has not ended."""

sa.Index(
    "uq_rollouts_one_active",
    rollouts.c.model,
    unique=True,
    sqlite_where=sa.text(UNSETTLED),
    postgresql_where=sa.text(UNSETTLED),
)

predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("answer_id", sa.String(128), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.String(128), nullable=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("output", sa.JSON, nullable=False),
    sa.Column("label", sa.Text, nullable=True),
    sa.Column("confidence", sa.Float, nullable=True),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
sa.Index(
    "ix_predictions_request",
    predictions.c.model,
    predictions.c.request_id,
    predictions.c.position,
    predictions.c.created_at,
)
sa.Index("ix_predictions_recent", predictions.c.model, predictions.c.version, predictions.c.created_at)
sa.Index("ix_predictions_age", predictions.c.created_at)

shadow_answers = sa.Table(
    "shadow_answers",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("answer_id", sa.String(128), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("input_hash", sa.String(64), nullable=False),
    sa.Column("output", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
sa.Index("ix_shadow_answers_age", shadow_answers.c.created_at)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False),
    sa.Column("client_id", sa.String(128), nullable=True),
    sa.Column("request_id", sa.String(128), nullable=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("example", sa.JSON, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("sender", sa.String(12), nullable=True),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("answer_id", sa.String(128), nullable=True),
    sa.UniqueConstraint("model", "sender", "client_id", name="uq_feedback_client_id"),
    sqlite_autoincrement=True,  # a deleted id must not be used again: data sets store the highest id that they have read
)
sa.Index("ix_feedback_model", feedback.c.model, feedback.c.id)
sa.Index("ix_feedback_sender", feedback.c.model, feedback.c.sender, feedback.c.received_at)
sa.Index("ix_feedback_answer", feedback.c.model, feedback.c.answer_id, feedback.c.position)

UNATTACHED = "version IS NULL AND (answer_id IS NOT NULL OR request_id IS NOT NULL)"
"""Condition on `feedback`: the correction is about an answer that was not found in the log so far."""

sa.Index(
    "ix_feedback_unattached",
    feedback.c.model,
    feedback.c.received_at,
    sqlite_where=sa.text(UNATTACHED),
    postgresql_where=sa.text(UNATTACHED),
)

feedback_changes = sa.Table(
    "feedback_changes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False),
    sa.Column("what", sa.String(16), nullable=False),
    sa.Column("client_id", sa.String(128), nullable=True),
    sa.Column("sender", sa.String(12), nullable=True),
    sa.Column("actor", sa.String(63), nullable=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("answer", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("happened_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index("ix_feedback_changes_model", feedback_changes.c.model, feedback_changes.c.id)
sa.Index("ix_feedback_changes_time", feedback_changes.c.model, feedback_changes.c.happened_at)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("holdout_hash", sa.String(64), nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("manifest", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.UniqueConstraint("model", "hash", name="uq_datasets_hash"),
)

sides = sa.Table(
    "sides",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("group_hash", sa.String(64), primary_key=True),
    sa.Column("side", sa.String(7), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.ForeignKey("models.name"), nullable=False),
    sa.Column("group_hash", sa.String(64), nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("drawn_at", UtcDateTime, nullable=False),
    sa.Column("feedback_id", sa.ForeignKey("feedback.id", ondelete="SET NULL"), nullable=True),
    sa.Column("undecidable", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("forgotten", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("model", "group_hash", name="uq_audit_group"),
)
sa.Index("ix_audit_content", audit.c.model, audit.c.content_hash)
sa.Index("ix_audit_label", audit.c.feedback_id)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(64), nullable=False),
)

retrain_state = sa.Table(
    "retrain_state",
    metadata,
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

notices = sa.Table(
    "notices",
    metadata,
    sa.Column("receiver", sa.String(64), primary_key=True),
    sa.Column("model", sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("event", sa.String(96), primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=True),
)
DUE = "due_at IS NOT NULL"
"""Condition on `notices`: it is still to be sent."""

sa.Index("ix_notices_due", notices.c.receiver, notices.c.due_at, sqlite_where=sa.text(DUE), postgresql_where=sa.text(DUE))

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("owner", sa.String(96), nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("rate", sa.Float, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=True),
    sa.Column("revoked_at", UtcDateTime, nullable=True),
    sa.Column("last_used_at", UtcDateTime, nullable=True),
)
