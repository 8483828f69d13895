"""Base rows and feedback → the two splits of a data set, with an account of every row that went in.

Knows the ledger (the split that each text has had before) as a mapping. Knows neither files, nor the storage, nor the registry.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from baton.artifacts.frozen import HOLDOUT, SPLITS, TRAIN, labels_of, shown
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.text.masks import MASK, remainder
from baton.text.normal_form import fingerprint, hash_fraction, normalise
from training.data.splits import held_groups

Source = Literal["base", "feedback"]
BASE: Source = "base"
FEEDBACK: Source = "feedback"

LISTED = 20
"""Number of quarantined rows and of conflicts that a manifest lists. All are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedRow:
    """One example, with everything that its split depends on."""

    example: Any
    source: Source
    where: str
    """Its place for users: ``data/train.jsonl line 7``, ``feedback 12``."""
    content: str
    """Its normalised text. Rows with the same content are duplicates or conflicts."""
    group: str
    """Fingerprint of the text that decides its split (`Task.group`). All rows of a group are in one split."""
    masked_group: str
    """Fingerprint of what masks leave of that text. A masked row may be any text with the same ``masked_group``."""
    masked: bool
    """Whether parts of that text are hidden by masks."""
    answer: str
    """Its answer as JSON."""


@dataclass(frozen=True, kw_only=True)
class BaseRows:
    """The rows of the configured data, before they have a split."""

    train: Sequence[SourcedRow]
    """The rows of the train file; of the only file if there is no holdout file."""
    holdout: Sequence[SourcedRow] | None
    """The rows of the holdout file; None if a share of ``train`` is held out."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Both splits, and an account of all rows that are in neither."""

    train: Sequence[SourcedRow]
    holdout: Sequence[SourcedRow]
    awaiting_label: Sequence[SourcedRow]
    """Rows of the holdout in quarantine until a train row has their label."""
    leaks: int
    """Rows left out because their text is, or may be, in the other split, now or earlier."""
    duplicates: int
    """Rows left out because an earlier one has the same text and the same answer."""
    set_aside: int
    """Feedback rows on texts of the base holdout, left out."""
    quarantined: Sequence[Mapping[str, str]]
    """Rows that cannot be used: ``where`` and ``reason``."""
    contradicted_texts: int
    """Texts that had different answers in one split."""
    contradicted_rows: int
    """Rows left out because another answer to their text was kept."""
    conflicts: list[dict[str, Any]]
    """The first contradicted texts, with their answers, for the manifest."""

    def splits(self) -> dict[str, str]:
        """Return the split of each group, for the ledger.

        Rows in quarantine until train has their label count as holdout. If their split were drawn again the next time, the same
        data could give another version.
        """
        held = [*self.holdout, *self.awaiting_label]
        assert {row.group for row in self.train}.isdisjoint(row.group for row in held), "a text is in both splits"
        return {
            key: split
            for split, rows in ((TRAIN, self.train), (HOLDOUT, held))
            for row in rows
            for key in _ledger_keys(row, split)
        }

    def counts(self, task_cls: type[AnyTask]) -> dict[str, dict[str, dict[str, int]]]:
        """Return the number of rows by split, source and label."""
        rows = dict(zip(SPLITS, (self.train, self.holdout), strict=True))
        return {split: {source: _by_label(task_cls, rows[split], source) for source in (BASE, FEEDBACK)} for split in SPLITS}


def sourced(
    task_cls: type[AnyTask], source: Source, located: Iterable[tuple[str, Any]], redact: Sequence[str] = ()
) -> list[SourcedRow]:
    """Return the examples of one source as rows.

    Args:
        located: (where, example) pairs.
        redact: the patterns that the prediction log masks. Without any, the mask character is a character like any other.
    """
    unmasked_part = remainder(redact)
    rows = []
    for where, example in located:
        group = task_cls.group(example)
        row = SourcedRow(
            example=example,
            source=source,
            where=where,
            content=normalise(task_cls.content(example)),
            group=fingerprint(group),
            # the NUL keeps it apart from the fingerprint of any whole text
            masked_group=fingerprint(f"\0{unmasked_part(group)}" if redact else group),
            masked=bool(redact) and MASK in group,
            answer=json.dumps(task_cls.answer_of(example), ensure_ascii=False, sort_keys=True),
        )
        rows.append(row)
    return rows


