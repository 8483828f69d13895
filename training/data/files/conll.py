"""Files in columns, one token a line, as in CoNLL's shared tasks and UNER → rows of tokens and tags. Read `rows` first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.errors import DataError
from baton.tasks.rows import Row
from baton.text.tags import TAG
from baton.validation import short_repr
from baton.wording import counted
from training.data.files import decoding

NUMBER = re.compile(r"\d+([-.]\d+)?")
"""The number of a token in its sentence, or of several that are written as one."""

DOCUMENT = "-DOCSTART-"
"""The token of CoNLL-2003's lines between documents."""


def rows(path: Path) -> Iterator[Row]:
    """Yield one row of ``tokens`` and ``tags`` for each sentence; blank lines end sentences.

    Tags are the last column in which every value is a tag (``O``, ``B-PER``); further columns are called ``column 2`` and so
    on. Tokens are the first column, or the second if the first numbers them. Lines that begin with ``#`` are comments unless
    they have the columns of a token and end with a tag.

    Raises:
        DataError: a line has not as many columns as the others, no column holds tags, or the last tags have a mistake.
    """
    sentences = list(_sentences(path))
    if not sentences:
        raise DataError(f"{path}: the file holds no rows")
    width = len(sentences[0].tokens[0])
    lines = [pair for one in sentences for pair in zip(one.lines, one.tokens, strict=True)]
    for line, token in lines:
        if len(token) != width:
            raise DataError(f"{path} line {line}: {counted(len(token), 'column')}, the first token has {width}")
    tags = _tag_column(path, lines, width)
    word = int(width > 2 and tags > 1 and all(NUMBER.fullmatch(token[0]) for _, token in lines))
    others = {f"column {column + 1}": column for column in range(width) if column not in (word, tags)}
    for one in sentences:
        values = {"tokens": [token[word] for token in one.tokens], "tags": [token[tags] for token in one.tokens]}
        unread = {name: [token[column] for token in one.tokens] for name, column in others.items()}
        yield Row(where=f"{path} line {one.lines[0]}", values={**values, **unread})


def _tag_column(path: Path, lines: Sequence[tuple[int, Sequence[str]]], width: int) -> int:
    """Return the index of the last column that holds tags. Raises ``DataError`` if one to its right nearly does."""
    tags = [column for column in range(1, width) if all(TAG.fullmatch(token[column]) for _, token in lines)]
    if not tags:
        raise DataError(f"{path}: no column holds a tag like O or B-PER in every line; the first is {short_repr(lines[0][1])}")
    for column in range(tags[-1] + 1, width):
        if any(TAG.fullmatch(token[column]) for _, token in lines):
            line, token = next((line, token) for line, token in lines if not TAG.fullmatch(token[column]))
            raise DataError(
                f"{path} line {line}: column {column + 1} holds tags, and here {token[column]!r}; allowed: O, or B-, I-, E-, "
                "S-, L- or U- with a type, for example B-PER"
            )
    return tags[-1]


@dataclass(frozen=True, kw_only=True)
class _Sentence:
    lines: list[int]
    """Number of the line of each token, from 1."""
    tokens: list[Sequence[str]]
    """Columns of each token."""


def _sentences(path: Path) -> Iterator[_Sentence]:
    width = next((len(_columns(line)) for line in decoding.lines(path) if line.strip() and line[0] != "#"), 0)
    sentence = _Sentence(lines=[], tokens=[])
    for number, line in enumerate(decoding.lines(path), start=1):
        columns = _columns(line)
        if line.startswith("#") and not (len(columns) == width and TAG.fullmatch(columns[-1])):
            continue
        if columns and columns[0] != DOCUMENT:
            sentence.lines.append(number)
            sentence.tokens.append(columns)
        elif sentence.tokens:
            yield sentence
            sentence = _Sentence(lines=[], tokens=[])
    if sentence.tokens:
        yield sentence


def _columns(line: str) -> list[str]:
    text = line.rstrip("\r\n")
    return text.split("\t") if "\t" in text.strip() else text.split()
