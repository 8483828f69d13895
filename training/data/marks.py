"""What a declared row says besides its example: the group that it belongs to, and its slices.

``data.fields.group`` and ``data.slices`` name the columns. Knows neither splits nor files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks.rows import Row, missing_field
from baton.text.normal_form import fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The marks of one row."""

    unit: str | None = None
    """Fingerprint of its group's value; None without one. No text has this fingerprint."""
    slices: dict[str, str] = field(default_factory=dict)
    """Column → value."""


NO_MARKS = Marks()


def marker(data: DataSettings, *, for_holdout: bool) -> Callable[[Row], Marks]:
    """Return a function that reads the marks of a row. It raises ``DataError`` if the row lacks one of the columns.

    ``for_holdout``: whether rows of the holdout come from that file. Only these need slices.
    """
    group, slices = data.group_column, data.slices if for_holdout else ()

    def mark(row: Row) -> Marks:
        value = None if group is None else _cell(row, group, "data.fields.group")
        return Marks(
            unit=fingerprint(f"\0group {value}") if value else None,
            slices={column: _cell(row, column, "data.slices") for column in slices},
        )

    return mark if group or slices else lambda row: NO_MARKS


def _cell(row: Row, column: str, setting: str) -> str:
    """Return the value of a column as text; empty for no value."""
    if column not in row.values:
        raise DataError(f"{row.where}: {missing_field(column, row.values)} ({setting})")
    value: Any = row.values[column]
    return "" if value is None else str(value).strip()
