"""Base rows and feedback → the two splits of a data set, with an account of every row that went in.

Knows the ledger (the split that each text has had before) as a mapping. Knows neither files, nor the storage, nor the registry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from baton.artifacts.frozen import HOLDOUT, SPLITS, TRAIN, labels_of
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.wording import counted
from training.data.settling import Settling
from training.data.sourced_rows import AUDIT, BASE, FEEDBACK, BaseRows, Source, SourcedRow
from training.data.splits import held_groups
from training.data.units import components


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Both splits, and an account of all rows that are in neither."""

    train: Sequence[SourcedRow]
    holdout: Sequence[SourcedRow]
    """The rows that judge: those of the base, then audited requests."""
    corrections: Sequence[SourcedRow]
    """Feedback on texts that are held out but do not judge: nobody audited them. A version's answers to them are reported."""
    held_back: Sequence[SourcedRow]
    """Rows of the holdout in quarantine: no train row has their label, or copies of them have other answers."""
    reserved: Sequence[SourcedRow]
    """Declared train rows: they belong to train although this run may train on others. If they had no split, the next freeze
    could draw it anew."""
    declared_train: Sequence[SourcedRow]
    """The declared train rows as they are in the file, whatever was corrected since. Their labels may judge."""
    leaks: int
    """Rows left out because their text is, or may be, in the other split, now or earlier."""
    duplicates: int
    """Rows left out because an earlier one has the same text and the same answer."""
    set_aside: int
    """Feedback rows on texts that judge, or will once their batch of the audit is complete, left out."""
    waiting: Mapping[str, int]
    """Labels that too few different texts have to become classes, with the number of these texts."""
    over_share: int
    """Feedback rows left out because their sender has more than ``data.max_sender_share`` of the train rows."""
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

        Rows of the holdout in quarantine count as holdout. If their split were drawn again the next time, the same data could
        give another version.
        """
        held = [*self.holdout, *self.held_back, *self.corrections]
        trained = {key for row in self.train for key in row.together}
        assert all(trained.isdisjoint(row.together) for row in held), "a text or a group is in both splits"
        return {
            key: split
            for split, rows in ((TRAIN, [*self.reserved, *self.train]), (HOLDOUT, held))
            for row in rows
            for key in row.ledger_keys(held_out=split == HOLDOUT)
        }

    def senders(self) -> dict[str, int]:
        """Return the number of feedback rows in train by sender; ``""`` for those without an API key."""
        return dict(Counter(row.sender or "" for row in self.train if row.source == FEEDBACK).most_common())

    def counts(self, task_cls: type[AnyTask]) -> dict[str, dict[str, dict[str, int]]]:
        """Return the number of rows by split, source and label."""
        return {
            split: {source: _by_label(task_cls, rows, source) for source in sources}
            for split, rows, sources in ((TRAIN, self.train, (BASE, FEEDBACK)), (HOLDOUT, self.holdout, (BASE, AUDIT)))
        }


def merge(
    task_cls: type[AnyTask],
    data: DataSettings,
    base: BaseRows,
    feedback: Sequence[SourcedRow],
    ledger: Mapping[str, str],
    *,
    audited: Sequence[SourcedRow] = (),
    is_drawn: Callable[[str], bool] = lambda group: False,
    awaited: Collection[str] = (),
    classes: Collection[str] = (),
    rejected: Sequence[Mapping[str, str]] = (),
) -> Merged:
    """Assign base rows, audited requests and feedback to train and holdout, and keep one row for each text and answer.

    A group that the ledger knows never changes its split. Feedback trains and never judges: a correction exists because
    somebody saw an error of the champion. The table in docs/concepts.md lists what becomes of each row.

    Args:
        feedback: oldest first.
        ledger: fingerprint of a group → the split it has had in earlier data sets.
        audited: audited requests whose labels may judge (`baton.quality.audit.complete_batches`).
        is_drawn: tells whether the group with this fingerprint is in the audit. Feedback on it is held out.
        awaited: contents of audited requests that are labelled, but whose batch is not complete.
        classes: labels that ever were classes. Their rows judge, also if no train row has the label any more: whoever sends
            corrections must not take a label out of the judge.
        rejected: quarantine entries (``where``, ``reason``) of feedback that the task does not accept.

    Raises:
        DataError: the base rows cannot be used together, whatever feedback and ledger contain: train and holdout file have the
            same texts, or a new base row of the holdout has a label that no base row of train has.
    """
    if base.holdout is not None:
        _check_files(task_cls, data, base, base.holdout)
    merger = _Merger(task_cls, data, ledger, frozenset(classes), rejected)
    declared = base.train if base.declared is None else base.declared
    unit_of = {row.group: row.marks.unit for row in [*declared, *(base.holdout or ())] if row.marks.unit}
    audited, feedback = (_with_units(rows, unit_of) for rows in (audited, feedback))
    base = replace(base, train=_with_units(base.train, unit_of))  # another file than the declared one may name no groups
    merger.record_known_splits([*base.train, *declared, *(base.holdout or ()), *audited, *feedback])
    if base.holdout is not None:
        held = _held_keys(base.holdout)
        merger.add_base(base.train, base.holdout)
    else:
        assert isinstance(data.holdout, float)
        held = merger.drawn(declared, data.holdout)
        in_train = [row for row in base.train if held.isdisjoint(row.together)] if base.declared is None else base.train
        merger.add_base(in_train, [row for row in declared if not held.isdisjoint(row.together)])
        known = merger.base_train if base.declared is None else [row for row in declared if held.isdisjoint(row.together)]
        _check_labels(task_cls, known, [row for row in merger.base_holdout if row.group not in ledger])
    declared_train = [row for row in declared if held.isdisjoint(row.together)]
    merger.add_audited(audited)
    merger.reserve_for_train(declared_train)
    merger.add_feedback(feedback, is_drawn, awaited)
    return merger.merged(declared_train)


class _Merger:
    """The state of one `merge`, which calls each method once, in the order below."""

    def __init__(
        self,
        task_cls: type[AnyTask],
        data: DataSettings,
        ledger: Mapping[str, str],
        classes: frozenset[str],
        rejected: Sequence[Mapping[str, str]],
    ) -> None:
        self._task_cls, self._ledger = task_cls, ledger
        self._settling = Settling(task_cls=task_cls, data=data, classes=classes, quarantined=list(rejected))
        self._splits: dict[str, str] = {}
        """Split by `GroupKeys.in_ledger`, as far as it is known in this merge."""
        self.base_train: list[SourcedRow] = []
        self.base_holdout: list[SourcedRow] = []
        self._audited: list[SourcedRow] = []
        self._judging_contents: set[str] = set()
        self._reserved: list[SourcedRow] = []
        self._feedback: dict[str, list[SourcedRow]] = {split: [] for split in SPLITS}
        self._leaks = 0
        self._set_aside = 0

    def record_known_splits(self, rows: Iterable[SourcedRow]) -> None:
        """Record the splits of rows that the ledger knows, also under the `masked_group` that today's patterns give.

        The ledger may have another one: the patterns may have changed since. Rows of train come last, so that train wins where
        rows of both splits have the same `masked_group`. What the ledger has recorded for a declared group stays: a correction
        of one of its texts must not take the others out of the holdout.
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

    def drawn(self, rows: Sequence[SourcedRow], fraction: float) -> set[str]:
        """Return the texts and groups of a single file's base rows that are held out: a ``fraction`` of what moves together.

        What the ledger knows keeps its split; where it knows both for rows that move together, they belong to train. Masked
        rows belong to train: the hidden part may decide their answer.
        """
        strata = self._task_cls.strata([row.example for row in rows])
        units = components(row.together for row in rows)
        known = {unit: TRAIN for row, unit in zip(rows, units, strict=True) if row.masked or TRAIN in self._known_splits(row)}
        for row, unit in sorted(zip(rows, units, strict=True), key=lambda pair: self._of_ledger(pair[0])):  # train last
            if split := self._of_ledger(row):
                known[unit] = split
        held = held_groups(strata, units, fraction, known)
        return {key for row, unit in zip(rows, units, strict=True) if unit in held for key in row.together}

    def _of_ledger(self, row: SourcedRow) -> str:
        """Return the split that the ledger has recorded for a row's group, or else for its text; empty if for neither."""
        return next((split for key in reversed(row.together) if (split := self._ledger.get(key))), "")

    def add_audited(self, rows: Iterable[SourcedRow]) -> None:
        """Add audited requests, unless their text judges already, or is or may be one that was trained on."""
        for row in rows:
            if row.content not in self._judging_contents and TRAIN not in self._known_splits(row):
                self._record_split(row, HOLDOUT)
                self._judging_contents.add(row.content)
                self._audited.append(row)

    def reserve_for_train(self, rows: Iterable[SourcedRow]) -> None:
        """Keep the declared train rows out of the holdout, also in a run that trains on other rows."""
        for row in rows:
            if HOLDOUT not in self._known_splits(row):
                self._record_split(row, TRAIN)
                self._reserved.append(row)

    def add_feedback(self, rows: Iterable[SourcedRow], is_drawn: Callable[[str], bool], awaited: Collection[str]) -> None:
        """Add feedback, oldest first.

        A text that has no split yet is held out if the audit has drawn it, also if nobody has audited it so far. A masked one
        goes to train: the hidden part may decide its answer. A row whose text may be in the other split is left out.
        """
        for row in rows:
            known = self._known_splits(row)
            split = self._ledger.get(row.group) or self._splits.get(row.group)
            if split is None:
                held_out = is_drawn(row.group) and not row.masked and TRAIN not in known
                split = HOLDOUT if held_out else TRAIN
            if split == HOLDOUT and (row.content in self._judging_contents or row.content in awaited):
                self._set_aside += 1
            elif known - {split}:
                self._leaks += 1
            else:
                self._record_split(row, split)
                self._feedback[split].append(row)

    def merged(self, declared_train: Sequence[SourcedRow]) -> Merged:
        """Return both splits, each with one row for each content.

        A holdout row with a label that no train row has is quarantined: no model could learn to answer it. Rows of
        ``declared_train`` count as they are in the file: whoever corrects all texts of a label must not take the label out of
        the judge.
        """
        train = self._settling.train([*self.base_train, *self._feedback[TRAIN]])
        train_labels = {label for row in [*train, *declared_train] for label in self._task_cls.labels_in(row.example)}
        train_labels |= self._settling.classes
        holdout: list[SourcedRow] = []
        held_back: list[SourcedRow] = []
        for row in [*self._settling.without_copies(self.base_holdout, held_back), *self._audited]:
            unknown = [label for label in self._task_cls.labels_in(row.example) if label not in train_labels]
            if unknown:
                self._settling.quarantine(row, f"it is for the holdout, and no train row has the label {unknown[0]!r}")
                held_back.append(row)
            else:
                holdout.append(row)
        return Merged(
            train=train,
            holdout=holdout,
            corrections=self._settling.without_repetitions(HOLDOUT, self._feedback[HOLDOUT]),
            held_back=held_back,
            reserved=self._reserved,
            declared_train=declared_train,
            leaks=self._leaks,
            duplicates=self._settling.duplicates,
            set_aside=self._set_aside,
            waiting=self._settling.waiting,
            over_share=self._settling.over_share,
            quarantined=self._settling.quarantined,
            contradicted_texts=self._settling.contradicted_texts,
            contradicted_rows=self._settling.contradicted_rows,
            conflicts=self._settling.conflicts,
        )

    def _add_to_holdout(self, row: SourcedRow) -> None:
        """Add a base row to the holdout, unless its text was, or may have been, trained on: then it cannot judge."""
        if self._ledger.get(row.group) == TRAIN:
            self._settling.quarantine(row, "its text was in the train split of an earlier data set")
        elif row.marks.unit and TRAIN in self._recorded_splits(row.marks.unit):
            self._settling.quarantine(row, "rows of its group (data.fields.group) are, or were, in the train split")
        elif TRAIN in self._known_splits(row):
            self._settling.quarantine(row, "it may be a text that was trained on with parts masked")
        else:
            self._record_split(row, HOLDOUT)
            self._judging_contents.add(row.content)
            self.base_holdout.append(row)

    def _add_to_train(self, row: SourcedRow) -> None:
        """Add a base row to train, unless its text is, was or may be in the holdout: then it is a leak."""
        if HOLDOUT in self._known_splits(row):
            self._leaks += 1
        else:
            self._record_split(row, TRAIN)
            self.base_train.append(row)

    def _known_splits(self, row: SourcedRow) -> set[str]:
        """Return the splits in which a row's text or group is or ever was, or may be as far as masks let one see.

        A masked row may be any text with the same `masked_group`. A row without masks may be the original of a masked row of
        train. With texts of the holdout it is compared by `group` alone: they are whole, so that a text with the same
        `masked_group` is another one.
        """
        known = {split for key in row.together for split in self._recorded_splits(key)}
        possible = self._recorded_splits(row.keys.masked_group)
        if not row.masked:
            possible.discard(HOLDOUT)
        return known | possible

    def _recorded_splits(self, key: str) -> set[str]:
        """Return the splits that the ledger and this merge have recorded for a fingerprint."""
        recorded = (self._ledger.get(key), self._splits.get(key))
        return {split for split in recorded if split is not None}

    def _record_split(self, row: SourcedRow, split: str) -> None:
        for key in row.ledger_keys(held_out=split == HOLDOUT):
            if key not in row.together[1:] or key not in self._ledger:
                self._splits[key] = split


