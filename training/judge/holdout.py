"""A frozen holdout as the gate sees it: which rows belong to one group, and to which part. Knows no versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.tasks import AnyTask
from baton.text.normal_form import fingerprint
from training.data.units import components

DECLARED = "the declared holdout"
AUDITED = "audited requests"


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdout:
    """A frozen holdout of n rows."""

    hash: str
    """Hex SHA-256 of its rows."""
    groups: NDArray[np.int32]
    """[n], the number of each row's group, from 0: rows that share a text or context (`Task.group`) or a declared group."""
    fingerprints: Sequence[str]
    """The fingerprint of each text or context (`Task.group`), once."""
    parts: Mapping[str, NDArray[np.bool_]]
    """`DECLARED` and `AUDITED` rows, if there are both: name → [n]."""
    labels: Sequence[Collection[str]]
    """[n], the labels in each row's right answer."""
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Declared rows with one value of one of ``data.slices``: ``language de`` → [n]."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.groups)

    @property
    def unit(self) -> str:
        """What one group is called: ``text`` if each row is one, else ``group``."""
        return "text" if self.rows == len(np.unique(self.groups)) else "group"

    def known_to(self, labels: Collection[str]) -> NDArray[np.bool_]:
        """Return [n]: the rows whose right answer has only labels of ``labels``."""
        known = set(labels)
        return np.array([known.issuperset(of_row) for of_row in self.labels], dtype=bool)


def describe_holdout(
    task_cls: type[AnyTask],
    examples: Sequence[Any],
    holdout_hash: str,
    *,
    audited: int = 0,
    marks: Sequence[Mapping[str, Any]] = (),
) -> Holdout:
    """Return the holdout of these rows, the last ``audited`` of which are audited requests.

    ``marks``: of each row, as `baton.artifacts.frozen.read_holdout` returns them; empty if no row has any.
    """
    texts = [fingerprint(task_cls.group(example)) for example in examples]
    units = [mark["unit"] for mark in marks] or [None] * len(examples)
    groups = components([text] if unit is None else [text, unit] for text, unit in zip(texts, units, strict=True))
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    is_audited = np.arange(len(examples)) >= len(examples) - audited
    both = 0 < audited < len(examples)
    return Holdout(
        hash=holdout_hash,
        groups=np.array([number[group] for group in groups], dtype=np.int32),
        fingerprints=tuple(dict.fromkeys(texts)),
        parts={DECLARED: ~is_audited, AUDITED: is_audited} if both else {},
        slices=_slices([mark["slices"] for mark in marks]),
        labels=[frozenset(task_cls.labels_in(example)) for example in examples],
    )


def _slices(of_rows: Sequence[Mapping[str, str]]) -> dict[str, NDArray[np.bool_]]:
    """Return the rows with each value of each column, in the order of columns and values. Empty cells are in no slice."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(of_rows):
        for column, value in row.items():
            if value:
                found.setdefault(f"{column} {value}", []).append(number)
    slices = {}
    for name in sorted(found):
        slices[name] = np.zeros(len(of_rows), dtype=bool)
        slices[name][found[name]] = True
    return slices
