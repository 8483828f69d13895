"""`baton audit`: show what people are asked to label, write it to a file, and send their labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import quote

import httpx
import typer

from baton.client import RETRIES, Call
from baton.errors import InvalidInput
from services.cli.line_files import Line, errors_by_line, print_errors, read_batches, readable, send_batches
from services.cli.terminal import AsJson, ConfigFile, Limit, Model, connect, out, print_json, print_value
from services.client import ApiError, Client
from services.tables import show_audit

BATCH = 100
"""Labels in one request."""

PAGE = 500
"""Texts in one page while all are written to a file."""


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """How many labels were stored, and why others were not. Two reports can be added."""

    labelled: int = 0
    """Texts that got an answer."""
    undecidable: int = 0
    """Texts that were marked as having no right answer."""
    rejected: int = 0
    """Lines that could not be used."""
    errors: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """The rejected lines: ``line`` (its number in the file, from 1) and ``error``."""

    def __add__(self, other: LabelReport) -> LabelReport:
        return LabelReport(
            labelled=self.labelled + other.labelled,
            undecidable=self.undecidable + other.undecidable,
            rejected=self.rejected + other.rejected,
            errors=[*self.errors, *other.errors],
        )


def audit(
    context: typer.Context,
    model: Model,
    config: ConfigFile = None,
    to_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write all texts to label to this new file, as JSON Lines of id and input; - is stdout.",
            metavar="FILE",
        ),
    ] = None,
    labels: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(
            help='Send the labels in this JSON Lines file: {"id": 12, "label": …} or {"id": 12, "undecidable": true}; '
            "- reads stdin.",
            metavar="FILE",
        ),
    ] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Label the audit: requests that were drawn by chance, whatever the model answered. Their labels judge new versions.

    `baton audit intents --out todo.jsonl`, add the right answer to each line, then `baton audit intents --labels todo.jsonl`

    Without options it shows how far each batch is, and the next texts to label. A line of labels has the `id` of a text and the
    answer in the fields of a row of the task; the input may stay in the line. A second label of a text replaces the first.
    After Ctrl-C, the labels that the service acknowledged are stored; send the file again to continue. Exit status 1 when lines
    were rejected.
    """
    if to_file is not None and labels is not None:
        raise typer.BadParameter("give --out or --labels, not both")
    with connect(context, config, retries=RETRIES) as client:
        if labels is not None:
            _send_file(client, model, labels, as_json)
        elif to_file is not None:
            _write_file(client, model, to_file)
        else:
            page = client.get(_path(model), limit=limit)
            print_value(page, as_json, show_audit.audit)


# --- texts to label ------------------------------------------------------------------------------------------------------


def _write_file(client: Client, model: str, path: Path) -> None:
    items = _waiting(client, model)
    if str(path) == "-":
        with suppress(BrokenPipeError):
            _write(sys.stdout.buffer, items)
        return
    first = list(islice(items, 1))  # before the file is created: an error must leave no empty file
    try:
        with path.open("xb") as file:
            count = _write(file, chain(first, items))
    except FileExistsError:
        raise InvalidInput(f"{path} exists, and may contain labels; give another name, or delete it") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from None
    out.print(f"{count:,} texts to label are in {path}", markup=False, soft_wrap=True)


def _waiting(client: Client, model: str) -> Iterator[Mapping[str, Any]]:
    """Yield all texts to label, in the order of the draw."""
    after: int | None = 0
    while after is not None:
        page = client.get(_path(model), after=after, limit=PAGE)
        yield from page["items"]
        after = page["next"]


def _write(file: IO[bytes], items: Iterable[Mapping[str, Any]]) -> int:
    """Write the ids and inputs of texts as JSON Lines. Return the number of texts."""
    count = 0
    for count, item in enumerate(items, 1):  # noqa: B007 - it is the result
        asked = {"id": item["id"], **show_audit.input_of(item)}
        file.write(json.dumps(asked, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    file.flush()
    return count


# --- labels --------------------------------------------------------------------------------------------------------------


def _send_file(client: Client, model: str, file: Iterable[bytes], as_json: bool) -> None:
    report = send_batches(read_batches(file, BATCH), partial(_send, client, model), LabelReport(), _summary)
    _print_report(report, as_json)
    if report.rejected:
        raise typer.Exit(1)


def _send(client: Client, model: str, batch: list[Line]) -> LabelReport:
    """Send the readable lines of a batch. Return the service's report with line numbers of the file in its errors."""
    told: dict[str, Any] = {"labelled": 0, "undecidable": 0, "errors": []}
    if items := readable(batch):
        # bytes of ASCII: a text may hold half of a surrogate pair
        options = {"content": json.dumps(items).encode(), "headers": {"content-type": "application/json"}}
        # the same label twice counts once; 422: none could be used, and the report says why
        response = client.send(Call(method="POST", path=_path(model), options=options, idempotent=True, expected=(422,)))
        told = _report(response)
    errors = errors_by_line(batch, told["errors"])
    return LabelReport(labelled=told["labelled"], undecidable=told["undecidable"], rejected=len(errors), errors=errors)


def _report(response: httpx.Response) -> dict[str, Any]:
    report: dict[str, Any] = response.json()
    if "labelled" not in report:  # 422 for another reason than bad lines
        raise ApiError(response.status_code, report)
    return report


def _print_report(report: LabelReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    out.print(_summary(report), markup=False)
    print_errors(report)


def _summary(report: LabelReport) -> str:
    """Return the counts of a report, such as ``3 labelled, 1 undecidable``."""
    undecidable = f", {report.undecidable:,} undecidable" if report.undecidable else ""
    rejected = f", {report.rejected:,} rejected" if report.rejected else ""
    return f"{report.labelled:,} labelled{undecidable}{rejected}"


def _path(model: str) -> str:
    return f"/api/models/{quote(model, safe='')}/audit"
