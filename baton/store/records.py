"""Frozen records that stores and services exchange, and the enums of their fields. No behaviour, no database, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 50
"""Default number of rows in one page of a listing."""

LARGEST_INTEGER = 2**31 - 1
"""Largest number that fits an integer column of the database."""

LONGEST_ID = 128
"""Maximum length in characters of the ids that clients choose: request ids, ids of corrections, idempotency keys."""


class RunState(StrEnum):
    """State of a run. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether a run in this state has ended."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class RunStage(StrEnum):
    """Step that a run is in. The last three are the final states (`RunState`)."""

    QUEUED = "queued"
    PREPARING = "preparing"
    IMPORTING = "importing"
    ADAPTING = "adapting"
    PRUNING = "pruning"
    PROBING = "probing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"
    DECIDING = "deciding"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class HistoryKind(StrEnum):
    """Kind of an entry in a model's history."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"
    RUN_FAILED = "run failed"
    RUN_CANCELLED = "run cancelled"
    ROLLOUT_FAILED = "rollout failed"
    """The version could not be prepared, or something spoke against it on trial."""
    ROLLOUT_ENDED = "rollout ended"
    """It ended before the version took over: somebody or something else came first, or an outage."""
    TRIAL_ENDED = "trial ended"
    """A canary or shadow ended, and nothing spoke against the version: a person ended it, or something else came first."""
    CANARY = "canary"
    SHADOW = "shadow"
    REJECTED = "rejected"
    RETRAIN_STARTED = "retrain started"
    RETRAIN_HELD = "retrain held back"
    RETRAIN_PAUSED = "retrain paused"
    RETRAIN_RESUMED = "retrain resumed"
    DRIFT = "drift"
    RENAMED = "renamed"

    @property
    def gives_up(self) -> bool:
        """Whether no decision from before it brings the version into service by itself any more."""
        return self in (HistoryKind.ROLLOUT_FAILED, HistoryKind.TRIAL_ENDED, HistoryKind.REJECTED)


class RolloutMode(StrEnum):
    """How a version comes into service."""

    DIRECT = "direct"
    """It takes over as soon as every replica has loaded it."""
    CANARY = "canary"
    """It answers a share of the requests first."""
    SHADOW = "shadow"
    """It gets a copy of a share of the requests; its answers are compared with the champion's, and nobody gets them."""


class RolloutState(StrEnum):
    """State of a roll-out. The last three are final."""

    PROPOSED = "proposed"
    PREPARING = "preparing"
    CANARY = "canary"
    SHADOW = "shadow"
    COMMITTING = "committing"
    """The champion pointer has moved; the replicas follow."""
    SETTLED = "settled"
    """Done: the version serves, or its canary or shadow ended without a complaint."""
    REJECTED = "rejected"
    """The version could not be prepared, or somebody or something else came first."""
    ROLLED_BACK = "rolled back"
    """Its canary or shadow was ended early, and the champion has all requests again."""

    @property
    def final(self) -> bool:
        """Whether a roll-out in this state has ended."""
        return self in (RolloutState.SETTLED, RolloutState.REJECTED, RolloutState.ROLLED_BACK)

    @property
    def trial(self) -> bool:
        """Whether replicas run both versions in this state."""
        return self in (RolloutState.CANARY, RolloutState.SHADOW)


