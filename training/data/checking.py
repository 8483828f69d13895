"""Looks at data files before anything trains on them: what they hold, and what is wrong or odd about them. Read `check` first.

Knows neither feedback nor the registry: a run merges these files with both (`training.data.datasets`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from baton.artifacts.frozen import HOLDOUT, TRAIN
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.validation import short_repr
from baton.wording import counted
from training.data.marks import marker
from training.data.remarks import Remarks, look_alikes
from training.data.sourced_rows import BASE, SourcedRow, sourced
from training.data.sources import located, read

Level = Literal["error", "warning", "note"]
LEVELS: Sequence[Level] = ("error", "warning", "note")
"""An error stops a run. A warning costs quality, or says that something may be misread. A note is for information."""

EXAMPLES = 3
"""Places that a finding names."""

FEW_ROWS = 5
"""A label with fewer rows than this is hard to learn, and harder to judge."""

MUCH_CUT = 0.05
"""Share of texts that are longer than ``max_length`` from which on it is a warning."""

ODD_TEXTS: Mapping[str, Callable[[str], object]] = {
    "replacement characters, left by a wrong encoding": re.compile("\ufffd").search,
    "UTF-8 that was read as Windows-1252": re.compile("[ÃÂ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€[™œ\x9d“”¦]").search,
    "HTML": re.compile(
        r"</?(?:p|br|div|span|a|b|i|li|ul|td|tr|html|body)\b[^<>]*>|&(?:amp|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE
    ).search,
    "control characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search,
    "a placeholder instead of a text": re.compile(
        r"\W*(?:n/?a|null|none|nan|todo|tbd|test|xxx+|#ref!|#n/a|#value!)\W*", re.IGNORECASE
    ).fullmatch,
    "neither a letter nor a digit": re.compile(r"[\W_]+").fullmatch,
}
"""What is odd about a text, and how it is found."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to look at."""

    level: Level
    what: str
    rows: int = 0
    """How many rows it concerns; 0 if it is not about rows."""
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Split:
    """What one file holds."""

    name: str
    """``train`` or ``holdout``."""
    source: str
    rows: int
    labels: Mapping[str, int]
    """Rows by label, the most frequent first."""
    scripts: Mapping[str, float]
    """Share of the letters by script, the most frequent first."""
    tokens: Mapping[str, float] | None
    """Lengths in tokens of the base model: ``median``, ``p95``, ``max``, and ``cut``, the share of texts longer than
    ``max_length``. None without a tokenizer."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The result of `check`."""

    task: str
    splits: Sequence[Split]
    findings: Sequence[Finding]

    @property
    def usable(self) -> bool:
        """Whether a run could train on the data."""
        return all(finding.level != "error" for finding in self.findings)


@dataclass
class _Findings:
    found: list[Finding] = field(default_factory=list)

    def add(self, level: Level, what: str, places: Sequence[str] = ()) -> None:
        self.found.append(Finding(level=level, what=what, rows=len(places), examples=places[:EXAMPLES]))

    def sorted(self) -> list[Finding]:
        return sorted(self.found, key=lambda finding: LEVELS.index(finding.level))


def check(
    task_cls: type[AnyTask],
    data: DataSettings,
    *,
    lengths: Callable[[Sequence[str]], Sequence[int]] | None,
    max_length: int,
    min_rows: int = 0,
) -> DataReport:
    """Read the files of ``data`` and look at them.

    Args:
        lengths: returns the lengths of texts in tokens, special ones included; None: nothing is said about lengths.
        max_length: tokens that the model reads at once.
        min_rows: how many different texts the gate wants in the holdout.

    Files that cannot be read make an error among the findings, with the message of a run.
    """
    findings, remarks, splits = _Findings(), Remarks(), {}
    sources = {TRAIN: (data.train, "train"), HOLDOUT: (data.holdout if isinstance(data.holdout, str) else None, "test")}
    for name, (source, hub_split) in sources.items():
        if source is None:
            continue
        mark = marker(data, for_holdout=name == HOLDOUT or not isinstance(data.holdout, str))
        marked = [*filter(None, [data.group_column]), *data.slices]
        try:
            examples = located(task_cls, data.fields, read(source, hub_split), source, mark, remarks=remarks, marked=marked)
        except DataError as error:
            findings.add("error", str(error))
            continue
        splits[name] = (source, sourced(task_cls, BASE, examples))
    _check_holdout(findings, data, {name: len(rows) for name, (_, rows) in splits.items()}, min_rows)
    for remark in remarks:
        findings.add("note" if ": not read: " in remark else "warning", remark)
    described = []
    for name, (source, rows) in splits.items():
        split = Split(
            name=name,
            source=source,
            rows=len(rows),
            labels=dict(_label_rows(task_cls, rows).most_common()),
            scripts=_scripts(task_cls.content(row.example) for row in rows),
            tokens=_lengths([task_cls.content(row.example) for row in rows], lengths, max_length),
        )
        _check_rows(task_cls, name, rows, findings)
        _check_lengths(task_cls, split, findings, max_length)
        described.append(split)
    _check_labels(task_cls, {name: rows for name, (_, rows) in splits.items()}, findings)
    if len(splits) == len((TRAIN, HOLDOUT)):
        _check_leaks(splits[TRAIN][1], splits[HOLDOUT][1], findings)
    return DataReport(task=task_cls.name, splits=described, findings=findings.sorted())


