"""Base rows and feedback → the two sides of a data set, with an account of every row that went in.

Knows the ledger (which side each text has stood on before) as a mapping; neither files, nor storage, nor the registry.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from baton.artifacts.frozen import HOLDOUT, SIDES, TRAIN, labels_of, shown
from baton.config.model_settings import DataSettings
from baton.tasks import AnyTask
from baton.text.masks import MASK, remainder
from baton.text.normal_form import fingerprint, normalise, place
from training.data.splits import held_groups

BASE, FEEDBACK = "base", "feedback"

LISTED = 20
"""Quarantined rows and conflicts that a manifest shows; all are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedRow:
    """One example with what decides about it: its normalised ``content``, the fingerprint of its ``group``, its ``answer``.

    ``masked_group``: the fingerprint of what masks leave of its group. A ``masked`` row, of which parts are hidden, may be any
    text with the same one.
    """

    example: Any
    source: Literal["base", "feedback"]
    where: str
    content: str
    group: str
    masked_group: str
    masked: bool
    answer: str


@dataclass(kw_only=True)
class Merged:
    """Both sides, and what became of every row that is on neither."""

    train: list[SourcedRow] = field(default_factory=list)
    holdout: list[SourcedRow] = field(default_factory=list)
    waiting: list[SourcedRow] = field(default_factory=list)
    """Quarantined rows of the holdout: they join it when train knows their labels."""
    leaks: int = 0
    duplicates: int = 0
    set_aside: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    contradicted_texts: int = 0
    contradicted_rows: int = 0
    conflicts: list[dict[str, Any]] = field(default_factory=list)

    def quarantine(self, where: str, reason: str) -> None:
        """Keep a row out of both sides, and say why."""
        self.quarantined.append({"where": where, "reason": reason})

    def sides(self) -> dict[str, str]:
        """The side of each group that stands somewhere, or waits to: what the ledger must remember. Were those that wait drawn
        anew the next time, the same data could give another version.
        """
        held = [*self.holdout, *self.waiting]
        assert {row.group for row in self.train}.isdisjoint(row.group for row in held), "a text stands on both sides"
        return {key: side for side, rows in ((TRAIN, self.train), (HOLDOUT, held)) for row in rows for key in _keys(row, side)}

    def counts(self, kind: type[AnyTask]) -> dict[str, dict[str, dict[str, int]]]:
        """Rows by side, source and label."""
        rows = dict(zip(SIDES, (self.train, self.holdout), strict=True))
        return {side: {source: _by_label(kind, rows[side], source) for source in (BASE, FEEDBACK)} for side in SIDES}


def sourced(
    kind: type[AnyTask], source: Literal["base", "feedback"], located: Iterable[tuple[str, Any]], redact: Sequence[str] = ()
) -> list[SourcedRow]:
    """Examples, each behind the place where it stands, as rows of one source. ``redact``: what the prediction log masks; where
    it masks nothing, a mask is a character like others.
    """
    rest = remainder(redact)
    return [
        SourcedRow(
            example=example,
            source=source,
            where=where,
            content=normalise(kind.content(example)),
            group=fingerprint(group),
            masked_group=fingerprint(f"\0{rest(group)}" if redact else group),  # where it is masked, never that of a text
            masked=bool(redact) and MASK in group,
            answer=json.dumps(kind.answer_of(example), ensure_ascii=False, sort_keys=True),
        )
        for where, example in located
        for group in [kind.group(example)]
    ]


def _keys(row: SourcedRow, side: str) -> tuple[str, ...]:
    """Under which fingerprints the ledger remembers a row's side. What masks leave of it counts where it judges, and where it
    is masked itself: of two texts that train nobody needs to know whether they might be the same.
    """
    return (row.group, row.masked_group) if side == HOLDOUT or row.masked else (row.group,)


