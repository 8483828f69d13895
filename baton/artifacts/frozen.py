"""Frozen data sets on storage: both splits as they were written, verified, and what differs between two of them.

Knows nothing of where the rows came from, nor of the registry.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from baton.artifacts.storage import Storage
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.base import PAIRED
from baton.text.normal_form import normalise

TRAIN, HOLDOUT = "train", "holdout"
SPLITS = (TRAIN, HOLDOUT)

QUARANTINE = "quarantine.jsonl"
"""Beside the splits: every row in quarantine, with the reason."""

CHANGES_SHOWN = 20
"""Changed texts of one split that a difference lists; the others are counted."""
SHOWN_CHARACTERS = 200

NO_LABEL, ANOTHER_ANSWER = "(none)", "another answer"
"""How a relabelling is named where an answer has no labels, and where they are not what changed."""


@dataclass(frozen=True, kw_only=True)
class SplitDifference:
    """How one split of a data set differs from that of an earlier one.

    ``added`` and ``removed``: rows by label. ``relabelled``: rows of the same content that have another answer, by
    ``before → after``, or ``another answer`` where both have the same labels. ``changes``: the first of them all, each with
    ``what``, ``text``, ``before`` and ``after``.
    """

    rows: int
    rows_before: int
    added_rows: int
    removed_rows: int
    relabelled_rows: int
    added: Mapping[str, int]
    removed: Mapping[str, int]
    relabelled: Mapping[str, int]
    changes: Sequence[Mapping[str, Any]]


def to_bytes(examples: Iterable[Any]) -> bytes:
    """A split as JSON Lines: the bytes that `hashes` and `read_splits` are about."""
    return "".join(example.model_dump_json(exclude_none=True) + "\n" for example in examples).encode()


def to_lines(rows: Iterable[Mapping[str, str]]) -> bytes:
    """Rows in quarantine as JSON Lines, as `read_quarantine` gives them back."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def hashes(splits: Mapping[str, bytes]) -> tuple[str, str]:
    """The holdout's hash, and that of both splits together."""
    holdout_hash = hashlib.sha256(splits[HOLDOUT]).hexdigest()
    return holdout_hash, hashlib.sha256(holdout_hash.encode() + splits[TRAIN]).hexdigest()


def read_splits(task_cls: type[AnyTask], storage: Storage, uri: str) -> dict[str, list[Any]]:
    """The examples of both splits.

    Raises:
        DataError: a split is not what was frozen, or was frozen for another task.
        StorageError: the storage does not answer.
    """
    splits = {name: storage.read_dataset(uri, f"{name}.jsonl") for name in SPLITS}
    _, content_hash = hashes(splits)
    if content_hash != uri.rpartition("/")[2]:
        raise DataError(
            f"{uri}: the frozen data set was altered: its content has the hash {content_hash}; restore it, or train anew"
        )
    try:
        # bytes: U+2028 and U+0085 end a line of a str, not of a JSONL file
        return {
            name: [task_cls.Example.model_validate_json(line) for line in split.splitlines()] for name, split in splits.items()
        }
    except ValidationError as error:
        raise DataError(
            f"{uri}: the data set was frozen for another task than {task_cls.name}: {error.errors()[0]['msg']}"
        ) from error


def read_quarantine(storage: Storage, uri: str) -> list[dict[str, str]]:
    """All rows that were in quarantine when the data set was frozen last: ``where`` they stood, and the ``reason``.

    Raises:
        StorageError: the storage does not answer.
    """
    return [json.loads(line) for line in storage.read_dataset(uri, QUARANTINE).splitlines()]


def difference(
    task_cls: type[AnyTask], before: Mapping[str, Sequence[Any]], after: Mapping[str, Sequence[Any]]
) -> dict[str, SplitDifference]:
    """What became of each split. Rows are the same when their normalised content is; see `Task.content`."""
    return {split: _split_difference(task_cls, before[split], after[split]) for split in SPLITS}


@dataclass
class _Tally:
    """Changes of one type, as they are found."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, *labels: str) -> None:
        self.rows += 1
        self.labels.update(labels)

    def sorted(self) -> dict[str, int]:
        return dict(sorted(self.labels.items()))


def _split_difference(task_cls: type[AnyTask], before: Sequence[Any], after: Sequence[Any]) -> SplitDifference:
    old, new = _by_content(task_cls, before), _by_content(task_cls, after)
    added, removed, relabelled = _Tally(), _Tally(), _Tally()
    changes: list[dict[str, Any]] = []
    for content in dict.fromkeys([*new, *old]):
        gone, come = _unmatched(task_cls, old.get(content, ()), new.get(content, ()))
        both = min(len(gone), len(come))
        for one, other in zip(gone[:both], come[:both], strict=True):
            relabelled.add(_relabelling(task_cls, one, other))
            changes.append(_change(task_cls, "relabelled", one, other))
        for one in gone[both:]:
            removed.add(*labels_of(task_cls, one))
            changes.append(_change(task_cls, "removed", one, None))
        for other in come[both:]:
            added.add(*labels_of(task_cls, other))
            changes.append(_change(task_cls, "added", None, other))
    return SplitDifference(
        rows=len(after),
        rows_before=len(before),
        added_rows=added.rows,
        removed_rows=removed.rows,
        relabelled_rows=relabelled.rows,
        added=added.sorted(),
        removed=removed.sorted(),
        relabelled=relabelled.sorted(),
        changes=changes[:CHANGES_SHOWN],
    )


def labels_of(task_cls: type[AnyTask], example: Any) -> tuple[str, ...]:
    """The labels that a row counts for; ``""`` where its answer names none."""
    return tuple(task_cls.labels_in(example)) or ("",)


def shown(text: str) -> str:
    """A content for a manifest or a listing: the two texts of a pair with a stroke between them, cut where it is long."""
    text = text.replace(PAIRED, " | ")
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _by_content(task_cls: type[AnyTask], examples: Sequence[Any]) -> dict[str, list[Any]]:
    found = defaultdict(list)
    for example in examples:
        found[normalise(task_cls.content(example))].append(example)
    return found


def _unmatched(task_cls: type[AnyTask], old: Sequence[Any], new: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The rows of either split whose answer the other does not have."""
    come = list(new)
    gone = []
    for example in old:
        answer = task_cls.answer_of(example)
        match = next((other for other in come if task_cls.answer_of(other) == answer), None)
        if match is None:
            gone.append(example)
        else:
            come.remove(match)
    return gone, come


def _relabelling(task_cls: type[AnyTask], before: Any, after: Any) -> str:
    """The labels of a row then and now; where they are the same, the answer differs in something else."""
    then, now = (", ".join(task_cls.labels_in(example)) or NO_LABEL for example in (before, after))
    return ANOTHER_ANSWER if then == now else f"{then} → {now}"


def _change(task_cls: type[AnyTask], what: str, before: Any, after: Any) -> dict[str, Any]:
    return {
        "what": what,
        "text": shown(task_cls.content(after if after is not None else before)),
        "before": None if before is None else task_cls.answer_of(before),
        "after": None if after is None else task_cls.answer_of(after),
    }
