"""Base data and feedback → a frozen, validated, leak-free `DatasetVersion` in the storage.

Each step is a module: `sources` reads files, `splits` draws splits, `merging` assigns base rows and feedback to them.
Knows nothing of models, training or the registry.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from baton.artifacts.frozen import (
    CORRECTIONS,
    HOLDOUT,
    MARKS,
    QUARANTINE,
    SPLITS,
    TRAIN,
    hashes,
    read_splits,
    to_bytes,
    to_lines,
)
from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.quality.audit import complete_batches
from baton.store.records import AuditItem, DatasetVersion, Feedback
from baton.tasks import AnyTask
from baton.tasks.rows import Row, example_of
from baton.wording import counted
from training.data.marks import NO_MARKS, marker
from training.data.merging import Merged, merge
from training.data.remarks import Remarks, look_alikes
from training.data.settling import LISTED
from training.data.sourced_rows import AUDIT, BASE, FEEDBACK, BaseRows, SourcedRow, sourced
from training.data.sources import Located, located, read


@dataclass(frozen=True, kw_only=True)
class History:
    """What a model's past adds to its base data."""

    feedback: Iterable[Feedback] = ()
    """All feedback, oldest first."""
    ledger: Mapping[str, str] = field(default_factory=dict)
    """The split that each text has had so far: fingerprint of its group → ``train`` or ``holdout``."""
    previous: int | None = None
    """Number of the newest data set version."""
    audited: Sequence[AuditItem] = ()
    """All texts that the audit has drawn, in the order of the draw."""
    classes: Collection[str] = ()
    """Labels that ever were classes, in the form of `Task.labels_in`."""
    is_drawn: Callable[[str], bool] = lambda group: False
    """Tells whether the audit draws the group with this fingerprint, whether it was seen in a request or not."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The validated examples of both splits, with their record."""

    version: DatasetVersion
    train: Sequence[Any]
    holdout: Sequence[Any]
    marks: Sequence[Mapping[str, Any]] = ()
    """The group and the slices of each holdout row; () if no row has any."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """What the ledger must record: fingerprint of a group → its split."""


NO_HISTORY = History()

MOST_SLICES = 100
"""Maximum number of values of one column of ``data.slices``. With more, the level that each gets proves nothing."""


def freeze(
    model: str,
    task_cls: type[AnyTask],
    data: DataSettings,
    storage: Storage,
    history: History = NO_HISTORY,
    *,
    redact: Sequence[str] = (),
    declared: DataSettings | None = None,
) -> Dataset:
    """Read, validate and split the base data, merge the feedback in, leave leaks out, and store both splits.

    The data set is stored under the hash of its content. The rules:

    - A text never changes its split. The ledger decides first. Without it, the split of a base row is that of its file, or
      drawn by a stable hash. A text that only feedback has is in train, unless the audit draws it.
    - The holdout has base rows and audited requests. Feedback never judges. The base rows come from the ``declared`` data, so
      that a run that trains on other data is judged like all others.
    - A train row is left out and counted as a leak if its normalised text (in question answering: its context) is in the
      holdout, or ever was. A repeated train row is left out and counted as a duplicate.
    - Of rows that contradict each other, ``data.conflicts`` chooses one.
    - Nothing changes a row of the base holdout. It is quarantined if it was ever trained on. Feedback that cannot be used is
      quarantined, too, and so are corrections with a new label that fewer than ``data.new_label_after`` texts have.
    - A text in which the prediction log masked what ``redact`` matches is left out if it may be a text of the holdout.
    - The version's record accounts for every row.

    The caller must record the version and its splits in the registry before anything trains on them.

    Args:
        declared: the data that `baton.yaml` declares, if the run overrides them; None: ``data``.

    Without ``data.train`` there are no base rows of train, and the labels of the holdout count as classes.

    Raises:
        DataError: base rows are broken (the message lists them by file, line and field), a split has no rows, the task cannot
            learn from the rows, or the base holdout has a label that train does not have. Or no holdout is declared.
        StorageError: the storage cannot be written.
    """
    if not (data if declared is None else declared).judges:
        raise DataError(f"{model} declares no data, so that nothing can be evaluated; declare data.holdout, or data.train")
    feedback = _read_feedback(task_cls, history.feedback, redact)
    remarks = Remarks()
    base = _read_base(task_cls, data, data if declared is None else declared, redact, remarks)
    untrained = () if data.train is not None else base.holdout or ()
    classes = {*history.classes, *(label for row in untrained for label in task_cls.labels_in(row.example))}
    audited = _read_audited(task_cls, history.audited, redact)
    merged = merge(
        task_cls,
        data if declared is None else data.model_copy(update={"holdout": declared.holdout}),
        base,
        feedback.rows,
        history.ledger,
        audited=audited.rows,
        is_drawn=history.is_drawn,
        awaited=audited.awaited,
        classes=classes,
        rejected=[*feedback.rejected, *audited.rejected],
    )
    _check_not_empty(data, merged, len(base.train))
    _check_slices(merged)
    train, holdout, corrections = ([row.example for row in rows] for rows in (merged.train, merged.holdout, merged.corrections))
    labels = task_cls.labels_of([*train, *(row.example for row in untrained)])
    if data.train is not None:
        _check_holdout(task_cls, merged)
    content = {TRAIN: to_bytes(train), HOLDOUT: to_bytes(holdout), MARKS: _marks(merged), CORRECTIONS: to_bytes(corrections)}
    version = _record(
        model,
        task_cls,
        data if declared is None else declared,
        merged,
        content,
        labels=labels,
        previous=history.previous,
        feedback_until=feedback.last_id,
    )
    classes |= set(task_cls(labels, max_length=8).answer_labels)
    version = replace(
        version,
        sources={**version.sources, **_named(data.train)},
        classes=tuple(sorted(classes)),
        remarks=(*remarks, *look_alikes(_label_counts(version.counts)), *_limits(task_cls, {TRAIN: train, HOLDOUT: holdout})),
    )
    _write(storage, version, content, merged.quarantined)
    marks = [json.loads(line) for line in content[MARKS].splitlines()]
    return Dataset(version=version, train=train, holdout=holdout, marks=marks, splits=merged.splits())


def _marks(merged: Merged) -> bytes:
    """Return the groups and slices of the holdout's rows as JSON Lines; nothing if no row has any."""
    marks = [row.marks for row in merged.holdout]
    return to_lines(asdict(one) for one in marks) if any(one != NO_MARKS for one in marks) else b""


