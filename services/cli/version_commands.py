"""Commands on a model's versions, and which of them serves: `versions`, `evaluate`, `report`, `promote`, `reject`, …"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import InvalidInput
from services.cli.terminal import (
    AsJson,
    ConfigFile,
    Limit,
    Model,
    Version,
    connect,
    connect_to_read,
    err,
    may_go_on,
    out,
    print_json,
    print_value,
)
from services.client import ApiError
from services.report.words import Language
from services.tables import show, show_report


def versions(
    context: typer.Context, model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """List the versions of a model, newest first, and how often the champion was challenged on its holdout."""
    with connect_to_read(context, config) as client:
        items = client.get(f"/api/models/{model}/versions", limit=limit)["items"]
        state = None if as_json else client.get(f"/api/models/{model}")
    print_value(items, as_json, show.versions)
    if state is not None and items:
        out.print(show.matches(state))


def report(
    context: typer.Context,
    model: Model,
    version: Version,
    config: ConfigFile = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one HTML file; - is standard output.", metavar="FILE")
    ] = None,
    language: Annotated[Language, typer.Option(help="Language of the HTML file: English or Simplified Chinese.")] = "en",
    as_json: AsJson = False,
) -> None:
    """Show why the gate promoted or refused a version: its F1 against the champion's, and what changed.

    F1 is shown for the whole holdout, its parts, slices and labels, with the interval of each gain. The confusions and the
    answers that changed most follow. The report of a first version, which has no champion to beat, has its labels alone.

    With --html the same is one file for people who decide: it opens in any browser without a network, and prints on A4.
    """
    if html is not None and as_json:
        raise InvalidInput("--html and --json exclude each other; use one of them")
    with connect_to_read(context, config) as client:
        item = client.get(f"/api/models/{model}/versions/{version}/report")
    if html is None:
        print_value(item, as_json, show_report.report)
        return
    from services.report.page import page  # loads templates, which no other command needs

    _write(html, page(item, language=language))


def evaluate(
    context: typer.Context,
    model: Model,
    version: Version,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the F1 of a version on the newest holdout, beside the champion's. Nothing moves, and no match is counted.

    The version is evaluated now unless it was before. If the gate has judged it on this holdout, against the same
    champion, its report follows; otherwise its F1 by label. The champion's F1 is there if it was evaluated on this holdout.
    """
    with connect(context, config) as client:
        item = client.post(f"/api/models/{model}/versions/{version}/evaluations")
    print_value(item, as_json, show_report.evaluation)


def promote(
    context: typer.Context,
    model: Model,
    version: Version,
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Bypass the gate. Requires --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Record this reason in the history.", metavar="REASON")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a version with the champion, and swap it in if it wins. The command returns when the version serves.

    Exit status 1 when the gate refuses the version.
    """
    body = {"version": version, "force": force, "reason": reason}
    try:
        with may_go_on("the promotion"), connect(context, config) as client:
            answer = client.post(f"/api/models/{model}/promotions", body)
    except ApiError as error:
        if as_json and "decision" in error.content:  # without --json, `app.main` prints the decision
            print_json(error.content)
            raise typer.Exit(1) from None
        raise
    print_value(answer, as_json, show.moved)


def reject(
    context: typer.Context,
    model: Model,
    version: Version,
    reason: Annotated[str, typer.Option(help="Record this reason in the history.", metavar="REASON")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Keep a version out of service: end its roll-out now, and let nothing but --force promote it."""
    with may_go_on("the rejection"), connect(context, config) as client:
        answer = client.post(f"/api/models/{model}/versions/{version}/rejection", {"reason": reason})
    print_value(answer, as_json, show.rejected)
    if answer["reason"] != reason and not as_json:
        err.print("It was rejected before: the first reason stays.", style="yellow")


def rollback(
    context: typer.Context,
    model: Model,
    config: ConfigFile = None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", min=1, metavar="VERSION", help="Roll back to this earlier champion [default: the previous champion]."
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Record this reason in the history.", metavar="REASON")
    ] = "rolled back by an operator",
    as_json: AsJson = False,
) -> None:
    """Put an earlier champion back into service."""
    with may_go_on("the rollback"), connect(context, config) as client:
        answer = client.post(f"/api/models/{model}/rollback", {"version": to, "reason": reason})
    print_value(answer, as_json, show.moved)


def history(
    context: typer.Context, model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """Show what happened to a model: promotions, refusals and failures, newest first."""
    with connect_to_read(context, config) as client:
        items = client.get(f"/api/models/{model}/history", limit=limit)["items"]
    print_value(items, as_json, show.history)


def _write(file: Path, page: str) -> None:
    """Write a page to a file, or to standard output for ``-``. Raises ``InvalidInput`` if the file cannot be written."""
    if str(file) == "-":
        with suppress(BrokenPipeError):
            sys.stdout.write(page)
        return
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"--html {file}: it cannot be written: {error.strerror}; name a file in a directory that exists"
        ) from None
    err.print(f"wrote {file}", markup=False, soft_wrap=True)
