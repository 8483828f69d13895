"""JSON Lines files whose lines a command sends in batches: reading them, and telling what was stored. Knows no kind of item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import typer

from baton.errors import BatonError
from services.cli.terminal import err

ERRORS_SHOWN = 20
"""Maximum number of rejected lines that are printed; ``--json`` lists all that the service lists."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file that is not empty."""

    number: int
    """Its number in the file, from 1."""
    item: Mapping[str, Any] | None
    """Its JSON object; None if the line cannot be read."""
    problem: str = ""
    """Why the line cannot be read."""


class Report(Protocol):
    """What became of some lines. Two reports can be added."""

    @property
    def rejected(self) -> int:
        """Number of lines that could not be used."""

    @property
    def errors(self) -> Sequence[Mapping[str, Any]]:
        """Rejected lines: ``line`` (its number in the file, from 1) and ``error``."""

    def __add__(self: ReportT, other: ReportT) -> ReportT: ...


ReportT = TypeVar("ReportT", bound=Report)


def read_batches(source: Iterable[bytes], size: int) -> Iterator[list[Line]]:
    """Yield the lines of a file, ``size`` at a time, without empty ones."""
    lines = _read_lines(source)
    while batch := list(islice(lines, size)):
        yield batch


def send_batches(
    batches: Iterable[list[Line]],
    send: Callable[[list[Line]], ReportT],
    nothing: ReportT,
    summary: Callable[[ReportT], str],
    update: Callable[[ReportT, int], None] = lambda report, line: None,
) -> ReportT:
    """Send batch after batch, and return the whole report. If it stops in between, say what is stored.

    Args:
        nothing: the report before the first batch.
        summary: the counts of a report, in words.
        update: called after each batch with the report so far and the number of its last line.
    """
    report = nothing
    try:
        for batch in batches:
            report += send(batch)
            update(report, batch[-1].number)
    except KeyboardInterrupt:
        err.print(f"\ninterrupted; {summary(report)}; send the file again to continue", markup=False)
        raise typer.Exit(130) from None
    except BatonError as error:
        if report == nothing:
            raise
        err.print(f"{summary(report)} before this error; send the file again to continue", markup=False)
        raise error from None
    return report


def readable(batch: Sequence[Line]) -> list[Mapping[str, Any]]:
    """Return the items of the lines that can be read: what a command sends."""
    return [line.item for line in batch if line.item is not None]


def errors_by_line(batch: Sequence[Line], errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of a batch by the lines of the file.

    Args:
        errors: those of the service, each with ``item`` (the position among the `readable` lines) and ``error``.
    """
    sent = [line for line in batch if line.item is not None]
    told = [{"line": sent[error["item"]].number, "error": error["error"]} for error in errors]
    unreadable = [{"line": line.number, "error": line.problem} for line in batch if line.item is None]
    return sorted([*told, *unreadable], key=lambda error: error["line"])


def unreadable(batch: Sequence[Line]) -> int:
    """Return the number of lines that cannot be read."""
    return sum(line.item is None for line in batch)


def print_errors(report: Report) -> None:
    """Print the first rejected lines."""
    for error in report.errors[:ERRORS_SHOWN]:
        err.print(f"line {error['line']}: {error['error']}", style="red", markup=False, soft_wrap=True)
    if report.rejected > ERRORS_SHOWN:
        err.print(f"… and {report.rejected - ERRORS_SHOWN:,} more; --json lists them", style="red", markup=False)


def _read_lines(source: Iterable[bytes]) -> Iterator[Line]:
    for number, raw in enumerate(source, 1):
        if not raw.strip():
            continue
        try:
            item = json.loads(raw.rstrip())
        except json.JSONDecodeError as error:
            what = error.msg.removesuffix(" at")
            yield Line(number=number, item=None, problem=f"not valid JSON: {what} at character {error.pos + 1}")
            continue
        except (ValueError, RecursionError) as error:
            yield Line(number=number, item=None, problem=f"not valid JSON: {error}")
            continue
        if isinstance(item, dict):
            yield Line(number=number, item=item)
        else:
            yield Line(number=number, item=None, problem="a JSON object is expected")
