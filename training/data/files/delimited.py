"""CSV and other tables of text: the separator is found in the header, and quotes follow RFC 4180. Read `rows` first.

Python's `csv` parses. What it would read without complaint although it may mean something else is refused here: a quote that
swallows rows, a row with too many fields, two columns of one name, quotes that are escaped by backslashes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from baton.errors import DataError
from baton.tasks.rows import Row
from baton.validation import short_repr
from baton.wording import counted
from training.data.files import decoding

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What may separate columns, with its name for messages, in the order of preference."""

ONE_COLUMN = "\x1f"
"""Separates nothing: ASCII's «unit separator», which texts do not hold. In a table of one column, separators are text."""

SAMPLE = 200
"""Number of records from which the separator is chosen if the header allows more than one."""

BACKSLASH = (
    "a backslash may escape what follows it; quote texts that hold backslashes at their end, line breaks or quotation marks, "
    'and write "" for a quotation mark (RFC 4180)'
)

LONGEST_FIELD = 2**31 - 1
"""The largest limit for the length of a field that `csv` accepts on every platform: texts may be of any length."""


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, cells as text. Rows without any value are nothing; cells at the end may be left out.

    A first line ``sep=;``, as spreadsheets write and read it, names the separator.

    Raises:
        DataError: with the line, where the file cannot be read whole or may mean something else.
    """
    table = _Table.open(path)
    for record in table.records():
        yield Row(where=f"{path} line {record.line}", values=dict(zip(table.columns, record.fields, strict=False)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    line: int
    """Where it begins: the number of its first line, from 1."""
    lines: Sequence[str]
    """Its lines, with their ends."""
    fields: Sequence[str]

    @property
    def is_empty(self) -> bool:
        return not any(field.strip() for field in self.fields)


@dataclass(frozen=True, kw_only=True)
class _Table:
    path: Path
    separator: str
    columns: Sequence[str]
    """Names of the columns up to the last named one."""
    header: int
    """Number of lines up to the end of the header."""

    @classmethod
    def open(cls, path: Path) -> _Table:
        first = next(decoding.lines(path), "")
        declared = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE | re.DOTALL)
        skipped = 1 if declared else 0
        separator = declared[1] if declared else _find_separator(path)
        header = next((one for one in _records(path, separator, skipped) if not one.is_empty), None)
        if header is None:
            raise DataError(f"{path}: the file holds no rows")
        columns = [name.strip() for name in header.fields]
        while columns and not columns[-1]:
            columns.pop()
        repeated = next((name for name in columns if name and columns.count(name) > 1), None)
        if repeated is not None:
            raise DataError(f"{path} line {header.line}: two columns are named {repeated!r}; rename one of them")
        return cls(path=path, separator=separator, columns=columns, header=header.line + len(header.lines) - 1)

    def records(self) -> Iterator[_Record]:
        """Yield the records after the header that hold a value, with as many fields as there are columns."""
        swallowers = []
        for record in _records(self.path, self.separator, self.header):
            if record.is_empty:
                continue
            yield self._checked(record)
            if len(record.lines) > 1:
                swallowers.append(record)
                self._check_that_lines_are_no_rows(record)
        if swallowers:
            self._check_that_no_rows_are_swallowed(swallowers)

    def _checked(self, record: _Record) -> _Record:
        fields = list(record.fields)
        # a backslash before a separator or a quotation mark may escape it: then what seems to be a blank field may be none
        escaped = any(f"\\{sign}" in line for line in record.lines for sign in (self.separator, '"'))
        while len(fields) > len(self.columns) and not fields[-1].strip() and not escaped:
            fields.pop()  # spreadsheets fill rows up
        if len(fields) > len(self.columns):
            raise DataError(
                f"{self.path} line {record.line}: {counted(len(fields), 'field')}, the header has {len(self.columns)}; columns "
                f"are separated by {_named(self.separator)}: quote texts that hold {self.separator!r}"
            )
        if len(fields) < len(self.columns) and any(field.endswith("\\") for field in fields):
            raise DataError(f"{self.path} line {record.line}: {BACKSLASH}")
        if len(fields) < len(self.columns) and len(record.lines) > 1:
            raise DataError(
                f"{self.path} line {record.line}: {_swallowed(record)}: with them it has {counted(len(fields), 'field')}, the "
                f"header {len(self.columns)}"
            )
        fields += [""] * (len(self.columns) - len(fields))
        return _Record(line=record.line, lines=record.lines, fields=fields)

    def _check_that_lines_are_no_rows(self, record: _Record) -> None:
        """Raise ``DataError`` if all lines of a record have as many fields as a row of three columns or more: it is several."""
        if len(self.columns) > 2 and all(len(_cells(line, self.separator)) == len(self.columns) for line in record.lines):
            raise DataError(f"{self.path} line {record.line}: {_swallowed(record)}: each has {len(self.columns)} fields")

    def _check_that_no_rows_are_swallowed(self, swallowers: Iterable[_Record]) -> None:
        """Raise ``DataError`` if lines inside a quoted text look like rows: one quote opened it by mistake, another closed it.

        Such a line has as many fields as a row, and one of them is the value of its column in another row.
        """
        inside: dict[int, dict[str, _Record]] = {}
        for record in swallowers:
            for line in (record.lines[0].replace('"', "", 1), *record.lines[1:-1]):
                cells = _cells(line, self.separator)
                if len(cells) == len(self.columns) > 1:
                    for column, cell in enumerate(cells):
                        if cell.strip():
                            inside.setdefault(column, {}).setdefault(cell, record)
        if not inside:
            return
        for row in _records(self.path, self.separator, self.header):
            for column, cell in enumerate(row.fields if len(row.lines) == 1 else ()):
                if swallower := inside.get(column, {}).get(cell):
                    raise DataError(
                        f"{self.path} line {swallower.line}: {_swallowed(swallower)}: one has {short_repr(cell)} in its column "
                        f"{self.columns[column]!r}, like line {row.line}"
                    )


def _cells(line: str, separator: str) -> list[str]:
    return line.rstrip("\r\n").split(separator)


def _swallowed(record: _Record) -> str:
    last = record.line + len(record.lines) - 1
    return (
        f"a quotation mark opens a text here that goes on to line {last}; if it does so by mistake, close the text, or write "
        '"" for a quotation mark inside a quoted text. The lines in between look like rows'
    )


def _named(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _find_separator(path: Path) -> str:
    """Return the separator of the header; if it could have several, the one that the rows agree with.

    Raises ``DataError`` if several remain.
    """
    fitting: dict[str, int] = {}
    for separator in SEPARATORS:
        width, fits, seen = 0, 0, 0
        try:
            for record in islice(_records(path, separator, 0), SAMPLE):
                if record.is_empty:
                    continue
                if not width:
                    width = len(record.fields)
                    if width < 2:
                        break
                seen += 1
                fits += len(record.fields) == width
        except DataError:
            seen += 1  # this separator may be right all the same: the error is told when the file is read
        if width >= 2:
            fitting[separator] = seen - fits
    if not fitting:
        return ONE_COLUMN
    fewest = min(fitting.values())
    best = [separator for separator, misfits in fitting.items() if misfits == fewest]
    if len(best) > 1:
        named = " or ".join(map(_named, best))
        raise DataError(
            f"{path}: its columns may be separated by {named}: every row allows both; put a first line sep={best[0]} before "
            "the header, or quote the other one"
        )
    return best[0]


def _records(path: Path, separator: str, skipped: int) -> Iterator[_Record]:
    """Yield the records after the first ``skipped`` lines."""
    csv.field_size_limit(LONGEST_FIELD)
    lines = _Lines(islice(decoding.lines(path), skipped, None), number=skipped)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    closed = re.compile(rf'(?:^|(?<={re.escape(separator)}))"(?:[^"]|"")*"(?={re.escape(separator)}|[\r\n]|$)')
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(_quote_problem(path, lines, separator, str(error))) from error
        if fields is None:
            return
        record = _Record(line=lines.first, lines=lines.take(), fields=fields)
        _check_quotes(path, record, separator, closed)
        yield record


class _Lines:
    """The lines of a file, remembered until `take` fetches those of a record."""

    def __init__(self, lines: Iterator[str], number: int) -> None:
        self._lines = lines
        self._taken: list[str] = []
        self.first = number + 1
        """Number of the first line that was not fetched."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._taken.append(line)
        return line

    @property
    def waiting(self) -> Sequence[str]:
        return self._taken

    def take(self) -> Sequence[str]:
        taken, self._taken = self._taken, []
        self.first += len(taken)
        return taken


