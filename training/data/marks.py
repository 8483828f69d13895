"""What a declared row says besides its example: the group that it belongs to, and its slices.

``data.fields.group`` and ``data.slices`` name the columns. Knows neither splits nor files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks.rows import Row, missing_field


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The marks of one row."""

    unit: str | None = None
    """Hex SHA-256 of the column's name and the row's value; None without a value."""
    slices: dict[str, str] = field(default_factory=dict)
    """Column → value."""


NO_MARKS = Marks()


def marker(declared: DataSettings, *, for_holdout: bool, foreign: bool = False) -> Callable[[Row], Marks]:
    """Return a function that reads the marks of a row. It raises ``DataError`` if the row lacks one of the columns.

    Args:
        declared: the data that `baton.yaml` declares: a run does not choose what moves together.
        for_holdout: whether rows of the holdout come from that file. Only these need slices.
        foreign: whether the file is not a declared one. It may lack the column of groups.
    """
    group, slices = declared.group_column, declared.slices if for_holdout else ()

    def mark(row: Row) -> Marks:
        unread = group is None or (foreign and group not in row.values)
        value = "" if unread else _cell(row, str(group), "data.fields.group")
        return Marks(
            unit=hashlib.sha256(f"{group}\0{value}".encode()).hexdigest() if value else None,
            slices={column: _cell(row, column, "data.slices") for column in slices},
        )

    return mark if group or slices else lambda row: NO_MARKS


def _cell(row: Row, column: str, setting: str) -> str:
    """Return the value of a column as text; empty for no value."""
    if column not in row.values:
        raise DataError(f"{row.where}: {missing_field(column, row.values)} ({setting})")
    value: Any = row.values[column]
    text = "" if value is None else str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.where}, field {column!r}: a lone surrogate at character {error.start}; use valid Unicode"
        ) from None
    return text