def merge(
    task_cls: type[AnyTask],
    data: DataSettings,
    base: BaseRows,
    feedback: Sequence[SourcedRow],
    ledger: Mapping[str, str],
    *,
    rejected: Sequence[Mapping[str, str]] = (),
) -> Merged:
    """Assign base rows and feedback to train and holdout, and keep one row for each text and answer.

    A group that the ledger knows never changes its split. Feedback never changes a row of the base holdout. The table in
    docs/concepts.md lists what becomes of each row.

    Args:
        feedback: oldest first.
        ledger: fingerprint of a group → the split it has had in earlier data sets.
        rejected: quarantine entries (``where``, ``reason``) of feedback that the task does not accept.

    Raises:
        DataError: the base rows cannot be used together, whatever feedback and ledger contain: train and holdout file have the
            same texts, or a new base row of the holdout has a label that no base row of train has.
    """
    if base.holdout is not None:
        _check_files(task_cls, data, base.train, base.holdout)
    merger = _Merger(task_cls, data, ledger, rejected)
    merger.record_known_splits([*base.train, *(base.holdout or ()), *feedback])
    if base.holdout is not None:
        merger.add_base(base.train, base.holdout)
    else:
        assert isinstance(data.holdout, float)
        merger.add_unsplit(base.train, data.holdout)
        _check_labels(task_cls, merger.base_train, [row for row in merger.base_holdout if row.group not in ledger])
    merger.add_feedback(feedback)
    return merger.merged()


