"""Reads files and `datasets` ids: raw rows → a task's examples, or errors that name file, line and field.

Knows nothing of splits, feedback or models.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec

from baton.config.model_settings import DATA_SUFFIXES
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.base import short_repr
from baton.tasks.rows import Row, example_of
from baton.wording import counted
from training.data.marks import NO_MARKS, Marks

MISSING_FIELD_ADVICE = " (map names with data.fields)"

LISTED_ERRORS = 10
"""Number of broken rows that one error lists. All are counted."""


def read(source: str, hub_split: str) -> Iterator[Row]:
    """Yield the raw rows of a file, of a file at a URL, or of a `datasets` id. For the file types see `DATA_SUFFIXES`.

    Args:
        hub_split: the split to read of a `datasets` id.

    Raises:
        DataError: the source does not exist, or cannot be read.
    """
    if "://" in source:
        return _read_url(source, hub_split)
    path = Path(source)
    if path.suffix not in DATA_SUFFIXES:
        if path.is_file():
            raise DataError(
                f"{source}: unknown file type {path.suffix!r}; allowed: {', '.join(DATA_SUFFIXES)}, or a datasets id"
            )
        return _read_hub(source, hub_split)
    if not path.is_file():
        raise DataError(f"{source}: no such file")
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    return readers[path.suffix](path)


def parse(task_cls: type[AnyTask], columns: Mapping[str, str], rows: Iterable[Row], source: str) -> list[Any]:
    """Return rows as the task's examples. Raises ``DataError``, which lists the place of each broken row and the reason."""
    return [one.example for one in located(task_cls, columns, rows, source)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """An example with its place and its marks."""

    where: str
    example: Any
    marks: Marks = NO_MARKS


def located(
    task_cls: type[AnyTask],
    columns: Mapping[str, str],
    rows: Iterable[Row],
    source: str,
    mark: Callable[[Row], Marks] = lambda row: NO_MARKS,
) -> list[Located]:
    """Return the examples of `parse` with their places, and the marks that ``mark`` reads. Raises ``DataError`` as `parse`."""
    examples, problems = [], []
    for row in rows:
        try:
            example = example_of(task_cls, row, columns, advice=MISSING_FIELD_ADVICE)
            examples.append(Located(where=row.where, example=example, marks=mark(row)))
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = f"\n  … and {len(problems) - LISTED_ERRORS} more" if len(problems) > LISTED_ERRORS else ""
        listed = "\n".join(f"  {problem}" for problem in problems[:LISTED_ERRORS])
        raise DataError(f"{source}: {counted(len(problems), 'row')} cannot be used\n{listed}{more}")
    if not examples:
        raise DataError(f"{source}: the file holds no rows")
    return examples


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON: {error.msg} at character {error.pos + 1}") from error
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not valid JSON: {error}") from error
            if not isinstance(values, dict):
                raise DataError(f"{where}: a JSON object is expected, not {short_repr(values)}")
            yield Row(where=where, values=values)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.DictReader(map(_decoded, file))
        try:
            for values in reader:
                where = f"{path} line {reader.line_num}"
                if None in values:  # DictReader puts fields beyond the header under None
                    fields = len(values) - 1 + len(values[None])
                    raise DataError(f"{where}: {fields} fields, the header has {len(values) - 1}; quote texts that hold commas")
                yield Row(where=where, values=dict(values))
        except (csv.Error, UnicodeError) as error:
            raise DataError(f"{path} line {reader.line_num + 1}: not valid CSV: {error}") from error


def _decoded(line: str) -> str:
    """Return the line if its bytes were UTF-8.

    Files are decoded in blocks. Only a check of each line finds the line of a bad byte.
    """
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError:
            raise UnicodeError("it is not UTF-8; save the file in that encoding") from None
    return line


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        table = parquet.read_table(path)
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    for number, values in enumerate(table.to_pylist(), start=1):
        yield Row(where=f"{path} row {number}", values=values)


def _read_url(url: str, hub_split: str) -> Iterator[Row]:
    """Yield the rows of a file at a URL that fsspec knows. The file is downloaded whole; places name the URL, not the copy."""
    with tempfile.TemporaryDirectory(prefix="baton-data-") as directory:
        copy = Path(directory) / PurePosixPath(urlsplit(url).path).name
        try:
            files, path = fsspec.core.url_to_fs(url)
            files.get_file(path, str(copy))
        except Exception as error:  # each file system of fsspec raises its own errors
            raise DataError(f"{url}: cannot be read: {type(error).__name__}: {error}") from error
        try:
            for row in read(str(copy), hub_split):
                yield replace(row, where=row.where.replace(str(copy), url))
        except DataError as error:
            raise DataError(str(error).replace(str(copy), url)) from error


def _read_hub(name: str, hub_split: str) -> Iterator[Row]:
    import datasets

    try:
        table = datasets.load_dataset(name, split=hub_split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{name!r} is neither a file nor a datasets id that can be loaded: {reason}") from error
    coded, listed = {}, {}
    for column, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            coded[column] = feature
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.ClassLabel):
            listed[column] = feature.feature
    for number, values in enumerate(table, start=1):
        named = {column: _name(feature, values[column]) for column, feature in coded.items()}
        named |= {column: [_name(feature, code) for code in values[column] or ()] for column, feature in listed.items()}
        yield Row(where=f"{name} {hub_split} row {number}", values={**values, **named})


def _name(feature: Any, code: int | None) -> Any:
    """Return the name of a class label. -1 and None mean that there is none: they stay, and `parse` reports the row."""
    return feature.int2str(code) if code in range(feature.num_classes) else code
