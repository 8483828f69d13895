"""`baton config`: check and show the configuration, and print its JSON Schema. Contacts no service."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from baton.config import file as configuration
from baton.config.file import load_config
from baton.store.urls import without_passwords
from services.cli.terminal import ConfigFile, err, out, path_of, print_json

config_app = typer.Typer(no_args_is_help=True, help="Check the configuration, show it, or print its JSON Schema.")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of baton.yaml, for editors."""
    print_json(configuration.json_schema())


@config_app.command()
def check(config: ConfigFile = None) -> None:
    """Report all mistakes in the configuration. Contacts no service.

    Exit status 1 when there are mistakes. Missing data files are reported as warnings, not errors: training reads them on the
    node that runs the job.
    """
    path = path_of(config)
    loaded = load_config(path, os.environ)
    for model in loaded.models:
        for key, value in (("train", model.data.train), ("holdout", model.data.holdout)):
            if isinstance(value, str) and Path(value).is_absolute() and not Path(value).is_file():
                err.print(
                    f"{model.name}: data.{key}: {value} does not exist on this machine",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )
    out.print(f"{path} is valid: {len(loaded.models)} model(s): {', '.join(model.name for model in loaded.models)}")


@config_app.command()
def show(config: ConfigFile = None) -> None:
    """Print the configuration in effect: the file with environment overrides and defaults, passwords masked."""
    shown = load_config(path_of(config), os.environ).model_dump(mode="json")
    print_json({**shown, "database": without_passwords(shown["database"])})
