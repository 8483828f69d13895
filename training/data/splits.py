"""Which split of a split each row stands on. Depends on the rows' texts alone: not on their order, nor on chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baton.artifacts.frozen import HOLDOUT, TRAIN
from baton.tasks import AnyTask
from baton.text.normal_form import fingerprint, hash_fraction

NOTHING: Mapping[str, str] = {}


def split_rows(task_cls: type[AnyTask], rows: Sequence[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """Training rows and a ``fraction`` of validation rows, by a stable hash of the text within each stratum (label).

    A row's split depends on its own text only: not on the order of the file, and not on rows added later. The exceptions
    are labels for which the hash picked no row, or every row: the row with the smallest hash goes to the second split, the
    one with the largest stays in the first. A label with a single text stays in the first.

    The hash is another one than that of holdouts. With the same, rows that a holdout left over would never be drawn: each has a
    place beyond the holdout's share.
    """
    groups = [fingerprint(f"validation {fingerprint(task_cls.group(row))}") for row in rows]
    held = held_groups(task_cls.strata(rows), groups, fraction, NOTHING)
    return (
        [row for row, group in zip(rows, groups, strict=True) if group not in held],
        [row for row, group in zip(rows, groups, strict=True) if group in held],
    )


def held_groups(strata: Sequence[str], groups: Sequence[str], fraction: float, known: Mapping[str, str]) -> set[str]:
    """The groups that stand in the holdout: those ``known`` to stand there, and of the new ones what their place picks.

    Places are taken within each stratum, with the exceptions of `split`; known groups count where a stratum needs a row on
    either split.

    Args:
        strata: [n], the stratum of each row.
        groups: [n], the fingerprint of each row's group.
        known: fingerprints of groups whose split is settled → ``train`` or ``holdout``.
    """
    members: dict[str, set[str]] = {}
    for stratum, group in zip(strata, groups, strict=True):
        members.setdefault(stratum, set()).add(group)
    held: set[str] = set()
    kept: set[str] = set()
    for mine in members.values():
        there = {known.get(group) for group in mine}
        new = sorted(group for group in mine if group not in known)
        wanted = sum(hash_fraction(group) < fraction for group in new)
        least, spared = int(HOLDOUT not in there), int(TRAIN not in there)
        held.update(new[: max(0, min(max(wanted, least), len(new) - spared))])
        kept.update(new[-1:] if spared else ())
    held -= kept  # a text of several labels that one of them must learn from
    return held | {group for group in groups if known.get(group) == HOLDOUT}


def folds(task_cls: type[AnyTask], rows: Sequence[Any], count: int) -> list[int]:
    """For each row its fold, 0 to ``count`` - 1, for cross-validation.

    Each stratum (label) is dealt out evenly, and no group stands in two folds. As in `split`, the order of the rows does not
    matter: the groups of a stratum are dealt in the order of their hash, each stratum going on where the one before it stopped,
    so that the folds have almost the same size.
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