class Verdict(StrEnum):
    """Verdict of the gate. ``inconclusive``: better on this holdout, but not with the required confidence."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


class DecisionKind(StrEnum):
    """Kind of a decision to move the champion pointer: by the gate, or by a user who forces or rolls back."""

    GATE = "gate"
    FORCE = "force"
    ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A frozen, validated data set whose train split shares no text with its holdout."""

    hash: str
    """Hex SHA-256 of the content of both splits."""
    holdout_hash: str
    """Hex SHA-256 of the holdout alone."""
    uri: str
    """Path of its files in the artifact storage."""
    labels: tuple[str, ...]
    train_rows: int
    holdout_rows: int
    removed_leaks: int
    """Train rows that were removed because their normalised text is, or once was, in the holdout."""
    removed_duplicates: int
    """Rows that were removed as repetitions of another row of their split (same text, same label)."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where the rows of each split came from, by split."""
    number: int | None = None
    """Assigned by the registry; None until the version is stored there."""
    previous: int | None = None
    """Number of the version that was frozen last before this one; None for the first."""
    counts: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    """Rows by split (``train``, ``holdout``), source (train: ``base``, ``feedback``; holdout: ``base``, ``audit``) and label. A
    row with several labels counts once for each; a row without labels counts under ``""``."""
    train_feedback: int = 0
    """Train rows that came from feedback."""
    holdout_feedback: int = 0
    """Holdout rows that came from feedback: the last rows of data sets that Baton 0.1 froze. They do not judge any more."""
    holdout_audited: int = 0
    """Holdout rows that are audited requests: the last rows."""
    corrections: int = 0
    """Feedback rows on texts that are held out but do not judge. They are stored beside the splits."""
    marks_hash: str = ""
    """Hex SHA-256 of the groups and slices of its holdout rows; empty if it has none."""
    corrections_hash: str = ""
    """Hex SHA-256 of these rows; empty if there are none."""
    conflicts: Mapping[str, Any] = field(default_factory=dict)
    """Texts with different answers: the ``policy``, the numbers of ``texts`` and of ``dropped`` rows, and some ``examples``."""
    quarantined: Sequence[Mapping[str, str]] = ()
    """The first rows that were kept out of both splits, each with ``where`` it came from and the ``reason``."""
    quarantined_rows: int = 0
    """Number of all rows that were kept out of both splits."""
    classes: tuple[str, ...] = ()
    """All labels that were ever classes, in the form of `Task.labels_in`: those of this version and of all before it."""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Labels that only feedback has and that too few different texts have to become classes, with the number of these texts
    (`data.new_label_after`)."""
    over_share: int = 0
    """Feedback rows left out because their sender has more than `data.max_sender_share` of the train rows."""
    senders: Mapping[str, int] = field(default_factory=dict)
    """Train rows that came from feedback, by the API key that sent them (``""`` without one), most rows first."""
    remarks: Sequence[str] = ()
    """What reading the base data left out, changed or did not read, each a sentence with its count."""
    set_aside: int = 0
    """Feedback rows whose text judges. They do not change the holdout and never enter train."""
    feedback_until: int = 0
    """Highest id of the feedback that was read; 0 if there was none."""
    created_at: str | None = None
    """When the registry stored it, in ISO 8601: the record goes into manifests as JSON."""


@dataclass(frozen=True, kw_only=True)
class LoggedPrediction:
    """One answered input, as the prediction log stores it. Drift is measured by the last fields; see `Task.summary`."""

    model: str
    answer_id: str
    """Unique; the caller got it in the header ``x-answer-id``."""
    request_id: str | None
    """The caller's own id of its request, which others may have as well; None if it is none that can be stored."""
    position: int
    """Position of the input in its request, from 0."""
    version: int
    """The version that answered."""
    input: Mapping[str, Any]
    """The input; texts that match `feedback.redact` are masked."""
    output: Mapping[str, Any] | None
    """The answer, shortened by the task; None if the request chose a form that cannot be scored (`Task.scorable`)."""
    label: str | None
    """The predicted label; None if the task predicts none."""
    confidence: float | None
    length: int
    """Length of the text in characters."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class FeedbackChange:
    """What happened to stored corrections: another one took their place, or they were withdrawn."""

    id: int
    """Ascending in the order of the changes."""
    model: str
    what: str
    """``replaced`` or ``withdrawn``."""
    client_id: str | None
    """Id of the correction that its sender chose; None if many were withdrawn at once."""
    sender: str | None
    """Id of the API key that had sent it; None without one, or if corrections of several senders were withdrawn."""
    actor: str | None
    """Name of the API key that asked for it; None without one."""
    rows: int
    """How many corrections it concerns."""
    answer: Mapping[str, Any] | None
    """The answer that was replaced; None if it was withdrawn. The text is not kept."""
    happened_at: datetime


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """One correction from an application: an example with its correct answer."""

    id: int
    """Assigned in ascending order of arrival."""
    model: str
    client_id: str | None
    """Id that the sender chose; a second correction with the same id and another answer takes its place."""
    request_id: str | None
    """Request id of the answer that it corrects, if the sender gave one."""
    answer_id: str | None = None
    """Id of that answer; None if the sender gave none and the log has no answer that the request id means."""
    position: int
    """Position of the input in that request, from 0."""
    example: Mapping[str, Any]
    """The input and its correct answer, in the fields of the task's rows."""
    received_at: datetime
    sender: str | None = None
    """Id of the API key that sent it; None if the service needed none, or if Baton 0.1 stored it."""
    version: int | None = None
    """The version whose answer it corrects; None if the log has no such answer."""