def _by_label(task_cls: type[AnyTask], rows: Sequence[SourcedRow], source: Source) -> dict[str, int]:
    counts = Counter(label for row in rows if row.source == source for label in labels_of(task_cls, row.example))
    return dict(sorted(counts.items()))


def _check_files(task_cls: type[AnyTask], data: DataSettings, base: BaseRows, holdout: Sequence[SourcedRow]) -> None:
    """Raise ``DataError`` if the two files cannot be used together, whatever feedback and ledger contain."""
    held = _held_keys(holdout)

    def left(rows: Sequence[SourcedRow]) -> list[SourcedRow]:
        return [row for row in rows if held.isdisjoint(row.together)]

    if data.train is None:  # versions come from elsewhere: nothing is trained, and the labels of the holdout are the labels
        return
    if not left(base.train):
        raise DataError(
            f"{data.train}: nothing is left to train on; the holdout {data.holdout} also has its "
            f"{counted(len(base.train), 'row')}"
        )
    _check_labels(task_cls, left(base.declared or base.train), holdout)  # a run may name data where none are declared


def _held_keys(holdout: Sequence[SourcedRow]) -> set[str]:
    """Return the fingerprints of the texts and of the groups of a holdout file."""
    return {key for row in holdout for key in row.together}


def _with_units(rows: Sequence[SourcedRow], unit_of: Mapping[str, str]) -> list[SourcedRow]:
    """Return rows, those that name no group with the one that a declared row with the same text names."""
    return [
        replace(row, marks=replace(row.marks, unit=unit_of[row.group]))
        if row.marks.unit is None and row.group in unit_of
        else row
        for row in rows
    ]


def _check_labels(task_cls: type[AnyTask], train: Sequence[SourcedRow], holdout: Sequence[SourcedRow]) -> None:
    """Raise the task's own ``DataError`` if base rows of the holdout have labels that no base row of train has."""
    known = {label for row in train for label in task_cls.labels_in(row.example)}
    unknown = [row.example for row in holdout if not known.issuperset(task_cls.labels_in(row.example))]
    if unknown:
        task_cls(task_cls.labels_of([row.example for row in train]), max_length=8).check(unknown)