def _check_holdout(findings: _Findings, data: DataSettings, rows: Mapping[str, int], min_rows: int) -> None:
    """Warn of a holdout that is too small to judge any version: people hear of it before they have trained one."""
    if isinstance(data.holdout, float):
        held_out, whence = round(data.holdout * rows.get(TRAIN, 0)), f", {data.holdout:g} of {rows.get(TRAIN, 0):,}"
    else:
        held_out, whence = rows.get(HOLDOUT, min_rows), ""
    if TRAIN in rows and held_out < min_rows:
        findings.add(
            "warning",
            f"the holdout gets {counted(held_out, 'row')}{whence}, and the gate asks for {min_rows} texts that differ "
            "(gate.min_rows): no version can take over. Add rows, or hold out a larger part (data.holdout)",
        )


def _check_rows(task_cls: type[AnyTask], name: str, rows: Sequence[SourcedRow], findings: _Findings) -> None:
    by_content: dict[str, list[SourcedRow]] = {}
    for row in rows:
        by_content.setdefault(row.content, []).append(row)
    repeated, contradicting = [], []
    for same in by_content.values():
        if len({row.answer for row in same}) > 1:
            contradicting.append(f"{', '.join(f'{row.where} {row.answer}' for row in same[:EXAMPLES])}")
        repeated += [f"{row.where} repeats {same[0].where}" for row in same[1:] if row.answer == same[0].answer]
    if contradicting:
        findings.add("warning", f"{name}: texts with different answers (data.conflicts chooses one)", contradicting)
    if repeated:
        findings.add("note", f"{name}: repeated rows, which count once", repeated)
    if limits := task_cls.limits([row.example for row in rows]):
        findings.add("warning", f"{name}: {limits}")
    for what, found in ODD_TEXTS.items():
        texts = ((row, task_cls.content(row.example)) for row in rows)
        if places := [f"{row.where}: {short_repr(text)}" for row, text in texts if found(text)]:
            findings.add("warning", f"{name}: {what}", places)


def _check_lengths(task_cls: type[AnyTask], split: Split, findings: _Findings, max_length: int) -> None:
    if split.tokens is not None and split.tokens["cut"] > MUCH_CUT and task_cls.long_texts[0] == "truncate":
        findings.add(
            "warning",
            f"{split.name}: {split.tokens['cut']:.0%} of the texts have more than {max_length} tokens, and only their "
            "beginnings are read; set training.max_length, or training.long_text: windows",
        )


def _check_labels(task_cls: type[AnyTask], splits: Mapping[str, Sequence[SourcedRow]], findings: _Findings) -> None:
    counts = {name: _label_rows(task_cls, rows) for name, rows in splits.items()}
    for remark in look_alikes(sum(counts.values(), Counter())):
        findings.add("warning", remark)
    if TRAIN not in counts:
        return
    if rare := [f"{label!r} ({count})" for label, count in counts[TRAIN].items() if count < FEW_ROWS]:
        findings.add(
            "warning", f"{counted(len(rare), 'label')} with fewer than {FEW_ROWS} rows in train: {', '.join(rare[:10])}"
        )
    if unknown := [label for label in counts.get(HOLDOUT, ()) if label not in counts[TRAIN]]:
        findings.add("error", f"the holdout has labels that train lacks: {', '.join(map(repr, unknown[:10]))}")
    try:
        task_cls.labels_of([row.example for row in splits[TRAIN]])
    except DataError as error:
        findings.add("error", str(error))


def _label_rows(task_cls: type[AnyTask], rows: Sequence[SourcedRow]) -> Counter[str]:
    return Counter(label for row in rows for label in task_cls.labels_in(row.example))


def _check_leaks(train: Sequence[SourcedRow], holdout: Sequence[SourcedRow], findings: _Findings) -> None:
    judged = {row.group: row.where for row in holdout}
    if leaks := [f"{row.where} is {judged[row.group]}" for row in train if row.group in judged]:
        findings.add("warning", "train rows whose text is in the holdout, too: a run leaves them out", leaks)


def _lengths(
    texts: Sequence[str], lengths: Callable[[Sequence[str]], Sequence[int]] | None, max_length: int
) -> dict[str, float] | None:
    if lengths is None:
        return None
    counts = np.array(lengths(texts))
    return {
        "median": float(np.median(counts)),
        "p95": float(np.percentile(counts, 95)),
        "max": float(counts.max()),
        "cut": float(np.mean(counts > max_length)),
    }


def _scripts(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of each script in the letters of texts, by the first word of the characters' Unicode names."""
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(text)
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0].title()] += count
    total = sum(scripts.values())
    return {script: count / total for script, count in scripts.most_common()}
