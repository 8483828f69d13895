"""`baton config`: check and show the configuration, and print its JSON Schema. Contacts no service."""

from __future__ import annotations

import os

import typer

from baton.config import file as configuration
from baton.config.file import load_config
from baton.urls import without_passwords
from baton.wording import counted
from services.cli.terminal import ConfigFile, out, path_of, print_json, warn

config_app = typer.Typer(no_args_is_help=True, help="Check the configuration, show it, or print its JSON Schema.")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of baton.yaml, for editors."""
    print_json(configuration.json_schema())


@config_app.command()
def check(config: ConfigFile = None) -> None:
    """Report all mistakes in the configuration. Contacts no service.

    Exit status 1 when there are mistakes. Missing data files and base models are reported as warnings, not errors: training
    reads them on the node that runs the job. So are triggers of retraining that can never fire and, if the database is there
    and answers, champions of another task than the declared one and models that may have been renamed.
    """
    path = path_of(config)
    loaded = load_config(path, os.environ)
    from services.host.checks import configuration as checks  # imports SQLAlchemy, which is slow; others need no database

    for text in checks.warnings(loaded):
        warn(text)
    out.print(f"{path} is valid: {counted(len(loaded.models), 'model')}: {', '.join(model.name for model in loaded.models)}")


@config_app.command()
def show(config: ConfigFile = None) -> None:
    """Print the configuration in effect: the file with environment overrides and defaults, passwords masked."""
    found = load_config(path_of(config), os.environ)
    shown = found.model_dump(mode="json")
    for receiver, settings in zip(shown["notify"], found.notify, strict=True):
        receiver.update(url=settings.shown, secret=settings.secret and "***")
    print_json({**shown, "database": without_passwords(shown["database"])})
