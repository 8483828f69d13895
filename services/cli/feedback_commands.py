"""Commands about feedback and live quality: ``baton feedback`` and ``baton live``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from baton.client import BATCH, RETRIES, FeedbackReport, content_id
from baton.errors import BatonError
from services.cli import show_feedback
from services.cli.terminal import AsJson, ConfigFile, Model, connect, err, out, print_json, print_value
from services.client import Client

ERRORS_SHOWN = 20
"""Lines with mistakes that people are shown; ``--json`` has more."""
LABELS_SHOWN = 10
"""New labels that people are shown; ``--json`` has more."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file: its number, from 1, and its correction, or why it has none."""

    number: int
    item: Mapping[str, Any] | None
    problem: str = ""


def feedback(
    model: Model,
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(help="JSON Lines, one correction a line; - reads stdin.", metavar="FILE")
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send corrections to a model: rows of its task, or `{"request_id": …, "label": …}` for answers that it gave.

    A line without an `id` gets one made of its content, so that sending a file twice counts nothing twice. Ctrl-C leaves what
    was acknowledged; send the file again to go on. Exit status 1 when lines were rejected.
    """
    report = FeedbackReport()
    with connect(config, retries=RETRIES) as client, _progress(quiet=as_json) as update:
        try:
            for batch in _batches(file):
                report += _send(client, model, batch)
                update(report, batch[-1].number)
        except KeyboardInterrupt:
            err.print(f"\ninterrupted; {_acknowledged(report)}; send the file again to go on", markup=False)
            raise typer.Exit(130) from None
        except BatonError as error:
            if report == FeedbackReport():
                raise
            err.print(f"{_acknowledged(report)}; then:", markup=False)
            raise error from None
    _tell(report, as_json)
    if report.rejected:
        raise typer.Exit(1)


def live(
    model: Model,
    config: ConfigFile = None,
    labels: Annotated[bool, typer.Option("--labels", help="Show every label's scores, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """F1 on corrected answers, by version: how well a model does on what it was really asked."""
    with connect(config) as client:
        answer = client.get(f"/api/models/{model}/live")
    print_value(answer["items"] if as_json else answer, as_json, lambda value: show_feedback.live(value, labels=labels))


def _send(client: Client, model: str, batch: list[Line]) -> FeedbackReport:
    """Send what can be read of a batch; errors carry the file's line numbers."""
    readable = [line for line in batch if line.item is not None]
    unreadable = [{"line": line.number, "error": line.problem} for line in batch if line.item is None]
    sent = client.feedback(model, [line.item for line in readable if line.item is not None])
    refused = [{"line": readable[error["item"]].number, "error": error["error"]} for error in sent.errors]
    return FeedbackReport(
        accepted=sent.accepted,
        duplicates=sent.duplicates,
        rejected=sent.rejected + len(unreadable),
        errors=sorted([*refused, *unreadable], key=lambda error: error["line"]),
        new_labels=sent.new_labels,
    )


def _batches(source: Iterable[bytes]) -> Iterator[list[Line]]:
    lines = _lines(source)
    while batch := list(islice(lines, BATCH)):
        yield batch


def _lines(source: Iterable[bytes]) -> Iterator[Line]:
    for number, raw in enumerate(source, 1):
        if not raw.strip():
            continue
        try:
            item = json.loads(raw)
        except (ValueError, RecursionError) as error:
            yield Line(number=number, item=None, problem=f"not valid JSON: {error}")
            continue
        if isinstance(item, dict):
            yield Line(number=number, item={"id": content_id(item), **item} if item.get("id") is None else item)
        else:
            yield Line(number=number, item=None, problem="a JSON object is expected")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """A live line where somebody watches; the yielded function takes the report so far and the number of the last line sent."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        shown = bar.add_task("sending", total=None)

        def update(report: FeedbackReport, line: int) -> None:
            bar.update(shown, description=f"line {line:,}: {_acknowledged(report)}")

        yield update


def _tell(report: FeedbackReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    out.print(_acknowledged(report), markup=False)
    if report.new_labels:
        named = ", ".join(map(repr, report.new_labels[:LABELS_SHOWN]))
        more = len(report.new_labels) - LABELS_SHOWN
        named += f" and {more} more" if more > 0 else ""
        err.print(f"labels that the newest data set does not have: {named}", style="yellow", markup=False, soft_wrap=True)
    for error in report.errors[:ERRORS_SHOWN]:
        err.print(f"line {error['line']}: {error['error']}", style="red", markup=False, soft_wrap=True)
    if report.rejected > ERRORS_SHOWN:
        err.print(f"… and {report.rejected - ERRORS_SHOWN:,} more; --json lists them", style="red", markup=False)


def _acknowledged(report: FeedbackReport) -> str:
    known = f", {report.duplicates:,} known already" if report.duplicates else ""
    return f"{report.accepted:,} accepted{known}" + (f", {report.rejected:,} rejected" if report.rejected else "")
