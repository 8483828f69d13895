"""Base rows and feedback → the two splits of a data set, with an account of every row that went in.

Knows the ledger (which split each text has stood on before) as a mapping; neither files, nor storage, nor the registry.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from baton.artifacts.frozen import HOLDOUT, SPLITS, TRAIN, labels_of, shown
from baton.config.model_settings import DataSettings
from baton.tasks import AnyTask
from baton.text.masks import MASK, remainder
from baton.text.normal_form import fingerprint, hash_fraction, normalise
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
    """Both splits, and what became of every row that is on neither."""

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
        """Keep a row out of both splits, and say why."""
        self.quarantined.append({"where": where, "reason": reason})

    def splits(self) -> dict[str, str]:
        """The split of each group that stands somewhere, or waits to: what the ledger must remember. Were those that wait drawn
        anew the next time, the same data could give another version.
        """
        held = [*self.holdout, *self.waiting]
        assert {row.group for row in self.train}.isdisjoint(row.group for row in held), "a text stands on both splits"
        return {
            key: split for split, rows in ((TRAIN, self.train), (HOLDOUT, held)) for row in rows for key in _keys(row, split)
        }

    def counts(self, task_cls: type[AnyTask]) -> dict[str, dict[str, dict[str, int]]]:
        """Rows by split, source and label."""
        rows = dict(zip(SPLITS, (self.train, self.holdout), strict=True))
        return {split: {source: _by_label(task_cls, rows[split], source) for source in (BASE, FEEDBACK)} for split in SPLITS}


def sourced(
    task_cls: type[AnyTask], source: Literal["base", "feedback"], located: Iterable[tuple[str, Any]], redact: Sequence[str] = ()
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
            content=normalise(task_cls.content(example)),
            group=fingerprint(group),
            masked_group=fingerprint(f"\0{rest(group)}" if redact else group),  # where it is masked, never that of a text
            masked=bool(redact) and MASK in group,
            answer=json.dumps(task_cls.answer_of(example), ensure_ascii=False, sort_keys=True),
        )
        for where, example in located
        for group in [task_cls.group(example)]
    ]


def _keys(row: SourcedRow, split: str) -> tuple[str, ...]:
    """Under which fingerprints the ledger remembers a row's split. What masks leave of it counts where it judges, and where it
    is masked itself: of two texts that train nobody needs to know whether they might be the same.
    """
    return (row.group, row.masked_group) if split == HOLDOUT or row.masked else (row.group,)


class Merger:
    """Puts rows on their splits, one source after the other, and settles what contradicts itself.

    A group that the ledger knows never changes splits. Feedback never changes a row of the base holdout.
    """

    def __init__(self, task_cls: type[AnyTask], data: DataSettings, ledger: Mapping[str, str]) -> None:
        self._task_cls, self._data, self._ledger = task_cls, data, ledger
        self.merged = Merged()
        self.base: list[SourcedRow] = []
        """Base rows that stand in train."""
        self._splits: dict[str, str] = {}
        self._judged: set[str] = set()
        """Contents of the base holdout."""
        self._corrections: dict[str, list[SourcedRow]] = {split: [] for split in SPLITS}

    def remember(self, rows: Iterable[SourcedRow]) -> None:
        """What today's masks leave of rows that stood somewhere before: patterns may have changed since."""
        for row in sorted(rows, key=lambda row: self._ledger.get(row.group, "")):  # what was trained on counts in the end
            if split := self._ledger.get(row.group):
                self._note(row, split)

    def add_base(self, train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]) -> None:
        """Base rows whose file says on which split they stand.

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
        strata = self._task_cls.strata([row.example for row in rows])
        known = {row.group: TRAIN for row in rows if row.masked or TRAIN in self._known(row)}
        known |= {row.group: self._ledger[row.group] for row in rows if row.group in self._ledger}
        held = held_groups(strata, [row.group for row in rows], fraction, known)
        self.add_base([row for row in rows if row.group not in held], [row for row in rows if row.group in held])

    def _hold(self, row: SourcedRow) -> None:
        if self._ledger.get(row.group) == TRAIN:
            self.merged.quarantine(row.where, "its text stood in the train split of an earlier data set")
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
        """The splits that a row's text stands on, or ever stood on. Where masks hide a part of it, or of what was trained on,
        the same text is any that may be the same.
        """
        text, alike = (
            {split for splits in (self._ledger, self._splits) if (split := splits.get(key))}
            for key in (row.group, row.masked_group)
        )
        return text | (alike if row.masked else alike - {HOLDOUT})

    def _note(self, row: SourcedRow, split: str) -> None:
        self._splits.update(dict.fromkeys(_keys(row, split), split))

    def add_feedback(self, rows: Iterable[SourcedRow]) -> None:
        """Feedback, oldest first. A text that is new here is put on its split by a stable hash of its group, and in train where
        it is masked: what is hidden may be what decides. One that may be a text of the holdout is left out.
        """
        for row in rows:
            drawn = HOLDOUT if hash_fraction(row.group) < self._data.feedback_holdout and not row.masked else TRAIN
            known = self._known(row)
            split = self._ledger.get(row.group) or self._splits.get(row.group) or (TRAIN if TRAIN in known else drawn)
            if split == HOLDOUT and row.content in self._judged:
                self.merged.set_aside += 1
            elif known - {split}:
                self.merged.leaks += 1
            else:
                self._note(row, split)
                self._corrections[split].append(row)

    def merge(self) -> Merged:
        """Both splits. A holdout row with a label that no train row has is quarantined: nothing could learn to answer it."""
        merged = self.merged
        merged.train = self._settle(TRAIN, [*self.base, *self._corrections[TRAIN]])
        known = {label for row in merged.train for label in self._task_cls.labels_in(row.example)}
        rows = [*merged.holdout, *self._settle(HOLDOUT, self._corrections[HOLDOUT])]
        merged.holdout = []
        for row in rows:
            unknown = [label for label in self._task_cls.labels_in(row.example) if label not in known]
            if unknown:
                merged.quarantine(row.where, f"it is for the holdout, and no train row has the label {unknown[0]!r}")
                merged.waiting.append(row)
            else:
                merged.holdout.append(row)
        return merged

    def _settle(self, split: str, rows: Sequence[SourcedRow]) -> list[SourcedRow]:
        """One row for each content: the first one that gives the right answer, in the place of the content's first row."""
        by_content: dict[str, list[SourcedRow]] = {}
        for row in rows:
            by_content.setdefault(row.content, []).append(row)
        return [self._settled(split, same) for same in by_content.values()]

    def _settled(self, split: str, rows: Sequence[SourcedRow]) -> SourcedRow:
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
                merged.conflicts.append(_conflict(self._task_cls, split, kept, rule, votes))
        return kept


def _conflict(task_cls: type[AnyTask], split: str, kept: SourcedRow, rule: str, votes: Mapping[str, int]) -> dict[str, Any]:
    """One contradiction for the manifest: which answers were given how often, which one stayed, and by what rule."""
    return {
        "text": shown(task_cls.content(kept.example)),
        "side": split,
        "answers": [{"answer": json.loads(answer), "rows": count} for answer, count in votes.items()],
        "kept": json.loads(kept.answer),
        "by": rule,
    }


def _by_label(task_cls: type[AnyTask], rows: Sequence[SourcedRow], source: str) -> dict[str, int]:
    counts = Counter(label for row in rows if row.source == source for label in labels_of(task_cls, row.example))
    return dict(sorted(counts.items()))
