"""Examples with where they came from and everything that their split depends on. Knows neither the ledger nor the storage."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from baton.tasks import AnyTask
from baton.text.masks import GroupKeys, group_keys
from baton.text.normal_form import normalise
from training.data.marks import NO_MARKS, Marks
from training.data.sources import Located

Source = Literal["base", "audit", "feedback"]
BASE: Source = "base"
AUDIT: Source = "audit"
FEEDBACK: Source = "feedback"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedRow:
    """One example, with everything that its split depends on."""

    example: Any
    source: Source
    where: str
    """Its place for users: ``data/train.jsonl line 7``, ``feedback 12``."""
    content: str
    """Its normalised text. Rows with the same content are duplicates or conflicts."""
    keys: GroupKeys
    """Fingerprints of the text that decides its split (`Task.group`)."""
    answer: str
    """Its answer as JSON."""
    sender: str | None = None
    """Id of the API key that sent it; None for base rows and for feedback without a key."""
    marks: Marks = NO_MARKS

    @property
    def group(self) -> str:
        """Fingerprint of its group."""
        return self.keys.group

    @property
    def together(self) -> tuple[str, ...]:
        """Fingerprints that it must not share with rows of the other split: of its text, and of the group that it names."""
        return (self.group,) if self.marks.unit is None else (self.group, self.marks.unit)

    def ledger_keys(self, *, held_out: bool) -> tuple[str, ...]:
        """Return the fingerprints under which the ledger records its split."""
        return (*self.keys.in_ledger(held_out=held_out), *self.together[1:])

    @property
    def masked(self) -> bool:
        """Whether parts of its text are hidden by masks."""
        return self.keys.masked


@dataclass(frozen=True, kw_only=True)
class BaseRows:
    """The rows of the configured data, before they have a split."""

    train: Sequence[SourcedRow]
    """The rows of the train file; of the only file if there is no holdout file."""
    holdout: Sequence[SourcedRow] | None
    """The rows of the holdout file; None if a share of the declared rows is held out."""
    declared: Sequence[SourcedRow] | None = None
    """The rows of the train file in `baton.yaml`, if the run trains on others (``--set data.train``); else None. The holdout is
    drawn from them, so that a run cannot choose its own judge."""


def sourced(
    task_cls: type[AnyTask],
    source: Source,
    located: Iterable[Located],
    redact: Sequence[str] = (),
    senders: Iterable[str | None] = itertools.repeat(None),
) -> list[SourcedRow]:
    """Return the examples of one source as rows.

    Args:
        redact: the patterns that the prediction log masks. Without any, the mask character is a character like any other.
        senders: the API key that sent each row.
    """
    keys = group_keys(redact)
    rows = []
    for one, sender in zip(located, senders, strict=False):
        example = one.example
        row = SourcedRow(
            example=example,
            source=source,
            where=one.where,
            content=normalise(task_cls.content(example)),
            keys=keys(task_cls.group(example)),
            answer=json.dumps(task_cls.answer_of(example), ensure_ascii=False, sort_keys=True),
            sender=sender,
            marks=one.marks,
        )
        rows.append(row)
    return rows
