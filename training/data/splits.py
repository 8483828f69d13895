"""Draws splits and folds by a hash of the rows' texts: independent of the order of the rows, and without randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baton.artifacts.frozen import HOLDOUT, TRAIN
from baton.tasks import AnyTask
from baton.text.normal_form import fingerprint, hash_fraction


def split_rows(task_cls: type[AnyTask], rows: Sequence[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """Split rows into train and validation, a ``fraction`` of each stratum (label), by a stable hash of their texts.

    The split of a row depends on its own text only: not on the order of the file, and not on rows added later. The exceptions
    are labels for which the hash picked no row, or every row: the row with the smallest hash goes to validation, the one with
    the largest stays in train. A label with a single text stays in train.

    The hash differs from the one that draws holdouts. With the same hash, rows that are not in the holdout would never be
    drawn: their hash fractions are all above the holdout's share.

    Returns:
        The train rows and the validation rows, each in the order of ``rows``.
    """
    groups = [fingerprint(f"validation {fingerprint(task_cls.group(row))}") for row in rows]
    held = held_groups(task_cls.strata(rows), groups, fraction, known={})
    return (
        [row for row, group in zip(rows, groups, strict=True) if group not in held],
        [row for row, group in zip(rows, groups, strict=True) if group in held],
    )


def held_groups(strata: Sequence[str], groups: Sequence[str], fraction: float, known: Mapping[str, str]) -> set[str]:
    """Return the groups that belong to the holdout: those that are ``known`` to, and the new ones that their hash picks.

    The hash picks within each stratum, with the exceptions of `split_rows`. A known group counts as its stratum's row in its
    split.

    Args:
        strata: [n], the stratum of each row.
        groups: [n], the fingerprint of each row's group.
        fraction: share of the new groups to hold out.
        known: fingerprint of a group that already has a split → ``train`` or ``holdout``.
    """
    members: dict[str, set[str]] = {}
    for stratum, group in zip(strata, groups, strict=True):
        members.setdefault(stratum, set()).add(group)
    held: set[str] = set()
    kept: set[str] = set()
    for stratum_groups in members.values():
        known_splits = {known.get(group) for group in stratum_groups}
        new = sorted(group for group in stratum_groups if group not in known)
        picked = sum(hash_fraction(group) < fraction for group in new)
        min_held, min_kept = int(HOLDOUT not in known_splits), int(TRAIN not in known_splits)
        held.update(new[: max(0, min(max(picked, min_held), len(new) - min_kept))])
        kept.update(new[-1:] if min_kept else ())
    held -= kept  # a text of several labels, one of which needs it in train
    return held | {group for group in groups if known.get(group) == HOLDOUT}


def folds(task_cls: type[AnyTask], rows: Sequence[Any], count: int) -> list[int]:
    """Return the fold of each row for cross-validation, a number from 0 to ``count`` - 1.

    Each stratum (label) is distributed evenly over the folds, and no group is in two folds. As in `split_rows`, the order of
    the rows does not matter: the groups of a stratum are dealt to the folds in the order of their hash. Each stratum continues
    with the fold after the last one of the stratum before, so that the folds have almost the same size.
    """
    strata: dict[str, set[str]] = {}
    groups = [fingerprint(task_cls.group(row)) for row in rows]
    for stratum, group in zip(task_cls.strata(rows), groups, strict=True):
        strata.setdefault(stratum, set()).add(group)
    dealt: dict[str, int] = {}
    for stratum in sorted(strata):
        for group in sorted(strata[stratum] - dealt.keys()):
            dealt[group] = len(dealt) % count
    return [dealt[group] for group in groups]
