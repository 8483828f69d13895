"""`baton feedback` and `baton live`: send corrections, and show the quality that they measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from baton.client import BATCH, RETRIES, FeedbackReport, ServiceError, content_id
from baton.errors import InvalidInput
from services.cli.line_files import Line, errors_by_line, print_errors, read_batches, readable, send_batches, unreadable
from services.cli.terminal import AsJson, ConfigFile, Limit, Model, connect, connect_to_read, err, out, print_json, print_value
from services.client import Client
from services.tables import show_feedback

LABELS_SHOWN = 10
"""Maximum number of new labels that are printed; ``--json`` lists more."""


def feedback(
    context: typer.Context,
    model: Model,
    file: Annotated[
        typer.FileBinaryRead | None,
        typer.Argument(help="JSON Lines file with one correction per line; - reads stdin.", metavar="FILE"),
    ] = None,
    config: ConfigFile = None,
    withdraw: Annotated[
        list[str] | None,
        typer.Option("--withdraw", help="Withdraw the correction with this id; may be repeated.", metavar="ID"),
    ] = None,
    withdraw_all: Annotated[
        bool, typer.Option("--withdraw-all", help="Withdraw all corrections of --sender, or from --since until --until.")
    ] = False,
    sender: Annotated[
        str | None, typer.Option(help="With --withdraw-all: the id of the API key that sent them.", metavar="ID")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="With --withdraw-all: received from this time on (ISO 8601, UTC).", metavar="TIME")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="With --withdraw-all: received before this time (ISO 8601, UTC).", metavar="TIME")
    ] = None,
    changes: Annotated[bool, typer.Option("--changes", help="List replaced and withdrawn corrections, newest first.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Send corrections to a model, withdraw some, or list what changed.

    `baton feedback intents corrections.jsonl` · `baton feedback intents --withdraw ticket-17`

    A line is a row of the model's task, or `{"answer_id": …, "label": …}` to correct an answer (its header `x-answer-id`). A
    line without an `id` gets one computed from its content, so that a file that is sent twice is counted once; one with the
    `id` of an earlier correction and another answer takes its place. After Ctrl-C, the corrections that the service
    acknowledged are stored; send the file again to continue. Exit status 1 when lines were rejected, or an id is not known.
    """
    wanted = [file is not None, bool(withdraw), withdraw_all, changes]
    if sum(wanted) != 1:
        raise InvalidInput("give one of: FILE, --withdraw ID, --withdraw-all, --changes")
    if any((sender, since, until)) and not withdraw_all:
        raise InvalidInput("--sender, --since and --until say what --withdraw-all withdraws; give it, too")
    if file is not None:
        _send_file(context, model, file, config, as_json=as_json)
        return
    if changes:
        with connect_to_read(context, config) as client:
            path = f"/api/models/{model}/feedback/changes"
            print_value(client.get(path, limit=limit)["items"], as_json, show_feedback.changes)
        return
    with connect(context, config) as client:
        if withdraw_all:
            found = client.delete(f"/api/models/{model}/feedback", sender=sender, since=since, until=until)
            print_value(found, as_json, show_feedback.withdrawn)
        else:
            _withdraw(client, model, withdraw or [], as_json=as_json)


def _send_file(context: typer.Context, model: str, file: Iterable[bytes], config: Path | None, *, as_json: bool) -> None:
    with connect(context, config, retries=RETRIES) as client, _progress(quiet=as_json) as update:
        report = send_batches(read_batches(file, BATCH), partial(_send, client, model), FeedbackReport(), _summary, update)
    _print_report(report, as_json)
    if report.rejected:
        raise typer.Exit(1)


def _withdraw(client: Client, model: str, ids: Sequence[str], *, as_json: bool) -> None:
    """Withdraw corrections one by one. Of ids that are not known, go on with the others, and end with status 1."""
    unknown = []
    for name in ids:
        try:
            client.delete(f"/api/models/{model}/feedback/{quote(name, safe='')}")
        except ServiceError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            unknown.append(str(error))
    for problem in unknown:
        err.print(problem, style="red", markup=False, soft_wrap=True)
    print_value({"withdrawn": len(ids) - len(unknown)}, as_json, show_feedback.withdrawn)
    if unknown:
        raise typer.Exit(1)


def live(
    context: typer.Context,
    model: Model,
    config: ConfigFile = None,
    labels: Annotated[bool, typer.Option("--labels", help="Also show the scores of each label.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the live F1 of each version: its quality on the requests whose answers were corrected."""
    with connect_to_read(context, config) as client:
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
    replaced = f" ({report.replaced:,} in place of earlier ones with the same id)" if report.replaced else ""
    rejected = f", {report.rejected:,} rejected" if report.rejected else ""
    return f"{report.accepted:,} accepted{replaced}{duplicates}{rejected}"
