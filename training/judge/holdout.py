"""A frozen holdout as the gate sees it: which rows belong to one group, and to which part. Knows no versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.tasks import AnyTask
from baton.text.normal_form import fingerprint

DECLARED = "the declared holdout"
AUDITED = "audited requests"


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdout:
    """A frozen holdout of n rows."""

    hash: str
    """Hex SHA-256 of its rows."""
    groups: NDArray[np.int32]
    """[n], the number of each row's group (`Task.group`), from 0."""
    fingerprints: Sequence[str]
    """The fingerprint of each group."""
    parts: Mapping[str, NDArray[np.bool_]]
    """`DECLARED` and `AUDITED` rows, if there are both: name → [n]."""
    labels: Sequence[Collection[str]]
    """[n], the labels in each row's right answer."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.groups)

    def known_to(self, labels: Collection[str]) -> NDArray[np.bool_]:
        """Return [n]: the rows whose right answer has only labels of ``labels``."""
        known = set(labels)
        return np.array([known.issuperset(of_row) for of_row in self.labels], dtype=bool)


def describe_holdout(task_cls: type[AnyTask], examples: Sequence[Any], holdout_hash: str, *, audited: int = 0) -> Holdout:
    """Return the holdout of these rows, the last ``audited`` of which are audited requests."""
    groups = [fingerprint(task_cls.group(example)) for example in examples]
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    is_audited = np.arange(len(examples)) >= len(examples) - audited
    both = 0 < audited < len(examples)
    return Holdout(
        hash=holdout_hash,
        groups=np.array([number[group] for group in groups], dtype=np.int32),
        fingerprints=tuple(number),
        parts={DECLARED: ~is_audited, AUDITED: is_audited} if both else {},
        labels=[frozenset(task_cls.labels_in(example)) for example in examples],
    )
