"""Frozen records: what one step of the loop hands to the next. No behaviour, no database, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST_ID = 128
"""Maximum length in characters of the ids that clients choose: request ids, ids of corrections, idempotency keys."""


class RunState(StrEnum):
    """Where a run stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class RunStage(StrEnum):
    """What a run is doing. The last three equal its final state."""

    QUEUED = "queued"
    PREPARING = "preparing"
    ADAPTING = "adapting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"
    DECIDING = "deciding"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class HistoryKind(StrEnum):
    """What a line of a model's history records."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"
    RUN_FAILED = "run failed"
    RUN_CANCELLED = "run cancelled"
    ROLLOUT_FAILED = "rollout failed"
    RETRAIN_STARTED = "retrain started"
    RETRAIN_HELD = "retrain held back"
    RETRAIN_PAUSED = "retrain paused"
    RETRAIN_RESUMED = "retrain resumed"
    DRIFT = "drift"


class Verdict(StrEnum):
    """What the gate says. ``inconclusive``: better on this holdout, but not with the asked-for confidence."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


class DecisionKind(StrEnum):
    """Why the champion pointer may move: the gate's verdict, or a person's named act."""

    GATE = "gate"
    FORCE = "force"
    ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A frozen, validated, leak-free data set. ``hash`` is over the content of both sides."""

    hash: str
    holdout_hash: str
    uri: str
    labels: tuple[str, ...]
    train_rows: int
    holdout_rows: int
    removed_leaks: int
    """Train rows taken out because their normalised text also stands in the holdout, or once stood there."""
    removed_duplicates: int
    """Train rows, and feedback rows of the holdout, that repeat another one (same text, same label)."""
    sources: Mapping[str, str] = field(default_factory=dict)
    number: int | None = None
    """Given by the registry; None until it is recorded there."""
    previous: int | None = None
    """Number of the version that was the newest one when this was frozen."""
    counts: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    """Rows by side (``train``, ``holdout``), source (``base``, ``feedback``) and label. A row of several labels counts for each
    of them, one of none under ``""``."""
    train_feedback: int = 0
    """Train rows that came from feedback."""
    holdout_feedback: int = 0
    """Holdout rows that came from feedback."""
    conflicts: Mapping[str, Any] = field(default_factory=dict)
    """Texts that came with different answers: ``policy``, how many ``texts`` and ``dropped`` rows, a few ``examples``."""
    quarantined: Sequence[Mapping[str, str]] = ()
    """The first rows that were kept out of both sides: ``where`` and ``reason``."""
    quarantined_rows: int = 0
    set_aside: int = 0
    """Feedback rows on rows of the base holdout: they change nothing there, and never reach train."""
    feedback_until: int = 0
    """Highest id of the feedback that was looked at; 0 when there was none."""
    created_at: str | None = None
    """When the registry recorded it, in ISO 8601: the record goes into manifests as JSON."""


@dataclass(frozen=True, kw_only=True)
class LoggedPrediction:
    """One input that was answered, as the prediction log keeps it: ``input`` may be masked, ``output`` is brief, and None where
    the request asked for a form that cannot be scored (`Task.scorable`).

    ``label``, ``confidence`` and ``length`` (characters) are what drift is measured by; see `Task.summary`.
    """

    model: str
    request_id: str
    position: int
    version: int
    input: Mapping[str, Any]
    output: Mapping[str, Any] | None
    label: str | None
    confidence: float | None
    length: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """One correction from an application: an example with its right answer.

    ``id`` grows with every correction received, ``client_id`` is the sender's own name for it. ``request_id`` and ``position``
    name the logged prediction that it corrects, where there is one.
    """

    id: int
    model: str
    client_id: str | None
    request_id: str | None
    position: int
    example: Mapping[str, Any]
    received_at: datetime


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A published, immutable model. ``manifest_sha256`` pins the bytes of its ``baton.json``."""

    model: str
    number: int
    uri: str
    manifest_sha256: str
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    run_id: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One version scored on one frozen holdout.

    ``statistics``: int32 array [n, d], the task's compact per-example outcomes, from which its metric can be
    recomputed for any resample of the n examples (rows in holdout order).
    """

    id: int
    model: str
    version: int
    holdout_hash: str
    metrics: Mapping[str, Any]
    statistics: NDArray[np.int32]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Why a version may, or may not, become champion. ``champion`` is None for a model's first version."""

    id: int | None = None
    model: str
    candidate: int
    champion: int | None
    kind: DecisionKind
    verdict: Verdict
    sentence: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The pointer: which version serves. ``sequence`` grows by one with every move and never repeats."""

    version: int | None
    sequence: int


@dataclass(frozen=True, kw_only=True)
class ReplicaState:
    """What one replica reports about itself to the control plane; plain values, because it crosses processes."""

    replica: str
    """Serve's id of the replica."""
    pid: int
    version: int | None
    """The version that answers; None while none is loaded."""
    sequence: int
    """`Champion.sequence` of the last move that the replica has followed; -1 before the first."""
    prepared: tuple[int, ...]
    """Versions that are loaded and wait for a commit."""
    engine: str
    """Description of the engine that runs ``version``; empty while none is loaded."""
    unlogged: int
    """Answers that the prediction log dropped since the replica started."""
    error: str | None
    """What keeps the replica from the wanted version; None when nothing does."""
    unavailable: bool
    """Whether ``error`` is an outage of the database or the storage, which is no evidence against the version."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One move of the champion pointer; append-only."""

    id: int
    model: str
    sequence: int
    version: int
    previous: int | None
    decision_id: int
    kind: DecisionKind
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. ``spec`` is the model's whole configuration, frozen when the run was created."""

    id: str
    model: str
    state: RunState
    stage: RunStage
    reason: str | None
    spec: Mapping[str, Any]
    progress: Mapping[str, Any]
    version: int | None
    decision_id: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    heartbeat_at: datetime | None
    cause: str | None = None
    """Why it started by itself; None where somebody asked for it."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Something that went wrong and that an operator should find in the history (a failed prepare, say)."""

    id: int
    model: str
    version: int | None
    kind: str
    detail: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One line of a model's story, newest first in listings."""

    at: datetime
    what: str
    version: int | None
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """One progress report of a run; ``id`` grows and is the SSE event id."""

    id: int
    run_id: str
    at: datetime
    data: Mapping[str, Any]
