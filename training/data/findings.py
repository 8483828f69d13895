"""What is said about data, in files or frozen: what they hold, and what is wrong or odd about them. Read `DataReport` first."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from baton.tasks import AnyTask
from baton.validation import short_repr
from baton.wording import counted

Level = Literal["error", "warning", "note"]
LEVELS: Sequence[Level] = ("error", "warning", "note")
"""An error stops a run. A warning costs quality, or says that something may be misread. A note is for information."""

EXAMPLES = 3
"""Places that a finding names."""

FEW_ROWS = 5
"""A label with fewer rows than this is hard to learn, and harder to judge."""

TYPING_ERROR = 0.85
"""Similarity, from 0 to 1 (``difflib``), from which on a rare label may be a typing error: one letter of seven, about."""

LABELS_NAMED = 10
"""Labels that a finding names."""

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
    """What one split holds."""

    name: str
    """``train`` or ``holdout``."""
    source: str
    """Where its rows come from."""
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
    """What data hold, and what to look at, the most serious first."""

    task: str
    splits: Sequence[Split]
    findings: Sequence[Finding]

    @property
    def usable(self) -> bool:
        """Whether a run could train on the data."""
        return all(finding.level != "error" for finding in self.findings)


@dataclass
class Findings:
    """Collects findings."""

    found: list[Finding] = field(default_factory=list)

    def add(self, level: Level, what: str, places: Sequence[str] = (), *, rows: int | None = None) -> None:
        """Add a finding about the rows at ``places``, or about a number of ``rows``, of which these are the first."""
        number = len(places) if rows is None else rows
        self.found.append(Finding(level=level, what=what, rows=number, examples=places[:EXAMPLES]))

    def add_remarks(self, remarks: Iterable[str]) -> None:
        """Add what the reader remarked (`Remarks`)."""
        for remark in remarks:
            self.add("note" if ": not read: " in remark else "warning", remark)

    def add_rare(self, rows_of_labels: Mapping[str, int]) -> None:
        """Add a finding if labels have few rows in train."""
        rare = [label for label, count in rows_of_labels.items() if count < FEW_ROWS]
        if not rare:
            return
        frequent = [label for label, count in rows_of_labels.items() if count >= FEW_ROWS]
        named = [f"{label!r} ({rows_of_labels[label]}{_perhaps(label, frequent)})" for label in rare[:LABELS_NAMED]]
        few = f"{counted(len(rare), 'label')} with fewer than {FEW_ROWS} rows in train"
        self.add("warning", f"{few}: {', '.join(named)}")

    def sorted(self) -> list[Finding]:
        """Return the findings, the most serious first."""
        return sorted(self.found, key=lambda finding: LEVELS.index(finding.level))


@dataclass(frozen=True, kw_only=True)
class Look:
    """How texts are looked at."""

    task_cls: type[AnyTask]
    lengths: Callable[[Sequence[str]], Sequence[int]] | None
    """Returns the lengths of texts in tokens, special ones included; None: nothing is said about lengths."""
    max_length: int
    """Tokens that the model reads at once."""

    def at(
        self,
        name: str,
        texts: Sequence[tuple[str, str]],
        findings: Findings,
        *,
        source: str,
        rows: int,
        labels: Mapping[str, int],
    ) -> Split:
        """Return what a split holds, and add what is odd about its texts to ``findings``.

        Args:
            texts: place and content of each row to look at, which may be fewer than ``rows``.
        """
        contents = [text for _, text in texts]
        tokens = None if self.lengths is None else _spread(self.lengths(contents), self.max_length)
        for what, found in ODD_TEXTS.items():
            if places := [f"{where}: {short_repr(text)}" for where, text in texts if found(text)]:
                findings.add("warning", f"{name}: {what}", places)
        if tokens is not None and tokens["cut"] > MUCH_CUT and self.task_cls.long_texts[0] == "truncate":
            findings.add(
                "warning",
                f"{name}: {tokens['cut']:.0%} of the texts have more than {self.max_length} tokens, and only their "
                "beginnings are read; set training.max_length, or training.long_text: windows",
            )
        return Split(name=name, source=source, rows=rows, labels=labels, scripts=_scripts(contents), tokens=tokens)


def _perhaps(label: str, frequent: Sequence[str]) -> str:
    """Return which frequent label a rare one may be a typing error of; empty if it is like none."""
    like = difflib.get_close_matches(label, frequent, n=1, cutoff=TYPING_ERROR)
    return f", perhaps {like[0]!r}" if like else ""


def _spread(lengths: Sequence[int], max_length: int) -> dict[str, float]:
    counts = np.array(lengths)
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
