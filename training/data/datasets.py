"""Base data and feedback → a frozen, validated, leak-free `DatasetVersion` on storage.

The stages are modules of their own: `sources` reads files, `splits` splits, `merging` brings base rows and feedback together.
Knows nothing of models, training or the registry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from baton.artifacts.frozen import HOLDOUT, QUARANTINE, TRAIN, hashes, read_splits, to_bytes, to_lines
from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.store.records import DatasetVersion, Feedback
from baton.tasks import AnyTask
from baton.tasks.rows import Row, example_of
from training.data.merging import FEEDBACK, LISTED, Merged, Merger, SourcedRow, sourced
from training.data.sources import located, read


@dataclass(frozen=True, kw_only=True)
class History:
    """What the model's past adds to its base data: all feedback, oldest first, and where each text has stood so far."""

    feedback: Iterable[Feedback] = ()
    ledger: Mapping[str, str] = field(default_factory=dict)
    """The ledger: fingerprint of a text's group → ``train`` or ``holdout``."""
    previous: int | None = None
    """Number of the newest data set version."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Validated examples of both splits, with the record of how they came to be."""

    version: DatasetVersion
    train: Sequence[Any]
    holdout: Sequence[Any]
    splits: Mapping[str, str] = field(default_factory=dict)
    """The split of each group in it, for the ledger."""


NO_HISTORY = History()


def freeze(
    model: str,
    task_cls: type[AnyTask],
    data: DataSettings,
    storage: Storage,
    history: History = NO_HISTORY,
    *,
    redact: Sequence[str] = (),
) -> Dataset:
    """Read, validate, split, merge the feedback in, take leaks out, and store both splits under their content hash.

    A text stands on one split for ever: the ledger decides; for new base rows their file or the stable hash, for new texts from
    feedback the stable hash. A train row whose normalised text (in question answering: context) stands in the holdout, or ever
    stood there, is dropped and counted, and so is a train row that repeats another; of rows that contradict each other
    ``data.conflicts`` picks one. Nothing changes a row of the base holdout; one that was once trained on is quarantined, and so
    is feedback that cannot be used. Every row is accounted for in the version's record. A text of which the prediction log has
    masked what ``redact`` matches is left out where it may be a text of the holdout.

    The caller records the version and its splits with the registry, before anything trains on them.

    Raises:
        DataError: all broken base rows by file, line and field; no rows; rows that the task cannot learn from; a holdout label
            unknown in train.
        StorageError: the storage cannot be written.
    """
    merged, until = _merge(task_cls, data, history, redact)
    train, holdout = ([row.example for row in split] for split in (merged.train, merged.holdout))
    labels = task_cls.labels_of(train)
    task_cls(labels, max_length=8).check(holdout)
    splits = {TRAIN: to_bytes(train), HOLDOUT: to_bytes(holdout)}
    holdout_hash, content_hash = hashes(splits)
    version = DatasetVersion(
        hash=content_hash,
        holdout_hash=holdout_hash,
        uri=f"models/{model}/datasets/{content_hash}",
        labels=labels,
        train_rows=len(train),
        holdout_rows=len(holdout),
        removed_leaks=merged.leaks,
        removed_duplicates=merged.duplicates,
        sources={"train": data.train, "holdout": str(data.holdout)},
        previous=history.previous,
        counts=merged.counts(task_cls),
        train_feedback=sum(row.source == FEEDBACK for row in merged.train),
        holdout_feedback=sum(row.source == FEEDBACK for row in merged.holdout),
        conflicts={
            "policy": data.conflicts,
            "texts": merged.contradicted_texts,
            "dropped": merged.contradicted_rows,
            "examples": merged.conflicts,
        },
        quarantined=tuple(merged.quarantined[:LISTED]),
        quarantined_rows=len(merged.quarantined),
        set_aside=merged.set_aside,
        feedback_until=until,
    )
    record = json.dumps(asdict(version), indent=2, ensure_ascii=False).encode()
    storage.write_dataset(
        version.uri,
        {f"{name}.jsonl": content for name, content in splits.items()},
        {QUARANTINE: to_lines(merged.quarantined), "dataset.json": record},
    )
    return Dataset(version=version, train=train, holdout=holdout, splits=merged.splits())


def load_split(task_cls: type[AnyTask], storage: Storage, uri: str, split: str) -> list[Any]:
    """The examples of one split (``train`` or ``holdout``) of a frozen data set.

    Raises:
        DataError: a split is not what was frozen.
    """
    return read_splits(task_cls, storage, uri)[split]


def _merge(task_cls: type[AnyTask], data: DataSettings, history: History, redact: Sequence[str]) -> tuple[Merged, int]:
    """Both splits with all that is known by now, and the highest id of the feedback that was looked at."""
    merger = Merger(task_cls, data, history.ledger)
    until = 0
    accepted = []
    for row in history.feedback:
        until = max(until, row.id)
        where = f"feedback {row.id}" + (f" ({row.client_id})" if row.client_id else "")
        try:
            accepted.append((where, example_of(task_cls, Row(where=where, values=row.example), {})))
        except DataError as error:  # it was good when it came: the task, or what it accepts, is another one by now
            merger.merged.quarantine(where, str(error).removeprefix(where).lstrip(":, "))
    corrections = sourced(task_cls, "feedback", accepted, redact)
    rows = sourced(task_cls, "base", located(task_cls, data.fields, read(data.train, "train"), data.train), redact)
    if isinstance(data.holdout, str):
        held = sourced(task_cls, "base", located(task_cls, data.fields, read(data.holdout, "test"), data.holdout), redact)
        _check_files(task_cls, data, rows, held)
        merger.remember([*rows, *held, *corrections])
        merger.add_base(rows, held)
    else:
        merger.remember([*rows, *corrections])
        merger.add_unsplit(rows, data.holdout)
        new = [row for row in merger.merged.holdout if row.group not in history.ledger]
        _check_labels(task_cls, merger.base, new)
    merger.add_feedback(corrections)
    merged = merger.merge()
    _check_sides(data, merged, len(rows))
    return merged, until


def _check_files(
    task_cls: type[AnyTask], data: DataSettings, train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]
) -> None:
    """Raise ``DataError`` when the two files cannot be used together, whatever feedback and ledger say."""
    judged = {row.group for row in holdout}
    kept = [row for row in train if row.group not in judged]
    if not kept:
        raise DataError(
            f"{data.train}: nothing is left to train on; all {len(train)} distinct row(s) also stand in the holdout"
        )
    _check_labels(task_cls, kept, holdout)


def _check_labels(task_cls: type[AnyTask], train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]) -> None:
    """Raise the task's own ``DataError`` when base rows of the holdout have labels that those of train lack."""
    known = {label for row in train for label in task_cls.labels_in(row.example)}
    strange = [row.example for row in holdout if not known.issuperset(task_cls.labels_in(row.example))]
    if strange:
        task_cls(task_cls.labels_of([row.example for row in train]), max_length=8).check(strange)


def _check_sides(data: DataSettings, merged: Merged, rows: int) -> None:
    """Raise ``DataError`` when a split is empty."""
    if merged.train and merged.holdout:
        return
    why = "".join(f"; {row['where']}: {row['reason']}" for row in merged.quarantined[:1])
    if isinstance(data.holdout, float):
        raise DataError(f"{data.train}: {rows} row(s) cannot be split into train and holdout ({data.holdout:.0%}){why}")
    if merged.train:
        raise DataError(f"{data.holdout}: nothing is left to judge by; all rows are quarantined{why}")
    raise DataError(f"{data.train}: nothing is left to train on; {merged.leaks} row(s) stand or stood in the holdout{why}")
