"""Files in columns, one token a line, as in CoNLL's shared tasks and UNER → rows of tokens and tags. Read `rows` first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.errors import DataError
from baton.tasks.base import short_repr
from baton.tasks.rows import Row
from baton.text.tags import TAG
from baton.wording import counted
from training.data.files import decoding

DOCUMENT = "-DOCSTART-"
"""The token of CoNLL-2003's lines between documents."""


def rows(path: Path) -> Iterator[Row]:
    """Yield one row of ``tokens`` and ``tags`` for each sentence; blank lines end sentences.

    Tags are the last column in which every value is a tag (``O``, ``B-PER``). Tokens are the first column, or the second if the
    first numbers them. Lines that begin with ``#`` before a sentence's first token are comments.

    Raises:
        DataError: a line has not as many columns as the others, or no column holds tags.
    """
    sentences = list(_sentences(path))
    if not sentences:
        raise DataError(f"{path}: the file holds no rows")
    width = len(sentences[0].tokens[0])
    for sentence in sentences:
        for line, token in zip(sentence.lines, sentence.tokens, strict=True):
            if len(token) != width:
                raise DataError(f"{path} line {line}: {counted(len(token), 'column')}, the first token has {width}")
    tagged = [
        column for column in range(1, width) if all(TAG.fullmatch(token[column]) for one in sentences for token in one.tokens)
    ]
    if not tagged:
        raise DataError(
            f"{path}: no column holds a tag like O or B-PER in every line; the first is {short_repr(sentences[0].tokens[0])}"
        )
    numbered = width > 2 and all(
        [token[0] for token in one.tokens] == [str(number + 1) for number in range(len(one.tokens))] for one in sentences
    )
    for one in sentences:
        tokens = [token[1 if numbered else 0] for token in one.tokens]
        yield Row(
            where=f"{path} line {one.lines[0]}", values={"tokens": tokens, "tags": [token[tagged[-1]] for token in one.tokens]}
        )


@dataclass(frozen=True, kw_only=True)
class _Sentence:
    lines: list[int]
    """Number of the line of each token, from 1."""
    tokens: list[Sequence[str]]
    """Columns of each token."""


def _sentences(path: Path) -> Iterator[_Sentence]:
    sentence = _Sentence(lines=[], tokens=[])
    for number, raw in enumerate(decoding.lines(path), start=1):
        line = raw.rstrip("\r\n")
        columns = line.split("\t") if "\t" in line else line.split()
        if line.strip() and not (line.startswith("#") and not sentence.tokens and not _is_token(columns)):
            if columns[0] != DOCUMENT:
                sentence.lines.append(number)
                sentence.tokens.append(columns)
        elif sentence.tokens:
            yield sentence
            sentence = _Sentence(lines=[], tokens=[])
    if sentence.tokens:
        yield sentence


def _is_token(columns: Sequence[str]) -> bool:
    """Tell whether a line that begins with ``#`` is the token ``#`` with its tag."""
    return columns[0] == "#" and len(columns) > 1 and TAG.fullmatch(columns[-1]) is not None