def load_split(task_cls: type[AnyTask], storage: Storage, uri: str, split: str) -> list[Any]:
    """Return the examples of one split (``train`` or ``holdout``) of a frozen data set.

    Raises:
        DataError: the stored content is not what was frozen.
    """
    return read_splits(task_cls, storage, uri)[split]


def _read_base(
    task_cls: type[AnyTask], data: DataSettings, declared: DataSettings, redact: Sequence[str], remarks: Remarks
) -> BaseRows:
    marked = [*filter(None, [declared.group_column]), *declared.slices]

    def rows(
        settings: DataSettings, source: str | None, hub_split: str, *, for_holdout: bool, foreign: bool = False
    ) -> list[SourcedRow]:
        if source is None:
            return []
        mark = marker(declared, for_holdout=for_holdout, foreign=foreign)
        raw = read(source, hub_split)
        examples = located(task_cls, settings.fields, raw, source, mark, remarks=remarks, marked=marked)
        return sourced(task_cls, BASE, examples, redact)

    overridden = (data.train, data.fields) != (declared.train, declared.fields)
    drawn = not isinstance(declared.holdout, str)
    return BaseRows(
        train=rows(data, data.train, "train", for_holdout=drawn and not overridden, foreign=overridden),
        holdout=rows(declared, declared.holdout, "test", for_holdout=True) if isinstance(declared.holdout, str) else None,
        declared=rows(declared, declared.train, "train", for_holdout=drawn) if overridden else None,
    )


