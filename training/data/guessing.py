"""Guesses what a data file is for: its task and columns. `baton init` and `baton data` say what they guessed.

Nothing that trains guesses: a run reads what `baton.yaml` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from baton.errors import DataError
from baton.tasks import TASKS
from baton.tasks.rows import Row
from baton.text.normal_form import normalise
from training.data.exports import SPANS
from training.data.sources import located, read

TASK_ORDER = ("qa", "ner", "classification", "multi_label", "seq2seq")
"""In which order tasks are tried: each has rows that those before it refuse."""

LOOKED_AT = 500
"""Number of rows that a guess looks at."""

TEXT_NAMES = (
    "text",
    "body",
    "message",
    "utterance",
    "sentence",
    "content",
    "comment",
    "review",
    "query",
    "question",
    "description",
)
LABEL_NAMES = ("label", "intent", "category", "class", "target", "tag", "topic", "sentiment", "type")
"""What people call the columns of a classification, the most telling first."""

COMPARED_WORDS = 60
"""Number of first words of a text that are compared with those of others."""

MOST_LABELS = 0.5
"""A column with more different values than this share of the rows holds no labels."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a file seems to be for."""

    task: str
    fields: Mapping[str, str]
    """``data.fields``: columns that have other names than the task's fields."""
    others: Sequence[str] = ()
    """Other columns that could hold the labels, if none has a name that labels usually have."""


def guess(source: str, columns: Mapping[str, str]) -> Guess:
    """Return the task that the first rows of a file fit, under ``columns`` or else under columns that look like its fields.

    If they fit nothing, maybe one row is broken: then it is the task whose columns the first row has, or else a classification
    under such columns, so that messages are about that row.

    Raises:
        DataError: the file cannot be read.
    """
    rows = list(islice(read(source, "train"), LOOKED_AT))
    columns_found, others = _columns_of_a_classification(rows)
    likely = {**columns_found, **columns}

    def guessed(task: str, fields: Mapping[str, str]) -> Guess:
        renamed = {field: column for field, column in fields.items() if field != column}
        doubtful = "label" in renamed and "label" not in columns
        return Guess(task=task, fields=renamed, others=others if doubtful else ())

    for fields in (columns, likely):
        for task in TASK_ORDER:
            try:
                located(TASKS[task], fields, rows, source)
            except DataError:
                continue
            return guessed(task, fields)
    named = _by_columns(rows[0].values if rows else {})
    if named is None and likely.keys() >= {"text", "label"}:
        return guessed("classification", likely)
    return Guess(task=named or "classification", fields=columns)


def _by_columns(values: Mapping[str, Any]) -> str | None:
    """Return the first task for whose rows no field is missing; None if some is missing for all."""
    if "label" not in values and any(isinstance(values.get(name), list) for name in SPANS):
        return "ner"
    return next((task for task in TASK_ORDER if any(values.keys() >= {*shape} for shape in TASKS[task].row_shapes)), None)


def _columns_of_a_classification(rows: Sequence[Row]) -> tuple[dict[str, str], Sequence[str]]:
    """Return the columns of text and label: by their names, or else the longest texts and the values that these tell best.

    And without a name that tells, the other columns that could be the label's.
    """
    values: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.values.items():
            if isinstance(value, str) and value.strip():
                values.setdefault(name, []).append(value)
    text = _named(TEXT_NAMES, values) or max(
        values, key=lambda name: sum(map(len, values[name])) / len(values[name]), default=None
    )
    kinds = {name: len(set(found)) for name, found in values.items() if name != text}
    few = {name: count for name, count in kinds.items() if 2 <= count <= max(2, MOST_LABELS * len(values[name]))}
    named = _named(LABEL_NAMES, few)
    label = named or max(_by_neighbours(rows, text, few), key=lambda pair: pair[1], default=(None, 0.0))[0]
    others = () if named else tuple(name for name in few if name != label)
    return {field: column for field, column in (("text", text), ("label", label)) if column is not None}, others


def _by_neighbours(rows: Sequence[Row], text: str | None, columns: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Yield for each column how well texts tell its values: how much more often than by chance the texts that share most words
    have the same one (Cohen 1960, «A Coefficient of Agreement for Nominal Scales»). Columns with few values come first.
    """
    words = [set(normalise(str(row.values.get(text or "", ""))).split()[:COMPARED_WORDS]) for row in rows]
    nearest = [_nearest(words, number) for number in range(len(rows))] if len(columns) > 1 else []
    for column in sorted(columns, key=columns.__getitem__):
        values = [row.values.get(column) for row in rows]
        pairs = [(values[one], values[other]) for one, other in enumerate(nearest)]
        chance = sum((count / len(values)) ** 2 for count in Counter(map(str, values)).values())
        agreed = sum(one == other for one, other in pairs) / max(len(pairs), 1)
        yield column, (agreed - chance) / (1 - chance)


def _nearest(words: Sequence[set[str]], number: int) -> int:
    """Return which other text shares most words with the text ``number``, of all that either has (Jaccard)."""
    own = words[number]
    others = ((len(own & other) / len(own | other or {""}), -at) for at, other in enumerate(words) if at != number)
    return -max(others, default=(0.0, -number))[1]


def _named(wanted: Sequence[str], columns: Mapping[str, Any]) -> str | None:
    """Return the first column that has one of the names, whatever their case."""
    by_name = {name.casefold(): name for name in columns}
    return next((by_name[name] for name in wanted if name in by_name), None)