class _Merger:
    """The state of one `merge`, which calls each method once, in the order below."""

    def __init__(
        self, task_cls: type[AnyTask], data: DataSettings, ledger: Mapping[str, str], rejected: Sequence[Mapping[str, str]]
    ) -> None:
        self._task_cls, self._data, self._ledger = task_cls, data, ledger
        self._splits: dict[str, str] = {}
        """Split by `_ledger_keys`, as far as it is known in this merge."""
        self.base_train: list[SourcedRow] = []
        self.base_holdout: list[SourcedRow] = []
        self._base_holdout_contents: set[str] = set()
        self._feedback: dict[str, list[SourcedRow]] = {split: [] for split in SPLITS}
        self._leaks = 0
        self._duplicates = 0
        self._set_aside = 0
        self._quarantined = list(rejected)
        self._contradicted_texts = 0
        self._contradicted_rows = 0
        self._conflicts: list[dict[str, Any]] = []

    def record_known_splits(self, rows: Iterable[SourcedRow]) -> None:
        """Record the splits of rows that the ledger knows, also under the `masked_group` that today's patterns give.

        The ledger may have another one: the patterns may have changed since. Rows of train come last, so that train wins where
        rows of both splits have the same `masked_group`.
        """
        for row in sorted(rows, key=lambda row: self._ledger.get(row.group, "")):
            if split := self._ledger.get(row.group):
                self._record_split(row, split)

    def add_base(self, train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]) -> None:
        """Add base rows whose split is known. Those of the holdout come first, so that a text in both is left out of train."""
        for row in holdout:
            self._add_to_holdout(row)
        for row in train:
            self._add_to_train(row)

    def add_unsplit(self, rows: Sequence[SourcedRow], fraction: float) -> None:
        """Add the base rows of a single file, of which a ``fraction`` is held out.

        Groups that the ledger knows keep their split. Masked rows belong to train: the hidden part may decide their answer.
        """
        strata = self._task_cls.strata([row.example for row in rows])
        known = {row.group: TRAIN for row in rows if row.masked or TRAIN in self._known_splits(row)}
        known |= {row.group: self._ledger[row.group] for row in rows if row.group in self._ledger}
        held = held_groups(strata, [row.group for row in rows], fraction, known)
        self.add_base([row for row in rows if row.group not in held], [row for row in rows if row.group in held])

    def add_feedback(self, rows: Iterable[SourcedRow]) -> None:
        """Add feedback, oldest first.

        A text that has no split yet gets one by a stable hash of its group. A masked one goes to train: the hidden part may
        decide its answer. A row whose text may be in the other split is left out.
        """
        for row in rows:
            known = self._known_splits(row)
            split = self._ledger.get(row.group) or self._splits.get(row.group)
            if split is None:
                held_out = hash_fraction(row.group) < self._data.feedback_holdout and not row.masked and TRAIN not in known
                split = HOLDOUT if held_out else TRAIN
            if split == HOLDOUT and row.content in self._base_holdout_contents:
                self._set_aside += 1
            elif known - {split}:
                self._leaks += 1
            else:
                self._record_split(row, split)
                self._feedback[split].append(row)

    def merged(self) -> Merged:
        """Return both splits, each with one row for each content. Rows of the base holdout all stay.

        A holdout row with a label that no train row has is quarantined: no model could learn to answer it.
        """
        train = self._without_repetitions(TRAIN, [*self.base_train, *self._feedback[TRAIN]])
        train_labels = {label for row in train for label in self._task_cls.labels_in(row.example)}
        holdout: list[SourcedRow] = []
        awaiting_label: list[SourcedRow] = []
        for row in [*self.base_holdout, *self._without_repetitions(HOLDOUT, self._feedback[HOLDOUT])]:
            unknown = [label for label in self._task_cls.labels_in(row.example) if label not in train_labels]
            if unknown:
                self._quarantine(row, f"it is for the holdout, and no train row has the label {unknown[0]!r}")
                awaiting_label.append(row)
            else:
                holdout.append(row)
        return Merged(
            train=train,
            holdout=holdout,
            awaiting_label=awaiting_label,
            leaks=self._leaks,
            duplicates=self._duplicates,
            set_aside=self._set_aside,
            quarantined=self._quarantined,
            contradicted_texts=self._contradicted_texts,
            contradicted_rows=self._contradicted_rows,
            conflicts=self._conflicts,
        )

    def _add_to_holdout(self, row: SourcedRow) -> None:
        """Add a base row to the holdout, unless its text was, or may have been, trained on: then it cannot judge."""
        if self._ledger.get(row.group) == TRAIN:
            self._quarantine(row, "its text was in the train split of an earlier data set")
        elif TRAIN in self._known_splits(row):
            self._quarantine(row, "it may be a text that was trained on with parts masked")
        else:
            self._record_split(row, HOLDOUT)
            self._base_holdout_contents.add(row.content)
            self.base_holdout.append(row)

    def _add_to_train(self, row: SourcedRow) -> None:
        """Add a base row to train, unless its text is, was or may be in the holdout: then it is a leak."""
        if HOLDOUT in self._known_splits(row):
            self._leaks += 1
        else:
            self._record_split(row, TRAIN)
            self.base_train.append(row)

    def _known_splits(self, row: SourcedRow) -> set[str]:
        """Return the splits in which a row's text is or ever was, or may be as far as masks let one see.

        A masked row may be any text with the same `masked_group`. A row without masks may be the original of a masked row of
        train. With texts of the holdout it is compared by `group` alone: they are whole, so that a text with the same
        `masked_group` is another one.
        """
        known = self._recorded_splits(row.group)
        possible = self._recorded_splits(row.masked_group)
        if not row.masked:
            possible.discard(HOLDOUT)
        return known | possible

    def _recorded_splits(self, key: str) -> set[str]:
        """Return the splits that the ledger and this merge have recorded for a fingerprint."""
        recorded = (self._ledger.get(key), self._splits.get(key))
        return {split for split in recorded if split is not None}

    def _record_split(self, row: SourcedRow, split: str) -> None:
        for key in _ledger_keys(row, split):
            self._splits[key] = split

    def _quarantine(self, row: SourcedRow, reason: str) -> None:
        self._quarantined.append({"where": row.where, "reason": reason})

    def _without_repetitions(self, split: str, rows: Sequence[SourcedRow]) -> list[SourcedRow]:
        """Return one row for each content, in the order of the contents' first rows. Count the others."""
        by_content: dict[str, list[SourcedRow]] = {}
        for row in rows:
            by_content.setdefault(row.content, []).append(row)
        return [self._kept_row(split, same) for same in by_content.values()]

    def _kept_row(self, split: str, rows: Sequence[SourcedRow]) -> SourcedRow:
        """Return the one of ``rows`` (one content, oldest first) to keep: the first that has the answer to keep."""
        if len(rows) == 1:
            return rows[0]
        votes = Counter(row.answer for row in rows)
        answer, rule = _answer_to_keep(rows, votes, majority=self._data.conflicts == "majority")
        kept = next(row for row in rows if row.answer == answer)
        self._duplicates += votes[answer] - 1
        if len(votes) > 1:
            self._contradicted_texts += 1
            self._contradicted_rows += len(rows) - votes[answer]
            if len(self._conflicts) < LISTED:
                self._conflicts.append(_conflict(self._task_cls, split, kept, rule, votes))
        return kept


