"""Frozen data sets: their format in the storage, reading them with verification, and comparing two of them.

Knows neither where the rows came from nor the registry.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from baton.artifacts.storage import Storage
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.base import PAIR_SEPARATOR
from baton.tasks.checks import FROZEN
from baton.text.normal_form import normalise

TRAIN, HOLDOUT = "train", "holdout"
SPLITS = (TRAIN, HOLDOUT)

CORRECTIONS = "corrections.jsonl"
"""Name of the file next to the splits that holds corrections of texts that are held out but do not judge."""

MARKS = "marks"
"""Name, without ``.jsonl``, of the file next to the splits that holds the group and the slices of each holdout row. It is there
only if the settings name such columns."""

QUARANTINE = "quarantine.jsonl"
"""Name of the file next to the splits that holds every row in quarantine, with the reason."""

CHANGES_SHOWN = 20
"""Maximum number of changed texts of one split that a difference lists by default; the others are only counted."""

SHOWN_CHARACTERS = 200
"""Maximum length of a text in a manifest or a listing."""

NO_LABEL = "(none)"
"""Stands for the labels of an answer that has none, in the name of a relabelling."""

ANOTHER_ANSWER = "another answer"
"""Name of a relabelling that changed the answer but not its labels."""


@dataclass(frozen=True, kw_only=True)
class SplitDifference:
    """Differences between one split of a data set and the same split of an earlier data set."""

    rows: int
    rows_before: int
    added_rows: int
    removed_rows: int
    relabelled_rows: int
    """Rows whose content is in both splits, with different answers."""
    added: Mapping[str, int]
    """Added rows by label."""
    removed: Mapping[str, int]
    """Removed rows by label."""
    relabelled: Mapping[str, int]
    """Relabelled rows by ``before → after``, or by ``another answer`` if both answers have the same labels."""
    changes: Sequence[Mapping[str, Any]]
    """The first changed rows, each with ``what``, ``text``, ``before`` and ``after``."""


def to_bytes(examples: Iterable[Any]) -> bytes:
    """Return a split as JSON Lines, the form that `hashes` hashes and `read_splits` reads."""
    return "".join(example.model_dump_json(exclude_none=True) + "\n" for example in examples).encode()


def to_lines(rows: Iterable[Mapping[str, str]]) -> bytes:
    """Return rows in quarantine as JSON Lines, the form that `read_quarantine` reads."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def hashes(splits: Mapping[str, bytes]) -> tuple[str, str]:
    """Return the hex SHA-256 of the holdout, and that of both splits together, with the holdout's marks if it has any."""
    holdout_hash = hashlib.sha256(splits[HOLDOUT]).hexdigest()
    return holdout_hash, hashlib.sha256(holdout_hash.encode() + splits[TRAIN] + splits.get(MARKS, b"")).hexdigest()


def read_splits(task_cls: type[AnyTask], storage: Storage, uri: str) -> dict[str, list[Any]]:
    """Read the examples of both splits, and verify them against the hash in ``uri``.

    Raises:
        DataError: a split was changed after it was frozen, or was frozen for another task.
        StorageError: the storage does not respond.
    """
    content = _verified(storage, uri)
    return {name: _examples(task_cls, uri, content[name]) for name in SPLITS}


