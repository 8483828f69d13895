"""Turns one raw row into a task's example, or raises an error with place, field and value. Knows neither files nor HTTP."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from baton.errors import DataError
from baton.tasks.base import AnyTask
from baton.validation import short_repr


@dataclass(frozen=True, kw_only=True)
class Row:
    """One raw row, before validation."""

    where: str
    """Its place for error messages: ``data/train.jsonl line 7``."""
    values: Mapping[str, Any]


def example_of(task_cls: type[AnyTask], row: Row, columns: Mapping[str, str], *, advice: str = "") -> Any:
    """Return a row as the task's example.

    Args:
        columns: the row's names of fields, for fields that have another name there.
        advice: appended to the error message if a field is missing.

    Raises:
        DataError: with the row's place, the field, the value and what is allowed.
    """
    shape = _shape(task_cls, columns, row.values)
    missing = [columns.get(field, field) for field in shape if columns.get(field, field) not in row.values]
    if missing:
        raise DataError(f"{row.where}: {missing_field(missing[0], row.values)}{advice}")
    fields = [field for field in (*shape, *task_cls.optional_fields) if columns.get(field, field) in row.values]
    try:
        return task_cls.Example.model_validate({field: row.values[columns.get(field, field)] for field in fields})
    except ValidationError as error:
        raise DataError(f"{row.where}{_explain(error, columns)}") from error


def _shape(task_cls: type[AnyTask], columns: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the shape that the row is closest to: of `Task.row_shapes`, the first with the fewest fields missing in it."""
    return min(task_cls.row_shapes, key=lambda shape: sum(columns.get(field, field) not in values for field in shape))


def _explain(error: ValidationError, columns: Mapping[str, str]) -> str:
    problem = error.errors()[0]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # fields contradict each other; the message names them
        return f": {message}"
    field, *inner = problem["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)
    return f", field {columns.get(str(field), str(field)) + path!r}: {short_repr(problem['input'])}: {message}"


def missing_field(column: str, values: Mapping[str, Any]) -> str:
    """Return an error message for a row without a column, with the nearest name and those that the row has."""
    near = difflib.get_close_matches(column, map(str, values), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    present = ", ".join(map(repr, values)) or "no fields"
    return f"field {column!r} is missing; the row has {present}{hint}"
