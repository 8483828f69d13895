"""Files and `datasets` ids → raw rows → a task's examples, or complaints that name file, line and field.

Knows nothing of sides, feedback or models.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.base import short

SHOWN = 10
"""Mistakes listed in one error; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One raw row and where it stands, for error messages: ``data/train.jsonl line 7``."""

    where: str
    values: Mapping[str, Any]


def read(source: str, hub_split: str) -> Iterator[Row]:
    """Raw rows of a .jsonl, .csv or .parquet file, or of a `datasets` id. Raises ``DataError``."""
    path = Path(source)
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        if path.is_file():
            raise DataError(f"{source}: unknown file type {path.suffix!r}; allowed: .jsonl, .csv, .parquet, or a datasets id")
        return _read_hub(source, hub_split)
    if not path.is_file():
        raise DataError(f"{source}: no such file")
    return readers[path.suffix](path)


def parse(kind: type[AnyTask], columns: Mapping[str, str], rows: Iterable[Row], source: str) -> list[Any]:
    """Rows as the task's examples. Raises ``DataError`` that lists where each broken row stands and why."""
    return [example for _, example in located(kind, columns, rows, source)]


def located(kind: type[AnyTask], columns: Mapping[str, str], rows: Iterable[Row], source: str) -> list[tuple[str, Any]]:
    """What `parse` gives, each example behind the place where it stands."""
    examples, mistakes = [], []
    for row in rows:
        try:
            examples.append((row.where, example_of(kind, columns, row)))
        except DataError as error:
            mistakes.append(str(error))
    if mistakes:
        more = f"\n  … and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        listed = "\n".join(f"  {mistake}" for mistake in mistakes[:SHOWN])
        raise DataError(f"{source}: {len(mistakes)} row(s) cannot be used\n{listed}{more}")
    if not examples:
        raise DataError(f"{source}: the file holds no rows")
    return examples


def example_of(kind: type[AnyTask], columns: Mapping[str, str], row: Row) -> Any:
    """One row as the task's example. Raises ``DataError`` with its place, the field, the value and what is allowed."""
    shape = _shape(kind, columns, row.values)
    missing = [columns.get(field, field) for field in shape if columns.get(field, field) not in row.values]
    if missing:
        raise DataError(f"{row.where}: {_missing(missing[0], row.values)}")
    fields = [field for field in (*shape, *kind.optional_fields) if columns.get(field, field) in row.values]
    try:
        return kind.Example.model_validate({field: row.values[columns.get(field, field)] for field in fields})
    except ValidationError as error:
        raise DataError(f"{row.where}{_explain(error, columns)}") from error


def _shape(kind: type[AnyTask], columns: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that this row is meant to have: of all shapes that the task takes, the first that misses fewest."""
    return min(kind.row_shapes, key=lambda shape: sum(columns.get(field, field) not in values for field in shape))


def _explain(error: ValidationError, columns: Mapping[str, str]) -> str:
    problem = error.errors()[0]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # fields that contradict each other: the message names them
        return f": {message}"
    field, *inner = problem["loc"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)
    return f", field {columns.get(str(field), str(field)) + place!r}: {short(problem['input'])}: {message}"


def _missing(column: str, values: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(column, map(str, values), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    present = ", ".join(map(repr, values)) or "no fields"
    return f"field {column!r} is missing; the row has {present}{hint} (map names with data.fields)"


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                values = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{where}: not valid JSON: {error}") from error
            if not isinstance(values, dict):
                raise DataError(f"{where}: a JSON object is expected, not {short(values)}")
            yield Row(where=where, values=values)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.DictReader(map(_decoded, file))
        try:
            for values in reader:
                where = f"{path} line {reader.line_num}"
                if None in values:  # where DictReader puts fields beyond the header
                    fields = len(values) - 1 + len(values[None])
                    raise DataError(f"{where}: {fields} fields, the header has {len(values) - 1}; quote texts that hold commas")
                yield Row(where=where, values=dict(values))
        except (csv.Error, UnicodeError) as error:
            raise DataError(f"{path} line {reader.line_num + 1}: not valid CSV: {error}") from error


def _decoded(line: str) -> str:
    """The line, if its bytes were UTF-8. Files are decoded in blocks: only line by line is the place of a bad byte known."""
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
    """A class label by its name; -1 and None mean that there is none: they stay, and `parse` says where."""
    return feature.int2str(code) if code in range(feature.num_classes) else code
