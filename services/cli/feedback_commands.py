"""`baton feedback` and `baton live`: send corrections, and show the quality that they measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from baton.client import BATCH, RETRIES, FeedbackReport, content_id
from services.cli.line_files import Line, errors_by_line, print_errors, read_batches, readable, send_batches, unreadable
from services.cli.terminal import AsJson, ConfigFile, Model, connect, err, out, print_json, print_value
from services.client import Client
from services.tables import show_feedback

LABELS_SHOWN = 10
"""Maximum number of new labels that are printed; ``--json`` lists more."""


def feedback(
    context: typer.Context,
    model: Model,
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(help="JSON Lines file with one correction per line; - reads stdin.", metavar="FILE"),
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send corrections to a model: rows of its task, or `{"request_id": …, "label": …}` to correct its answers.

    `baton feedback intents corrections.jsonl`

    A line without an `id` gets one computed from its content, so that a file that is sent twice is counted once. After Ctrl-C,
    the corrections that the service acknowledged are stored; send the file again to continue. Exit status 1 when lines were
    rejected.
    """
    with connect(context, config, retries=RETRIES) as client, _progress(quiet=as_json) as update:
        report = send_batches(read_batches(file, BATCH), partial(_send, client, model), FeedbackReport(), _summary, update)
    _print_report(report, as_json)
    if report.rejected:
        raise typer.Exit(1)


def live(
    context: typer.Context,
    model: Model,
    config: ConfigFile = None,
    labels: Annotated[bool, typer.Option("--labels", help="Also show the scores of each label.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the live F1 of each version: its quality on the requests whose answers were corrected."""
    with connect(context, config) as client:
        answer = client.get(f"/api/models/{model}/live")
    print_value(answer["items"] if as_json else answer, as_json, lambda value: show_feedback.live(value, labels=labels))


def _send(client: Client, model: str, batch: list[Line]) -> FeedbackReport:
    """Send the readable lines of a batch. Return the service's report with line numbers of the file in its errors."""
    items = [{"id": content_id(item), **item} if item.get("id") is None else item for item in readable(batch)]
    report = client.feedback(model, items)
    return replace(report, rejected=report.rejected + unreadable(batch), errors=errors_by_line(batch, report.errors))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """Show the progress in a live line while the block runs, if stderr is a terminal.

    Yields the function to call with the report so far and the number of the last line that was sent.
    """
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task("sending", total=None)

        def update(report: FeedbackReport, line: int) -> None:
            bar.update(task, description=f"line {line:,}: {_summary(report)}")

        yield update


def _print_report(report: FeedbackReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    out.print(_summary(report), markup=False)
    if report.new_labels:
        named = ", ".join(map(repr, report.new_labels[:LABELS_SHOWN]))
        more = len(report.new_labels) - LABELS_SHOWN
        named += f" and {more} more" if more > 0 else ""
        err.print(f"labels that the newest data set does not have: {named}", style="yellow", markup=False, soft_wrap=True)
    print_errors(report)


def _summary(report: FeedbackReport) -> str:
    """Return the counts of a report, such as ``3 accepted, 1 already known``."""
    duplicates = f", {report.duplicates:,} already known" if report.duplicates else ""
    rejected = f", {report.rejected:,} rejected" if report.rejected else ""
    return f"{report.accepted:,} accepted{duplicates}{rejected}"