@dataclass(frozen=True, kw_only=True)
class AuditItem:
    """A logged text that the audit has drawn, with what people said about it."""

    id: int
    """Ascending in the order of the draw."""
    input: Mapping[str, Any]
    """The input, as the prediction log stores it."""
    drawn_at: datetime
    example: Mapping[str, Any] | None
    """The input and its right answer, in the fields of the task's rows; None until somebody has labelled it."""
    undecidable: bool
    """Whether somebody said that it has no right answer."""

    @property
    def done(self) -> bool:
        """Whether nobody needs to look at it any more."""
        return self.example is not None or self.undecidable


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A published, immutable version of a model."""

    model: str
    number: int
    uri: str
    """Path or URL of its files in the artifact storage."""
    manifest_sha256: str
    """Hex SHA-256 of its ``baton.json``, which in turn holds the SHA-256 of every other file."""
    metrics: Mapping[str, Any]
    """Scores on the holdout that it was first evaluated on."""
    lineage: Mapping[str, Any]
    """How it was made: data set, training settings, code version and the like."""
    run_id: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of one version on one frozen holdout."""

    id: int
    model: str
    version: int
    holdout_hash: str
    metrics: Mapping[str, Any]
    statistics: NDArray[np.int32]
    """int32 array [n, d]: d numbers for each of the n examples, in holdout order, from which `Task.measure` computes the main
    metric of any of them."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision whether a version may become champion, and why."""

    id: int | None = None
    """Assigned by the registry; None until the decision is stored."""
    model: str
    candidate: int
    champion: int | None
    """The champion at the time of the decision; None for a model's first version."""
    champion_sequence: int
    """`Champion.sequence` at the time of the decision. The decision holds until the pointer moves."""
    kind: DecisionKind
    verdict: Verdict
    sentence: str
    """The verdict and its reason in one sentence for users."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the gate (`gate` in `baton.yaml`) that the decision used."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Numbers that the decision rests on, with the ``holdout_hash``; empty unless the gate decided."""
    reason: str | None = None
    """Why a user forced or rolled back; None if the gate decided."""
    created_at: datetime | None = None
    """Assigned by the registry; None until the decision is stored."""


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The champion pointer of a model."""

    version: int | None
    """The version that serves; None before the first promotion."""
    sequence: int
    """Number of moves so far. It grows by one with every move and never repeats."""


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
    trial: int | None = None
    """The version on trial beside ``version``, as a canary or a shadow."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One move of the champion pointer. The database keeps them all (append-only)."""

    id: int
    model: str
    sequence: int
    """`Champion.sequence` after the move."""
    version: int
    previous: int | None
    """The champion before the move; None for the first."""
    decision_id: int
    kind: DecisionKind
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A canary or shadow that a person asks for."""

    mode: RolloutMode
    percent: float
    """Share of the requests that the version answers (canary) or gets a copy of (shadow)."""
    minutes: float | None = None
    """How long it lasts; None until somebody ends it."""
    asked: str | None = None
    """Why, and with which key (`baton.wording.signed`)."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One roll-out of one version, from the proposal to its end."""

    id: int
    model: str
    version: int
    champion: int | None
    """The version that it is compared with: the champion when it was proposed."""
    mode: RolloutMode
    percent: float
    """Share of the requests that the version answers (canary) or gets a copy of (shadow), in percent; 0 if direct."""
    minutes: float | None
    """How long the canary or shadow lasts; None until somebody ends it."""
    decision_id: int | None
    """The decision that makes it champion in the end; None if nothing but a trial was asked for."""
    state: RolloutState
    reason: str | None
    """Why it was rejected or rolled back, or what a trial found; None before."""
    evidence: Mapping[str, Any]
    """What a trial found (`services.control.rollouts.evidence.Evidence`); empty before."""
    owner: str | None
    """The Ray cluster whose control plane acts for it."""
    asked: str | None
    """Why a person asked for it, or for the promotion that ends it, and with which key (`baton.wording.signed`); None if Baton
    began it by itself."""
    created_at: datetime
    changed_at: datetime
    """When it came into its state."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a version comes from that was trained elsewhere."""

    location: str
    """A Hugging Face directory, as a path or a storage URL, or the id of a model on the hub."""
    labels: Mapping[str, str] | None = None
    """Names for the model's labels, by its own names or by their numbers; None: its own names."""
    by: str | None = None
    """Name of the API key that asked for it; None if the service needed none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: it trains a version, or registers one from elsewhere."""

    id: str
    model: str
    state: RunState
    stage: RunStage
    reason: str | None
    """Why it ended, or why it has no decision although it succeeded; else None."""
    spec: Mapping[str, Any]
    """The model's settings when the run was created, with the overrides of the run."""
    progress: Mapping[str, Any]
    """The newest progress report."""
    version: int | None
    """The version that it published, or whose files it was to register again; None until it has ended."""
    decision_id: int | None
    """The gate's decision on that version; None until the run has ended."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    heartbeat_at: datetime | None
    cause: str | None = None
    """Why Baton started it; None if a user requested it."""
    owner: str | None = None
    """The Ray cluster whose control plane queued it and looks after it; None if a user carries it out by hand."""
    source: Source | None = None
    """Where the version comes from that it registers; None: it trains one."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """An event of a model's history without a table of its own, for example a failed roll-out."""

    id: int
    model: str
    version: int | None
    """The version that it concerns, if any."""
    kind: str
    """A `HistoryKind`; a string, because the database may hold kinds that other versions of Baton wrote."""
    detail: str
    after_decision: int
    """Id of the newest decision on the model when it happened; 0 if there was none."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One entry of a model's history."""

    id: str
    """Unique among all entries of the registry, and always the same."""
    at: datetime
    what: str
    """A `HistoryKind`, or the stored kind of an `Incident`."""
    version: int | None
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """One progress report of a run."""

    id: int
    """Ascending; also the id of the server-sent event."""
    run_id: str
    at: datetime
    data: Mapping[str, Any]
