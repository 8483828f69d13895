"""The rows of a split → one row for each text, with an account of all rows that are left out.

Settles repetitions, contradictions, labels that only corrections have, and senders with too large a share.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.artifacts.frozen import shown
from baton.config.model_settings import DataSettings
from baton.tasks import AnyTask
from training.data.sourced_rows import BASE, SourcedRow

LISTED = 20
"""Number of quarantined rows and of conflicts that a manifest lists. All are counted."""


@dataclass(kw_only=True)
class Settling:
    """Settles the rows of both splits, and counts what it leaves out."""

    task_cls: type[AnyTask]
    data: DataSettings
    classes: frozenset[str]
    """Labels that ever were classes."""
    quarantined: list[Mapping[str, str]]
    """Rows that cannot be used: ``where`` and ``reason``."""
    duplicates: int = 0
    """Rows left out because an earlier one has the same text and the same answer."""
    contradicted_texts: int = 0
    """Texts that had different answers in one split."""
    contradicted_rows: int = 0
    """Rows left out because another answer to their text was kept."""
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    """The first contradicted texts, with their answers, for the manifest."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Labels that are too rare to become classes, with the number of different texts that have them."""
    over_share: int = 0
    """Feedback rows left out because their sender has more than ``data.max_sender_share`` of the train rows."""

    def quarantine(self, row: SourcedRow, reason: str) -> None:
        """Record that a row cannot be used."""
        self.quarantined.append({"where": row.where, "reason": reason})

    def train(self, rows: Sequence[SourcedRow]) -> Sequence[SourcedRow]:
        """Return the rows to train on, of all rows of the train split: base rows, then feedback, oldest first."""
        return self.without_repetitions("train", self._within_share(self._with_known_labels(rows)))

    def without_repetitions(self, split: str, rows: Sequence[SourcedRow]) -> list[SourcedRow]:
        """Return one row for each content, in the order of the contents' first rows. Count the others."""
        return [self._kept_row(split, same) for same in _by_content(rows)]

    def _kept_row(self, split: str, rows: Sequence[SourcedRow]) -> SourcedRow:
        """Return the one of ``rows`` (one content, oldest first) to keep: the first that has the answer to keep."""
        if len(rows) == 1:
            return rows[0]
        votes = Counter(row.answer for row in rows)
        answer, rule = self._answer(rows)
        kept = next(row for row in rows if row.answer == answer)
        self.duplicates += votes[answer] - 1
        if len(votes) > 1:
            self.contradicted_texts += 1
            self.contradicted_rows += len(rows) - votes[answer]
            if len(self.conflicts) < LISTED:
                self.conflicts.append(_conflict(self.task_cls, split, kept, rule, votes))
        return kept

    def _answer(self, rows: Sequence[SourcedRow]) -> tuple[str, str]:
        """Return the answer to keep of rows with one content, oldest first, and the rule that chose it: latest or majority.

        The newest of equally frequent answers is chosen by the rule ``latest``.
        """
        if self.data.conflicts != "majority":
            return rows[-1].answer, "latest"
        votes = Counter(row.answer for row in rows)
        most = max(votes.values())
        most_frequent = [answer for answer, count in votes.items() if count == most]
        newest = next(row.answer for row in reversed(rows) if row.answer in most_frequent)
        return newest, "majority" if len(most_frequent) == 1 else "latest"

    def without_copies(self, holdout: Sequence[SourcedRow], held_back: list[SourcedRow]) -> list[SourcedRow]:
        """Return the base rows of the holdout, each text once.

        Copies with different answers cannot judge: quarantine them, and add them to ``held_back``.
        """
        kept = []
        for same in _by_content(holdout):
            if len({row.answer for row in same}) == 1:
                kept.append(same[0])
                self.duplicates += len(same) - 1
            else:
                for row in same:
                    self.quarantine(row, f"its text is {len(same)} times in the holdout, with different answers")
                held_back += same
        return kept

    def _with_known_labels(self, train: Sequence[SourcedRow]) -> list[SourcedRow]:
        """Return the rows without those whose label is new and has fewer texts than ``data.new_label_after``.

        A label is new if only feedback has it and it never was a class. One typing error must not become a class of the next
        version, nor take the place of an earlier answer: conflicts are settled among the rows that are left.
        """
        known = {label for row in train if row.source == BASE for label in self.task_cls.labels_in(row.example)} | self.classes
        texts: dict[str, set[str]] = {}
        for same in _by_content(train):  # a text counts for the label of the answer that is kept, not of outdated ones
            row = next(row for row in same if row.answer == self._answer(same)[0])
            for label in set(self.task_cls.labels_in(row.example)) - known:
                texts.setdefault(label, set()).add(row.group)
        waiting = {label: len(groups) for label, groups in texts.items() if len(groups) < self.data.new_label_after}
        self.waiting = dict(sorted(waiting.items()))
        kept = []
        for row in train:
            rare = next((label for label in self.task_cls.labels_in(row.example) if label in waiting), None)
            if rare is None:
                kept.append(row)
            else:
                self.quarantine(
                    row,
                    f"its label {rare!r} is new, and {waiting[rare]} of the {self.data.new_label_after} texts that make it a "
                    "class have it (data.new_label_after)",
                )
        return kept

    def _within_share(self, rows: Sequence[SourcedRow]) -> Sequence[SourcedRow]:
        """Return the rows with at most ``data.max_sender_share`` of them from one sender: the newest ones of each.

        This comes before conflicts are settled, so that no row of another source makes room for one that is then left out.
        """
        share = self.data.max_sender_share
        if share == 1:
            return rows
        sent = Counter(row.sender for row in rows if row.sender is not None)
        kept = Counter(sent)
        others = len(rows) - sent.total()

        def limit(sender: str) -> int:
            return math.floor(share / (1 - share) * (others + kept.total() - kept[sender]))

        while any(kept[sender] > limit(sender) for sender in kept):  # less from one sender leaves less room for the next
            largest = max(kept, key=kept.__getitem__)
            kept[largest] = limit(largest)
        left_out = sent - kept
        within = []
        for row in rows:  # base rows, then feedback, oldest first
            if row.sender is not None and left_out[row.sender] > 0:
                left_out[row.sender] -= 1
                self.over_share += 1
            else:
                within.append(row)
        return within


def _by_content(rows: Sequence[SourcedRow]) -> list[list[SourcedRow]]:
    """Return the rows of each content, in the order of the contents' first rows."""
    found: dict[str, list[SourcedRow]] = {}
    for row in rows:
        found.setdefault(row.content, []).append(row)
    return list(found.values())


def _conflict(task_cls: type[AnyTask], split: str, kept: SourcedRow, rule: str, votes: Mapping[str, int]) -> dict[str, Any]:
    """Return one conflict for the manifest: how often each answer was given, which one was kept, and by which rule."""
    return {
        "text": shown(task_cls.content(kept.example)),
        "side": split,  # the stored name of the split
        "answers": [{"answer": json.loads(answer), "rows": count} for answer, count in votes.items()],
        "kept": json.loads(kept.answer),
        "by": rule,
    }