def _label_counts(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Counter[str]:
    """Return the rows of each label in both splits, of the counts of a version."""
    rows: Counter[str] = Counter()
    for sources in counts.values():
        for labels in sources.values():
            rows.update(labels)
    return rows


def _limits(task_cls: type[AnyTask], splits: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield for each split what no answer can get right."""
    for split, examples in splits.items():
        if limits := task_cls.limits(examples):
            yield f"{split}: {limits}"


def _check_holdout(task_cls: type[AnyTask], merged: Merged) -> None:
    """Raise the task's own ``DataError`` if the holdout cannot judge, rows of labels that only earlier versions know aside."""
    known_rows = [row.example for row in [*merged.train, *merged.declared_train]]
    known = {label for example in known_rows for label in task_cls.labels_in(example)}
    judging = [row.example for row in merged.holdout if known.issuperset(task_cls.labels_in(row.example))]
    task_cls(task_cls.labels_of(known_rows), max_length=8).check(judging)


@dataclass(frozen=True, kw_only=True)
class _AuditedRows:
    rows: Sequence[SourcedRow]
    """Labelled texts of the batches that may judge."""
    awaited: Collection[str]
    """Contents of labelled texts whose batch is not complete."""
    rejected: Sequence[Mapping[str, str]]
    """Quarantine entries of labels that today's task does not accept."""


def _read_audited(task_cls: type[AnyTask], audited: Sequence[AuditItem], redact: Sequence[str]) -> _AuditedRows:
    judging = {item.id for batch in complete_batches(audited) for item in batch}
    rows: list[Located] = []
    awaited: list[Located] = []
    rejected = []
    for item in audited:
        where = f"audited request {item.id}"
        try:
            if item.example is not None:
                example = example_of(task_cls, Row(where=where, values=item.example), {})
                (rows if item.id in judging else awaited).append(Located(where=where, example=example))
        except DataError as error:
            rejected.append({"where": where, "reason": str(error).removeprefix(where).lstrip(":, ")})
    return _AuditedRows(
        rows=sourced(task_cls, AUDIT, rows, redact),
        awaited={row.content for row in sourced(task_cls, AUDIT, awaited, redact)},
        rejected=rejected,
    )


@dataclass(frozen=True, kw_only=True)
class _FeedbackRows:
    rows: Sequence[SourcedRow]
    """Feedback that the task accepts."""
    rejected: Sequence[Mapping[str, str]]
    """Quarantine entries (``where``, ``reason``) of the rest."""
    last_id: int
    """Highest id of all feedback; 0 if there is none."""


def _read_feedback(task_cls: type[AnyTask], feedback: Iterable[Feedback], redact: Sequence[str]) -> _FeedbackRows:
    accepted, senders, rejected = [], [], []
    last_id = 0
    for row in feedback:
        last_id = max(last_id, row.id)
        where = f"feedback {row.id}" + (f" ({row.client_id})" if row.client_id else "")
        try:
            accepted.append(Located(where=where, example=example_of(task_cls, Row(where=where, values=row.example), {})))
            senders.append(row.sender)
        except DataError as error:  # the API accepted it, but the model's task, or what the task accepts, has changed since
            rejected.append({"where": where, "reason": str(error).removeprefix(where).lstrip(":, ")})
    rows = sourced(task_cls, FEEDBACK, accepted, redact, senders)
    return _FeedbackRows(rows=rows, rejected=rejected, last_id=last_id)


def _check_slices(merged: Merged) -> None:
    """Raise ``DataError`` if a column of ``data.slices`` has too many values to be one."""
    values: dict[str, set[str]] = {}
    for row in merged.holdout:
        for column, value in row.marks.slices.items():
            values.setdefault(column, set()).add(value)
    for column, different in values.items():
        if len(different) > MOST_SLICES:
            raise DataError(
                f"data.slices: the column {column!r} has {len(different):,} values in the holdout; at most {MOST_SLICES} are "
                "allowed. A slice is a language or a channel; a customer or a document is a group (data.fields.group)"
            )


def _check_not_empty(data: DataSettings, merged: Merged, rows: int) -> None:
    """Raise ``DataError`` if a split is empty. ``rows``: number of rows in the train file."""
    if merged.holdout and (merged.train or data.train is None):
        return
    example = "".join(f"; {row['where']}: {row['reason']}" for row in merged.quarantined[:1])
    if isinstance(data.holdout, float):
        raise DataError(
            f"{data.train}: {counted(rows, 'row')} cannot be split into train and holdout ({data.holdout:.0%}){example}"
        )
    if merged.train or data.train is None:
        raise DataError(f"{data.holdout}: no row is left in the holdout; all are quarantined{example}")
    raise DataError(
        f"{data.train}: nothing is left to train on; the holdout has, or had earlier, "
        f"{counted(merged.leaks, 'row')} of it{example}"
    )


def _record(
    model: str,
    task_cls: type[AnyTask],
    data: DataSettings,
    merged: Merged,
    content: Mapping[str, bytes],
    *,
    labels: tuple[str, ...],
    previous: int | None,
    feedback_until: int,
) -> DatasetVersion:
    """Return the record of a data set: its hashes, and an account of every row. ``content``: the bytes of each split."""
    holdout_hash, content_hash = hashes(content)
    return DatasetVersion(
        hash=content_hash,
        holdout_hash=holdout_hash,
        uri=f"models/{model}/datasets/{content_hash}",
        labels=labels,
        train_rows=len(merged.train),
        holdout_rows=len(merged.holdout),
        removed_leaks=merged.leaks,
        removed_duplicates=merged.duplicates,
        sources={**_named(data.train), "holdout": data.holdout_source},
        previous=previous,
        counts=merged.counts(task_cls),
        train_feedback=sum(row.source == FEEDBACK for row in merged.train),
        holdout_audited=sum(row.source == AUDIT for row in merged.holdout),
        corrections=len(merged.corrections),
        marks_hash=hashlib.sha256(content[MARKS]).hexdigest() if content[MARKS] else "",
        corrections_hash=hashlib.sha256(content[CORRECTIONS]).hexdigest() if merged.corrections else "",
        conflicts={
            "policy": data.conflicts,
            "texts": merged.contradicted_texts,
            "dropped": merged.contradicted_rows,
            "examples": merged.conflicts,
        },
        quarantined=tuple(merged.quarantined[:LISTED]),
        quarantined_rows=len(merged.quarantined),
        set_aside=merged.set_aside,
        waiting=merged.waiting,
        over_share=merged.over_share,
        senders=merged.senders(),
        feedback_until=feedback_until,
    )


def _named(train: str | None) -> dict[str, str]:
    """Return the source of train as the record of a data set names it; nothing if none is declared."""
    return {} if train is None else {"train": train}


def _write(
    storage: Storage, version: DatasetVersion, content: Mapping[str, bytes], quarantined: Sequence[Mapping[str, str]]
) -> None:
    """Write the splits, and beside them held-out corrections, quarantined rows and the record. Raises ``StorageError``."""
    record = json.dumps(asdict(version), indent=2, ensure_ascii=False).encode()
    storage.write_dataset(
        version.uri,
        {f"{name}.jsonl": content[name] for name in (*SPLITS, MARKS) if name in SPLITS or content[name]},
        {CORRECTIONS: content[CORRECTIONS], QUARANTINE: to_lines(quarantined), "dataset.json": record},
    )