class Merger:
    """Puts rows on their sides, one source after the other, and settles what contradicts itself.

    A group that the ledger knows never changes sides. Feedback never changes a row of the base holdout.
    """

    def __init__(self, kind: type[AnyTask], data: DataSettings, ledger: Mapping[str, str]) -> None:
        self._kind, self._data, self._ledger = kind, data, ledger
        self.merged = Merged()
        self.base: list[SourcedRow] = []
        """Base rows that stand in train."""
        self._sides: dict[str, str] = {}
        self._judged: set[str] = set()
        """Contents of the base holdout."""
        self._corrections: dict[str, list[SourcedRow]] = {side: [] for side in SIDES}

    def remember(self, rows: Iterable[SourcedRow]) -> None:
        """What today's masks leave of rows that stood somewhere before: patterns may have changed since."""
        for row in sorted(rows, key=lambda row: self._ledger.get(row.group, "")):  # what was trained on counts in the end
            if side := self._ledger.get(row.group):
                self._note(row, side)

    def add_base(self, train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]) -> None:
        """Base rows whose file says on which side they stand.

        A train row leaves where its group stands in the holdout, now or ever before. A holdout row that once stood in train is
        quarantined: what was trained on cannot judge.
        """
        for row in holdout:
            self._hold(row)
        for row in train:
            self._teach(row)

    def add_unsplit(self, rows: Sequence[SourcedRow], fraction: float) -> None:
        """Base rows of one file, of which a ``fraction`` is held out. Groups that the ledger knows stay where they are, and
        what is masked is not drawn: what is hidden may be what decides.
        """
        strata = self._kind.strata([row.example for row in rows])
        known = {row.group: TRAIN for row in rows if row.masked or TRAIN in self._known(row)}
        known |= {row.group: self._ledger[row.group] for row in rows if row.group in self._ledger}
        held = held_groups(strata, [row.group for row in rows], fraction, known)
        self.add_base([row for row in rows if row.group not in held], [row for row in rows if row.group in held])

    def _hold(self, row: SourcedRow) -> None:
        if self._ledger.get(row.group) == TRAIN:
            self.merged.quarantine(row.where, "its text stood in the train side of an earlier data set")
        elif TRAIN in self._known(row):
            self.merged.quarantine(row.where, "a text was trained on that may be this one, but for what is masked of it")
        else:
            self._note(row, HOLDOUT)
            self._judged.add(row.content)
            self.merged.holdout.append(row)

    def _teach(self, row: SourcedRow) -> None:
        if HOLDOUT in self._known(row):
            self.merged.leaks += 1
        else:
            self._note(row, TRAIN)
            self.base.append(row)

    def _known(self, row: SourcedRow) -> set[str]:
        """The sides that a row's text stands on, or ever stood on. Where masks hide a part of it, or of what was trained on,
        the same text is any that may be the same.
        """
        text, alike = (
            {side for sides in (self._ledger, self._sides) if (side := sides.get(key))} for key in (row.group, row.masked_group)
        )
        return text | (alike if row.masked else alike - {HOLDOUT})

    def _note(self, row: SourcedRow, side: str) -> None:
        self._sides.update(dict.fromkeys(_keys(row, side), side))

    def add_feedback(self, rows: Iterable[SourcedRow]) -> None:
        """Feedback, oldest first. A text that is new here is put on its side by a stable hash of its group, and in train where
        it is masked: what is hidden may be what decides. One that may be a text of the holdout is left out.
        """
        for row in rows:
            drawn = HOLDOUT if place(row.group) < self._data.feedback_holdout and not row.masked else TRAIN
            known = self._known(row)
            side = self._ledger.get(row.group) or self._sides.get(row.group) or (TRAIN if TRAIN in known else drawn)
            if side == HOLDOUT and row.content in self._judged:
                self.merged.set_aside += 1
            elif known - {side}:
                self.merged.leaks += 1
            else:
                self._note(row, side)
                self._corrections[side].append(row)

    def merge(self) -> Merged:
        """Both sides. A holdout row with a label that no train row has is quarantined: nothing could learn to answer it."""
        merged = self.merged
        merged.train = self._settle(TRAIN, [*self.base, *self._corrections[TRAIN]])
        known = {label for row in merged.train for label in self._kind.labels_in(row.example)}
        rows = [*merged.holdout, *self._settle(HOLDOUT, self._corrections[HOLDOUT])]
        merged.holdout = []
        for row in rows:
            unknown = [label for label in self._kind.labels_in(row.example) if label not in known]
            if unknown:
                merged.quarantine(row.where, f"it is for the holdout, and no train row has the label {unknown[0]!r}")
                merged.waiting.append(row)
            else:
                merged.holdout.append(row)
        return merged

    def _settle(self, side: str, rows: Sequence[SourcedRow]) -> list[SourcedRow]:
        """One row for each content: the first one that gives the right answer, in the place of the content's first row."""
        by_content: dict[str, list[SourcedRow]] = {}
        for row in rows:
            by_content.setdefault(row.content, []).append(row)
        return [self._settled(side, same) for same in by_content.values()]

    def _settled(self, side: str, rows: Sequence[SourcedRow]) -> SourcedRow:
        """Of rows with one content, oldest first, the one that stays."""
        if len(rows) == 1:
            return rows[0]
        merged = self.merged
        votes = Counter(row.answer for row in rows)
        answer, rule = rows[-1].answer, "latest"
        if self._data.conflicts == "majority":
            most = max(votes.values())
            best = [candidate for candidate, count in votes.items() if count == most]
            rule = "majority" if len(best) == 1 else "latest"
            answer = next(row.answer for row in reversed(rows) if row.answer in best)
        kept = next(row for row in rows if row.answer == answer)
        merged.duplicates += votes[answer] - 1
        if len(votes) > 1:
            merged.contradicted_texts += 1
            merged.contradicted_rows += len(rows) - votes[answer]
            if len(merged.conflicts) < LISTED:
                merged.conflicts.append(_conflict(self._kind, side, kept, rule, votes))
        return kept


def _conflict(kind: type[AnyTask], side: str, kept: SourcedRow, rule: str, votes: Mapping[str, int]) -> dict[str, Any]:
    """One contradiction for the manifest: which answers were given how often, which one stayed, and by what rule."""
    return {
        "text": shown(kind.content(kept.example)),
        "side": side,
        "answers": [{"answer": json.loads(answer), "rows": count} for answer, count in votes.items()],
        "kept": json.loads(kept.answer),
        "by": rule,
    }


def _by_label(kind: type[AnyTask], rows: Sequence[SourcedRow], source: str) -> dict[str, int]:
    counts = Counter(label for row in rows if row.source == source for label in labels_of(kind, row.example))
    return dict(sorted(counts.items()))
