"""Selects the rows that a run trains on: all, or those that are new to the champion and some of those that it knows.

Knows nothing of models. The driver, which reports the numbers, and every worker select the same rows.
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
    """The rows of one run."""

    train: Sequence[Any]
    validation: Sequence[Any]
    new: int
    """Number of rows in ``train`` that the champion was not trained on."""
    replayed: int
    """Number of rows in ``train`` that the champion was trained on."""
    known: int
    """Number of rows that could be replayed: the champion was trained on them, and they are not in ``validation``."""


def select(task_cls: type[AnyTask], training: TrainingSettings, rows: Sequence[Any], before: Sequence[Any] | None) -> Selection:
    """Select the rows to train on and to validate on.

    Validation rows are drawn from all rows, known and new, as without a champion. A row is new if its text with its answer is
    not in ``before``. For each new row, ``training.replay`` known rows are drawn. If no row is new, or ``training.replay`` is
    null, all known rows are kept.

    Args:
        rows: the train split.
        before: the train split that the champion was trained on; None if training does not continue from the champion.
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
    left_out = {id(row) for row in old} - drawn
    kept = [row for row in train if id(row) not in left_out]
    return Selection(train=kept, validation=validation, new=new, replayed=wanted, known=len(old))


def stratified_sample(task_cls: type[AnyTask], rows: Sequence[Any], wanted: int, seed: int) -> list[Any]:
    """Draw ``wanted`` of ``rows`` at random. Each stratum (label) gets its share, rounded up or down.

    Systematic sampling (Cochran 1977, «Sampling Techniques», chapter 8): the rows are put in a line, each stratum in one piece
    and shuffled within it, and every (n / wanted)-th row is taken, from a random start.
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
    return [line[int((index + start) * step)] for index in range(wanted)]


def _identity(task_cls: type[AnyTask], row: Any) -> tuple[str, str]:
    """Return what identifies a row: its normalised text and its answer, as for duplicates in `training.data.merging`."""
    return normalise(task_cls.content(row)), row.model_dump_json(exclude={"id", *task_cls.Input.model_fields})
