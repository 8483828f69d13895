"""Which rows a run trains on: all of them, or those that are new to the champion and a share of those that it knows.

Knows nothing of models. The driver, which reports the numbers, and every worker come to the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baton.config.training_settings import TrainingSettings
from baton.tasks import AnyTask
from baton.text.normal_form import normalise
from training.data.splits import split_rows


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows of one run. ``new`` and ``replayed`` count those of ``train``; ``known`` those it could have replayed."""

    train: Sequence[Any]
    validation: Sequence[Any]
    new: int
    replayed: int
    known: int


def select(task_cls: type[AnyTask], training: TrainingSettings, rows: Sequence[Any], before: Sequence[Any] | None) -> Selection:
    """Choose what to train and to validate on from ``rows``, the train split. ``before``: the champion's, None without one.

    Validation is drawn from all rows, old skill and new, as without a champion. A row is new when its text with its answer
    does not stand in ``before``. Of the others, ``training.replay`` rows are drawn for each new one; when nothing is new, or
    with null, all of them stay.
    """
    share = training.validation_share(len(rows))
    train, validation = split_rows(task_cls, rows, share) if share else (list(rows), [])
    if before is None:
        return Selection(train=train, validation=validation, new=len(train), replayed=0, known=0)
    known = {_identity(task_cls, row) for row in before}
    old = [row for row in train if _identity(task_cls, row) in known]
    new = len(train) - len(old)
    wanted = len(old) if training.replay is None or not new else min(round(training.replay * new), len(old))
    drawn = {id(row) for row in stratified_sample(task_cls, old, wanted, training.seed)}
    spared = {id(row) for row in old} - drawn
    kept = [row for row in train if id(row) not in spared]
    return Selection(train=kept, validation=validation, new=new, replayed=wanted, known=len(old))


def stratified_sample(task_cls: type[AnyTask], rows: Sequence[Any], wanted: int, seed: int) -> list[Any]:
    """``wanted`` of ``rows`` by chance, in which each stratum (label) has its share, rounded up or down.

    Systematic sampling (Cochran 1977, «Sampling Techniques», chapter 8): rows lie in a line, each stratum in one piece and
    shuffled within, and every n/wanted-th is taken.
    """
    if not wanted:
        return []
    rng = random.Random(seed)
    strata: dict[str, list[Any]] = {}
    for row, stratum in zip(rows, task_cls.strata(rows), strict=True):
        strata.setdefault(stratum, []).append(row)
    pieces = list(strata.values())
    rng.shuffle(pieces)
    line = [row for piece in pieces for row in rng.sample(piece, len(piece))]
    step, start = len(line) / wanted, rng.random()
    return [line[int((place + start) * step)] for place in range(wanted)]


def _identity(task_cls: type[AnyTask], row: Any) -> tuple[str, str]:
    """What tells a row from others: its normalised text and its answer, as when repetitions are taken out of the data."""
    return normalise(task_cls.content(row)), row.model_dump_json(exclude={"id", *task_cls.Input.model_fields})
