"""JSON Lines, JSON arrays, and the documents that hold rows deeper inside: SQuAD's own files. Read `rows` first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from baton.errors import DataError
from baton.tasks.rows import Row
from baton.validation import short_repr
from training.data.files import decoding

ROWS_KEY = "data"
"""The key of a document under which SQuAD's files, and those of other tools, list what they hold."""

ROW_KEYS = {"text", "tokens", "question"}
"""Keys that tell a row from such a document."""


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file: one JSON object on each line, or one JSON array of objects, or a document that lists them.

    A pair of a text and an object, as spaCy's training data have it, is a row whose ``text`` is the first.

    Raises:
        DataError: with the line, or the number of the row, where the file is not JSON, holds no objects, or repeats a key.
    """
    lines = decoding.lines(path)
    first = next((line for line in lines if line.strip()), "")
    if _is_whole(first, path):
        yield from _document(path, _parsed("".join(decoding.lines(path)), str(path)))
        return
    for number, line in enumerate(decoding.lines(path), start=1):
        if line.strip():
            yield from _rows_in(_parsed(line, f"{path} line {number}"), f"{path} line {number}")


def _is_whole(first: str, path: Path) -> bool:
    """Tell whether the whole file is one JSON value: its first line is none, or a list that is not a pair of spaCy's."""
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        opens = first.lstrip()[:1]
        return opens == "[" or (opens == "{" and first.strip() == "{")
    return isinstance(value, list) and not _is_pair(value)


def _document(path: Path, value: Any) -> Iterator[Row]:
    if not isinstance(value, list):
        yield from _rows_in(value, str(path))
        return
    for number, item in enumerate(value, start=1):
        yield from _rows_in(item, f"{path} row {number}")


def _rows_in(value: Any, where: str) -> Iterator[Row]:
    """Yield the rows that one JSON value stands for: itself if it is an object, those that it lists, or a pair as an object."""
    if _is_pair(value):
        yield Row(where=where, values={**value[1], "text": value[0]})
    elif not isinstance(value, dict):
        raise DataError(f"{where}: a JSON object is expected, not {short_repr(value)}")
    elif isinstance(value.get(ROWS_KEY), list) and not value.keys() & ROW_KEYS:
        for number, item in enumerate(value[ROWS_KEY], start=1):
            if not isinstance(item, dict):
                raise DataError(f"{where}, {ROWS_KEY} {number}: a JSON object is expected, not {short_repr(item)}")
            inside = f"{where}, {ROWS_KEY} {number}"
            yield from _questions(item, inside) if "paragraphs" in item else [Row(where=inside, values=item)]
    elif value and all(isinstance(item, dict) and item and all(map(str.isdecimal, item)) for item in value.values()):
        raise DataError(f"{where}: a table by columns ({short_repr([*value])}); write it by rows, in pandas: orient='records'")
    else:
        yield Row(where=where, values=value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def _questions(article: Mapping[str, Any], where: str) -> Iterator[Row]:
    """Yield the questions of an article of SQuAD's own files as rows, each with its context and the article's title."""
    try:
        for number, paragraph in enumerate(article["paragraphs"], start=1):
            for place, question in enumerate(paragraph["qas"], start=1):
                values = {**question, "context": paragraph["context"], "title": article.get("title")}
                yield Row(where=f"{where}, paragraph {number}, question {place}", values=values)
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: not an article in the form of SQuAD's files: {type(error).__name__}: {error}") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except _RepeatedKey as error:
        raise DataError(f"{where}: the key {error.key!r} stands there twice, with different values") from None
    except json.JSONDecodeError as error:
        line = f" of line {error.lineno}" if error.lineno > 1 else ""
        raise DataError(f"{where}: not valid JSON: {error.msg} at character {error.colno}{line}") from error
    except RecursionError as error:
        raise DataError(f"{where}: not valid JSON: nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{where}: not valid JSON: {error}") from error


class _RepeatedKey(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if values[key] != value:
                raise _RepeatedKey(key)
    return values