def read_holdout(task_cls: type[AnyTask], storage: Storage, uri: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """Read the examples of the holdout and the marks of each; without marks [] stands for these. Raises as `read_splits`."""
    content = _verified(storage, uri)
    return _examples(task_cls, uri, content[HOLDOUT]), [json.loads(line) for line in content[MARKS].splitlines()]


def _verified(storage: Storage, uri: str) -> dict[str, bytes]:
    """Return the bytes of both splits and of the marks, once their hash is the one in ``uri``."""
    content = {name: storage.read_dataset(uri, f"{name}.jsonl") for name in SPLITS}
    content[MARKS] = storage.read_dataset(uri, f"{MARKS}.jsonl", missing=b"")
    _, content_hash = hashes(content)
    if content_hash != uri.rpartition("/")[2]:
        raise DataError(
            f"{uri}: the frozen data set was altered: its content has the hash {content_hash}; restore it, or train again"
        )
    return content


def read_corrections(task_cls: type[AnyTask], storage: Storage, uri: str, corrections_hash: str) -> list[Any]:
    """Read the held-out corrections beside a data set; none if another freeze of the same splits has replaced them.

    Raises:
        StorageError: the storage does not respond.
    """
    content = storage.read_dataset(uri, CORRECTIONS)
    return _examples(task_cls, uri, content) if hashlib.sha256(content).hexdigest() == corrections_hash else []


def _examples(task_cls: type[AnyTask], uri: str, content: bytes) -> list[Any]:
    try:
        # Split bytes, not a str: U+2028 and U+0085 end a line of a str, but not of a JSONL file.
        return [task_cls.Example.model_validate_json(line, context=FROZEN) for line in content.splitlines()]
    except ValidationError as error:
        raise DataError(
            f"{uri}: the data set was frozen for another task than {task_cls.name}: {error.errors()[0]['msg']}"
        ) from error


def read_quarantine(storage: Storage, uri: str) -> list[dict[str, str]]:
    """Read all rows that were in quarantine when the data set was last frozen: ``where`` they came from, and the ``reason``.

    Raises:
        StorageError: the storage does not respond.
    """
    return [json.loads(line) for line in storage.read_dataset(uri, QUARANTINE).splitlines()]


def difference(
    task_cls: type[AnyTask], storage: Storage, before: str, after: str, *, listed: int = CHANGES_SHOWN
) -> dict[str, SplitDifference]:
    """Compare each split of two data sets, which are named by their URIs. Raises as `read_splits`.

    Two rows are the same if their normalised content is; see `Task.content`. Rows that both have byte for byte, mostly
    nearly all, are neither parsed nor normalised.

    ``listed``: maximum number of changed texts of one split that are listed. All are counted.
    """
    contents = [_verified(storage, uri) for uri in (before, after)]
    found = {}
    for split in SPLITS:
        old, new = (content[split].splitlines() for content in contents)
        same = Counter(old) & Counter(new)
        gone, come = (_examples(task_cls, uri, _without(lines, same)) for uri, lines in ((before, old), (after, new)))
        found[split] = replace(_split_difference(task_cls, gone, come, listed), rows=len(new), rows_before=len(old))
    return found


def _without(lines: Sequence[bytes], same: Mapping[bytes, int]) -> bytes:
    """Return lines without as many of each as ``same`` says."""
    left, kept = Counter(same), []
    for line in lines:
        if left[line]:
            left[line] -= 1
        else:
            kept.append(line)
    return b"\n".join(kept)


@dataclass
class _Tally:
    """Counts the changes of one type, in all and by label."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, *labels: str) -> None:
        self.rows += 1
        self.labels.update(labels)

    def sorted(self) -> dict[str, int]:
        return dict(sorted(self.labels.items()))


def _split_difference(task_cls: type[AnyTask], before: Sequence[Any], after: Sequence[Any], listed: int) -> SplitDifference:
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
        changes=changes[:listed],
    )


def labels_of(task_cls: type[AnyTask], example: Any) -> tuple[str, ...]:
    """Return the labels that a row counts for; ``""`` if its answer has none."""
    return tuple(task_cls.labels_in(example)) or ("",)


def shown(text: str) -> str:
    """Return a content for a manifest or a listing: a pair of texts joined by `` | ``, cut at `SHOWN_CHARACTERS`."""
    text = text.replace(PAIR_SEPARATOR, " | ")
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _by_content(task_cls: type[AnyTask], examples: Sequence[Any]) -> dict[str, list[Any]]:
    found = defaultdict(list)
    for example in examples:
        found[normalise(task_cls.content(example))].append(example)
    return found


def _unmatched(task_cls: type[AnyTask], old: Sequence[Any], new: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the old rows whose answer no new row has, and the new rows whose answer no old row has."""
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
    """Return the name of a relabelling; see `SplitDifference.relabelled`."""
    then, now = (", ".join(task_cls.labels_in(example)) or NO_LABEL for example in (before, after))
    return ANOTHER_ANSWER if then == now else f"{then} → {now}"


def _change(task_cls: type[AnyTask], what: str, before: Any, after: Any) -> dict[str, Any]:
    return {
        "what": what,
        "text": shown(task_cls.content(after if after is not None else before)),
        "before": None if before is None else task_cls.answer_of(before),
        "after": None if after is None else task_cls.answer_of(after),
    }