def _ledger_keys(row: SourcedRow, split: str) -> tuple[str, ...]:
    """Return the fingerprints under which the ledger records the split of a row.

    The `masked_group` is recorded for rows of the holdout and for masked rows. Two whole texts of train need no comparison.
    """
    return (row.group, row.masked_group) if split == HOLDOUT or row.masked else (row.group,)


def _answer_to_keep(rows: Sequence[SourcedRow], votes: Mapping[str, int], *, majority: bool) -> tuple[str, str]:
    """Return the answer to keep of rows with one content, oldest first, and the rule that chose it: latest or majority.

    The newest of equally frequent answers is chosen by the rule ``latest``.
    """
    if not majority:
        return rows[-1].answer, "latest"
    most = max(votes.values())
    most_frequent = [answer for answer, count in votes.items() if count == most]
    newest = next(row.answer for row in reversed(rows) if row.answer in most_frequent)
    return newest, "majority" if len(most_frequent) == 1 else "latest"


def _conflict(task_cls: type[AnyTask], split: str, kept: SourcedRow, rule: str, votes: Mapping[str, int]) -> dict[str, Any]:
    """Return one conflict for the manifest: how often each answer was given, which one was kept, and by which rule."""
    return {
        "text": shown(task_cls.content(kept.example)),
        "side": split,  # the stored name of the split
        "answers": [{"answer": json.loads(answer), "rows": count} for answer, count in votes.items()],
        "kept": json.loads(kept.answer),
        "by": rule,
    }


def _by_label(task_cls: type[AnyTask], rows: Sequence[SourcedRow], source: Source) -> dict[str, int]:
    counts = Counter(label for row in rows if row.source == source for label in labels_of(task_cls, row.example))
    return dict(sorted(counts.items()))


def _check_files(
    task_cls: type[AnyTask], data: DataSettings, train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]
) -> None:
    """Raise ``DataError`` if the two files cannot be used together, whatever feedback and ledger contain."""
    held = {row.group for row in holdout}
    kept = [row for row in train if row.group not in held]
    if not kept:
        raise DataError(
            f"{data.train}: nothing is left to train on; all {len(train)} row(s) are also in the holdout {data.holdout}"
        )
    _check_labels(task_cls, kept, holdout)


def _check_labels(task_cls: type[AnyTask], train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]) -> None:
    """Raise the task's own ``DataError`` if base rows of the holdout have labels that no base row of train has."""
    known = {label for row in train for label in task_cls.labels_in(row.example)}
    unknown = [row.example for row in holdout if not known.issuperset(task_cls.labels_in(row.example))]
    if unknown:
        task_cls(task_cls.labels_of([row.example for row in train]), max_length=8).check(unknown)
