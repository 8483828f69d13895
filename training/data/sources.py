"""Reads files and `datasets` ids: raw rows → a task's examples, or errors that name file, line and field.

Knows nothing of splits, feedback or models.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import filterfalse
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec

from baton.config.model_settings import DATA_SUFFIXES
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.rows import Row, example_of
from baton.wording import counted
from training.data.exports import Adapter
from training.data.files import conll, delimited, json_files
from training.data.marks import NO_MARKS, Marks
from training.data.remarks import Remarks, columns_not_read

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
    if path.suffix.lower() not in DATA_SUFFIXES:
        if path.is_file():
            raise DataError(
                f"{source}: unknown file type {path.suffix!r}; allowed: {', '.join(DATA_SUFFIXES)}, or a datasets id"
            )
        return _read_hub(source, hub_split)
    if not path.is_file():
        raise DataError(f"{source}: no such file")
    return READERS[path.suffix.lower()](path)


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
    *,
    remarks: Remarks | None = None,
    marked: Iterable[str] = (),
) -> list[Located]:
    """Return the examples of `parse` with their places, and the marks that ``mark`` reads. Raises ``DataError`` as `parse`.

    Args:
        remarks: takes what was left out, changed or not read.
        marked: the columns that ``mark`` reads.
    """
    remarks = Remarks() if remarks is None else remarks
    adapter = Adapter(task_cls, columns, remarks)
    taken: list[tuple[Mapping[str, str], Located | str, str]] = []
    seen: dict[str, None] = {}
    for row in filterfalse(_is_emptied, rows):
        seen.update(dict.fromkeys(row.values))
        said = adapter.verdict(row)
        try:
            if (adapted := adapter.adapt(row)) is None:
                continue
            example = example_of(task_cls, adapted, columns, advice=MISSING_FIELD_ADVICE)
            taken.append((said, Located(where=row.where, example=example, marks=mark(adapted)), row.where))
        except DataError as error:
            taken.append((said, str(error), row.where))
    examples: list[Located] = []
    problems: list[str] = []
    for said, one, where in taken:
        if reason := adapter.decided(said):
            remarks.note(reason, where)
        elif isinstance(one, str):
            problems.append(one)
        else:
            examples.append(one)
    if problems:
        more = f"\n  … and {len(problems) - LISTED_ERRORS} more" if len(problems) > LISTED_ERRORS else ""
        listed = "\n".join(f"  {problem}" for problem in problems[:LISTED_ERRORS])
        raise DataError(f"{source}: {counted(len(problems), 'row')} cannot be used\n{listed}{more}")
    if not examples:
        left_out = "".join(f"\n  {remark}" for remark in remarks)
        raise DataError(f"{source}: the file holds no rows{left_out}")
    fields = {
        columns.get(name, name)
        for name in (*(name for shape in task_cls.row_shapes for name in shape), *task_cls.optional_fields)
    }
    if unread := columns_not_read(source, seen, fields | adapter.read | adapter.verdict_columns | {*marked}):
        remarks.say(unread)
    return examples


def _is_emptied(row: Row) -> bool:
    """Whether a row has columns, and no value in any: spreadsheets and data frames keep rows that were emptied."""
    values = row.values.values()
    return bool(values) and all(value is None or (isinstance(value, str) and not value.strip()) for value in values)


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if repeated := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{path}: two columns are named {repeated[0]!r}; rename one of them")
            rows = (values for batch in file.iter_batches() for values in batch.to_pylist())
            for number, values in enumerate(rows, start=1):
                yield Row(where=f"{path} row {number}", values=values)
    except (ArrowInvalid, OSError, OverflowError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), json_files.rows),
    **dict.fromkeys((".csv", ".tsv", ".tab"), delimited.rows),
    **dict.fromkeys((".conll", ".iob2", ".iob", ".bio", ".txt"), conll.rows),
    ".parquet": _read_parquet,
}
"""The reader of each file type: the keys are `DATA_SUFFIXES`."""


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
