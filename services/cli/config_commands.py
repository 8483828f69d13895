"""`baton config`: check and show the configuration, and print its JSON Schema. Contacts no service."""

from __future__ import annotations

import contextlib
import os

import typer

from baton.config import file as configuration
from baton.config.file import BatonConfig, load_config
from baton.errors import BatonError
from baton.store.urls import without_passwords
from baton.wording import counted
from services.cli.terminal import ConfigFile, err, out, path_of, print_json
from services.host.checks import startup_warnings
from services.host.checks.finding import Level

config_app = typer.Typer(no_args_is_help=True, help="Check the configuration, show it, or print its JSON Schema.")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of baton.yaml, for editors."""
    print_json(configuration.json_schema())


@config_app.command()
def check(config: ConfigFile = None) -> None:
    """Report all mistakes in the configuration. Contacts no service.

    Exit status 1 when there are mistakes. Missing data files are reported as warnings, not errors: training reads them on the
    node that runs the job. So are champions of another task than the declared one, if the database is there and answers.
    """
    path = path_of(config)
    loaded = load_config(path, os.environ)
    from services.host.checks import data  # imports SQLAlchemy, which is slow; other commands need no database

    for finding in data.data_files(loaded):
        if finding.level is not Level.OK:
            _warn(finding.text)
    for change in _task_changes(loaded):
        _warn(change)
    out.print(f"{path} is valid: {counted(len(loaded.models), 'model')}: {', '.join(model.name for model in loaded.models)}")


def _task_changes(config: BatonConfig) -> list[str]:
    """Return what the database says about changed tasks; nothing if it is not there or cannot be read."""
    from baton.store import database
    from baton.store.registry import Registry

    if not database.exists(config.database):
        return []
    try:
        with contextlib.closing(Registry(config.database, read_only=True)) as registry:  # PostgreSQL's driver may be missing
            registry.check()
            return startup_warnings.task_changes(config, registry)
    except BatonError:
        return []


def _warn(text: str) -> None:
    err.print(text, style="yellow", markup=False, soft_wrap=True)


@config_app.command()
def show(config: ConfigFile = None) -> None:
    """Print the configuration in effect: the file with environment overrides and defaults, passwords masked."""
    found = load_config(path_of(config), os.environ)
    shown = found.model_dump(mode="json")
    for receiver, settings in zip(shown["notify"], found.notify, strict=True):
        receiver.update(url=settings.shown, secret=settings.secret and "***")
    print_json({**shown, "database": without_passwords(shown["database"])})
