"""The ``baton`` command: registers the commands of all ``*_commands`` modules, and turns errors into messages."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from baton.errors import BatonError
from services.cli import (
    audit_commands,
    config_commands,
    data_commands,
    dataset_commands,
    demo_commands,
    feedback_commands,
    init_commands,
    key_commands,
    predict_commands,
    retrain_commands,
    rollout_commands,
    run_commands,
    version_commands,
)
from services.cli.operating import (
    apply_commands,
    backup_commands,
    doctor_commands,
    log_commands,
    rename_commands,
    render_commands,
    service_commands,
)
from services.cli.terminal import CommonOptions, err, out
from services.client import ApiError
from services.tables import show

logger = logging.getLogger("baton")

PIPED_WIDTH = 200
"""Width of the output in characters where it goes to a file or to another program, unless COLUMNS says another."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="**Baton keeps NLP models in production learning**: serve, fine-tune, evaluate, hot-swap.\n\n"
    "Start with `baton demo`, which runs the whole loop in minutes, or with `baton up` and a baton.yaml of your own.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from baton import installation

        out.print(f"baton {installation.version()}", markup=False, highlight=False)
        raise typer.Exit


@app.callback()
def set_common_options(
    context: typer.Context,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="BATON_KEY",
            metavar="KEY",
            help="Send this API key to the service. Prefer BATON_KEY: other users of the machine can see command lines.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Handle the options that come before the command's name."""
    context.obj = CommonOptions(key=key)
    for console in (out, err):
        if not console.is_terminal and "COLUMNS" not in os.environ:  # rich would take the width of a small terminal
            console.width = PIPED_WIDTH


# in the order in which `baton --help` lists them
app.command()(init_commands.init)
app.command()(service_commands.up)
app.command()(service_commands.down)
app.command()(service_commands.status)
app.command()(apply_commands.apply)
app.command()(log_commands.logs)
app.command()(doctor_commands.doctor)
app.command()(backup_commands.backup)
app.command()(backup_commands.restore)
app.command()(rename_commands.rename)
app.command()(run_commands.train)
app.command()(run_commands.register)
app.command()(run_commands.runs)
app.command()(run_commands.cancel)
app.command()(version_commands.versions)
app.command()(version_commands.evaluate)
app.command()(version_commands.report)
app.command()(data_commands.data)
app.command()(dataset_commands.datasets)
app.command()(version_commands.promote)
app.command()(version_commands.reject)
app.command()(version_commands.rollback)
app.command()(rollout_commands.canary)
app.command()(rollout_commands.shadow)
app.command()(rollout_commands.rollout)
app.command()(retrain_commands.retrain)
app.command()(version_commands.history)
app.command()(predict_commands.predict)
app.command()(render_commands.render)
app.command()(feedback_commands.feedback)
app.command()(feedback_commands.live)
app.command()(audit_commands.audit)
app.command()(demo_commands.demo)
app.add_typer(config_commands.config_app, name="config")
app.add_typer(key_commands.keys_app, name="keys")


def main() -> None:
    """Run the command. An error that the user can act on is printed as one message, with exit status 1."""
    try:
        app()
    except ApiError as error:
        if "decision" in error.content:
            out.print(show.decision(error.content["decision"]))
        else:
            hint = "; set BATON_KEY to a valid key, or pass one with --key" if error.status == 401 else ""
            err.print(f"error: {error}{hint}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except BatonError as error:
        if logger.isEnabledFor(logging.INFO):
            logger.error(str(error))
        else:
            err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