def _check_quotes(path: Path, record: _Record, separator: str, closed: re.Pattern[str]) -> None:
    """Raise ``DataError`` if quotation marks or backslashes outside of quoted fields may mean something else."""
    text, where = "".join(record.lines), f"{path} line {record.line}"
    if text.rstrip("\r\n").endswith("\\"):
        raise DataError(f"{where}: {BACKSLASH}")
    if '"' not in text or '"' not in (rest := closed.sub("", text)):
        return
    loose = rest.rstrip("\r\n").split(separator)
    if '\\"' in rest:
        raise DataError(f"{where}: {BACKSLASH}")
    if any(field.lstrip()[:1] == '"' for field in loose):
        raise DataError(f"{where}: a blank before an opening quotation mark; remove the blank, or quote the whole text")
    if sum(field.count('"') % 2 for field in loose) > 1:
        raise DataError(
            f'{where}: quotation marks open in one field and close in another; quote the whole text, with "" inside it'
        )


def _quote_problem(path: Path, lines: _Lines, separator: str, error: str) -> str:
    """Return what is wrong with the record that was being read: where the quote opens that nothing closes in its place."""
    opened = lines.first
    for offset, closed in _openings(lines.waiting, separator):
        opened = lines.first + offset
        if not closed:
            break
    return (
        f"{path} line {opened}: a quotation mark opens a text here that does not end before a separator ({error}); close it, "
        'or write "" for a quotation mark inside a quoted text'
    )


def _openings(lines: Sequence[str], separator: str) -> Iterator[tuple[int, bool]]:
    """Yield for each quoted field the index of the line where it opens, and whether a separator or a line's end follows it."""
    text = "".join(lines)
    field = re.compile(
        rf'(?:^|{re.escape(separator)}|\n|\r)"(?P<text>(?:[^"]|"")*)(?P<end>"(?={re.escape(separator)}|[\r\n]|$))?'
    )
    position = 0
    while match := field.search(text, position):
        yield text.count("\n", 0, match.start("text")), match["end"] is not None
        position = match.end()
