"""What a reader did with rows besides reading them: counted for the record of the data set, told once and never row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from baton.text.normal_form import visible_form
from baton.wording import counted


@dataclass
class Remarks:
    """Counts what happened to rows, each with the place of the first one."""

    _rows: dict[str, int] = field(default_factory=dict)
    _first: dict[str, str] = field(default_factory=dict)
    _whole: list[str] = field(default_factory=list)

    def note(self, what: str, where: str) -> None:
        """Count one row to which ``what`` happened. ``where``: its place."""
        self._rows[what] = self._rows.get(what, 0) + 1
        self._first.setdefault(what, where)

    def say(self, what: str) -> None:
        """Add a remark about a source as a whole."""
        if what not in self._whole:
            self._whole.append(what)

    def __iter__(self) -> Iterator[str]:
        """Yield the remarks, each as one sentence with its count."""
        for what, rows in self._rows.items():
            yield f"{counted(rows, 'row')}: {what} (first: {self._first[what]})"
        yield from self._whole


def columns_not_read(source: str, seen: Mapping[str, None], read: set[str]) -> str | None:
    """Return the remark about columns that nothing reads; None if there are none."""
    unread = [name for name in seen if name not in read]
    return f"{source}: not read: {', '.join(map(repr, unread))}" if unread else None


def look_alikes(rows: Mapping[str, int]) -> Iterator[str]:
    """Yield a remark for each group of labels that differ only by case or by characters that nobody sees.

    Args:
        rows: the number of rows of each label.
    """
    alike: dict[str, list[str]] = {}
    for label in rows:
        alike.setdefault(visible_form(label), []).append(label)
    for group in alike.values():
        if len(group) > 1:
            named = ", ".join(f"{label!r} ({counted(rows[label], 'row')})" for label in group)
            yield f"labels that look alike: {named}"
