"""The ``baton`` command. Reads the environment and the configuration, talks to the service, prints for people or JSON."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from baton.config import file as configuration
from baton.config.file import load_config
from baton.errors import BatonError, InvalidInput
from baton.store.urls import public
from services.cli import (
    feedback_commands,
    key_commands,
    predict_commands,
    render_commands,
    run_commands,
    service_commands,
    show,
    show_datasets,
)
from services.cli.terminal import (
    AsJson,
    ConfigFile,
    Limit,
    Model,
    connect,
    err,
    key_in_use,
    out,
    path_of,
    print_json,
    print_value,
)
from services.client import ApiError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="**Baton keeps NLP models in production learning**: serve, fine-tune, judge, hot-swap.\n\n"
    "Start with `baton demo` (the whole loop in minutes), or `baton up` with a baton.yaml of your own.",
)
config_app = typer.Typer(no_args_is_help=True, help="Check the configuration, show it, or print its JSON Schema.")
app.add_typer(config_app, name="config")
app.add_typer(key_commands.keys_app, name="keys")

logger = logging.getLogger("baton")

PIPED_WIDTH = 200


@app.callback()
def common(
    key: Annotated[
        str | None,
        typer.Option(envvar="BATON_KEY", help="API key for the service. Others see command lines: prefer BATON_KEY."),
    ] = None,
) -> None:
    """What all commands share."""
    key_in_use.set(key)
    for console in (out, err):
        if not console.is_terminal:  # a file or another program: lines are whole there
            console.width = max(console.width, PIPED_WIDTH)


app.command()(service_commands.up)
app.command()(service_commands.down)
app.command()(service_commands.status)
app.command()(run_commands.train)
app.command()(run_commands.runs)
app.command()(run_commands.cancel)


@app.command()
def versions(model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Versions of a model, newest first."""
    with connect(config) as client:
        items = client.get(f"/api/models/{model}/versions", limit=limit)["items"]
    print_value(items, as_json, show.versions)


@app.command()
def datasets(
    model: Model,
    number: Annotated[int | None, typer.Argument(min=1, help="Show this version whole.")] = None,
    config: ConfigFile = None,
    diff: Annotated[
        tuple[int, int] | None, typer.Option("--diff", help="What changed from the first to the second.", metavar="OLD NEW")
    ] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="All rows that this version keeps in quarantine, with the reasons.")
    ] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Data set versions of a model, newest first: their rows, and what was left out and why."""
    if diff is not None and number is not None:
        raise InvalidInput("a number shows one version, --diff OLD NEW compares two; leave one of them out")
    if quarantine and number is None:
        raise InvalidInput(f"--quarantine lists the rows of one version; name it: baton datasets {model} NUMBER --quarantine")
    path = f"/api/models/{model}/datasets"
    with connect(config) as client:
        if diff is not None:
            old, new = diff
            print_value(client.get(f"{path}/{new}/diff", against=old), as_json, show_datasets.difference)
        elif quarantine:
            print_value(client.all_of(f"{path}/{number}/quarantine"), as_json, show_datasets.quarantine)
        elif number is not None:
            print_value(client.get(f"{path}/{number}"), as_json, show_datasets.version)
        else:
            print_value(client.get(path, limit=limit)["items"], as_json, show_datasets.versions)


@app.command()
def promote(
    model: Model,
    version: Annotated[int, typer.Argument(min=1, help="The version that should take over.")],
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Pass over the gate; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; stays in the history.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a version against the champion and, if it wins, swap it in. Exit status 1 when the gate refuses."""
    body = {"version": version, "force": force, "reason": reason}
    try:
        with connect(config) as client:
            answer = client.post(f"/api/models/{model}/promotions", body)
    except ApiError as error:
        if not (as_json and "decision" in error.content):
            raise
        print_json(error.content)
        raise typer.Exit(1) from None
    print_value(answer, as_json, lambda item: show.decision(item["decision"]))


@app.command()
def rollback(
    model: Model,
    config: ConfigFile = None,
    to: Annotated[int | None, typer.Option("--to", min=1, help="An earlier champion; the previous one by default.")] = None,
    reason: Annotated[str, typer.Option(help="Why; stays in the history.")] = "rolled back by an operator",
    as_json: AsJson = False,
) -> None:
    """Put the previous champion back in service."""
    with connect(config) as client:
        answer = client.post(f"/api/models/{model}/rollback", {"version": to, "reason": reason})
    print_value(answer, as_json, lambda item: show.decision(item["decision"]))


@app.command()
def retrain(
    model: Model,
    config: ConfigFile = None,
    pause: Annotated[
        str | None, typer.Option("--pause", metavar="REASON", help="Start no run by itself until --resume, and say why.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Let runs start by themselves again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a model would be trained anew by itself now, and why or why not; or pause and resume that.

    Triggers stand in baton.yaml under `retrain:`. `baton train MODEL` starts a run by hand at any time.
    """
    if pause is not None and resume:
        raise InvalidInput("--pause and --resume contradict each other; give one of them")
    path = f"/api/models/{model}/retrain"
    with connect(config) as client:
        if pause is not None or resume:
            state = client.post(path, {"paused": pause is not None, "reason": pause})
        else:
            state = client.get(path)
    print_value(state, as_json, show.retrain)


@app.command()
def history(model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """What happened to a model: promotions, refusals, failures, newest first."""
    with connect(config) as client:
        items = client.get(f"/api/models/{model}/history", limit=limit)["items"]
    print_value(items, as_json, show.history)


app.command()(predict_commands.predict)
app.command()(render_commands.render)
app.command()(feedback_commands.feedback)
app.command()(feedback_commands.live)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running and its files in place.")] = False,
) -> None:
    """Run the whole loop on bundled samples: train, serve, swap under load, refuse a bad version, roll back."""
    from services.demo import demo as story

    story.play(out, keep=keep)


@config_app.command("schema")
def config_schema() -> None:
    """The JSON Schema of baton.yaml, for editors."""
    print_json(configuration.json_schema())


@config_app.command("check")
def config_check(config: ConfigFile = None) -> None:
    """Report every mistake of the configuration; exit status 1 when there is one. Nobody is contacted.

    Files that are missing here are told, and are no mistake: training reads them where its job runs.
    """
    path = path_of(config)
    loaded = load_config(path, os.environ)
    for model in loaded.models:
        for key, value in (("train", model.data.train), ("holdout", model.data.holdout)):
            if isinstance(value, str) and Path(value).is_absolute() and not Path(value).is_file():
                err.print(
                    f"{model.name}: data.{key}: {value} is no file on this machine",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )
    out.print(f"{path} is valid: {len(loaded.models)} model(s): {', '.join(model.name for model in loaded.models)}")


@config_app.command("show")
def config_show(config: ConfigFile = None) -> None:
    """The configuration in force: the file, environment overrides and defaults together; passwords are masked."""
    shown = load_config(path_of(config), os.environ).model_dump(mode="json")
    print_json({**shown, "database": public(shown["database"])})


def main() -> None:
    """Entry point: an error for people is one message and exit status 1."""
    try:
        app()
    except ApiError as error:
        if "decision" in error.content:
            out.print(show.decision(error.content["decision"]))
        else:
            hint = "; set BATON_KEY to it, or give it with --key" if error.status == 401 else ""
            err.print(f"error: {error}{hint}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except BatonError as error:
        if logger.isEnabledFor(logging.INFO):
            logger.error(str(error))
        else:
            err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
