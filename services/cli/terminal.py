"""What the groups of commands share: where they print, options that several of them have, and the way to the service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from baton.config import file as configuration
from baton.config.file import load_config
from services.client import Client
from services.host import cluster

out = Console()
err = Console(stderr=True)

key_in_use: ContextVar[str | None] = ContextVar("key_in_use", default=None)
"""The API key of this command: from ``--key`` or BATON_KEY."""

ConfigFile = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="Configuration file [env BATON_CONFIG, else ./baton.yaml].", metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Model = Annotated[str, typer.Argument(help="A model's name in baton.yaml.", metavar="MODEL")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="Rows to show.")]


def path_of(config: Path | None) -> Path:
    """The configuration file that a command is meant to read."""
    return config or Path(os.environ.get("BATON_CONFIG", configuration.DEFAULT_FILE))


def connect(config: Path | None, *, retries: int = 0) -> Client:
    """A client of the service that BATON_URL names, or that was started from the configuration, or that it says."""
    from services.host.supervisor import url_of

    url = os.environ.get("BATON_URL")
    if not url:
        path = path_of(config)
        url = url_of(load_config(path, os.environ))
        instance = None if os.environ.get("RAY_ADDRESS") else state_of(path).read()
        if instance is not None and cluster.alive(instance):
            url = instance.url  # it may have been started with another port
    return Client(url, retries=retries, key=key_in_use.get())


def state_of(path: Path) -> cluster.State:
    """``.baton`` next to the configuration, or BATON_STATE where that place cannot be written to."""
    return cluster.State(Path(os.environ.get("BATON_STATE") or path.resolve().parent / ".baton").resolve())


def print_value(value: Any, as_json: bool, render: Callable[[Any], Any]) -> None:
    """A value as JSON, or as ``render`` shows it to people."""
    if as_json:
        print_json(value)
    else:
        out.print(render(value))


def print_json(value: Any) -> None:
    """A value as JSON on stdout."""
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
