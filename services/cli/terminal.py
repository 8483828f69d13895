"""Parts that the commands share: consoles, common options, the connection to the service, and output as JSON or tables."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from baton.config import file as configuration
from baton.config.file import load_config
from baton.errors import NotReady, RegistryError
from services.client import Client
from services.host.instance import StateDirectory, alive, url_of

LISTEN_SECONDS = 3.0
"""Maximum time for a service to accept a connection."""

out = Console()
err = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options that come before the command's name, as in ``baton --key KEY status``. Commands find them in ``context.obj``."""

    key: str | None
    """API key, from ``--key`` or BATON_KEY."""


OFFER_SECONDS = 2.0
"""How long the service has to answer when the shell completes a command: somebody waits at the keyboard."""

OFFERED_VERSIONS = 50
"""Maximum number of versions that the shell offers: the newest."""


def offer_models(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the models that the shell offers, each with its task and its champion."""
    return [
        (item["name"], f"{item['task']}, {'no champion' if item['champion'] is None else 'v' + str(item['champion'])}")
        for item in _offered(context, "/api/models")
        if item["name"].startswith(incomplete)
    ]


def offer_versions(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the versions that the shell offers, the newest first, each with its F1."""
    path = f"/api/models/{context.params.get('model')}/versions"
    return [
        (str(item["number"]), f"F1 {item['metrics'].get('f1', 0):.4f}{', champion' if item['champion'] else ''}")
        for item in _offered(context, path, limit=OFFERED_VERSIONS)
        if str(item["number"]).startswith(incomplete)
    ]


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", help="Read this configuration file [default: BATON_CONFIG, else ./baton.yaml].", metavar="FILE"
    ),
]
Model = Annotated[str, typer.Argument(help="Name of a model in baton.yaml.", metavar="MODEL", autocompletion=offer_models)]
Version = Annotated[int, typer.Argument(min=1, help="Number of the version.", metavar="VERSION", autocompletion=offer_versions)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, metavar="N", help="Show at most this many rows.")]


def path_of(config: Path | None) -> Path:
    """Return the path of the configuration file: the option, else BATON_CONFIG, else ``baton.yaml``."""
    return config or Path(os.environ.get("BATON_CONFIG", configuration.DEFAULT_FILE))


def connect(context: typer.Context, config: Path | None, *, retries: int = 0, seconds: float | None = None) -> Client:
    """Return a client of the service, with the API key of this command.

    The URL is BATON_URL, else that of the service that was started from the configuration, else the one in the configuration.
    Only the last one is read from the file, so that a file with mistakes hides no service that runs.
    """
    options: CommonOptions = context.obj
    url = os.environ.get("BATON_URL")
    if not url:
        path = path_of(config)
        instance = None if os.environ.get("RAY_ADDRESS") else state_of(path).read()
        running = instance is not None and alive(instance)
        # its port may differ from the file's, which may have changed since it started
        url = instance.url if instance is not None and running else url_of(load_config(path, os.environ))
    return Client(url, retries=retries, key=options.key, seconds=seconds)


def _offered(context: typer.Context, path: str, **parameters: int) -> list[dict[str, Any]]:
    """Return the items of a list of the service. A shell cannot show an error: whatever goes wrong, nothing is offered."""
    context.obj = CommonOptions(key=os.environ.get("BATON_KEY"))  # the shell does not run the callback that sets it
    try:
        with connect(context, context.params.get("config"), seconds=OFFER_SECONDS) as client:
            items: list[dict[str, Any]] = client.get(path, **parameters)["items"]
    except Exception:
        return []
    return items


def connect_to_read(context: typer.Context, config: Path | None, *, quiet: bool = False) -> Client:
    """Return a client of the service as `connect`, or one that reads the database if no service runs; then say so.

    ``quiet``: do not say it.

    Raises:
        NotReady: no service runs, and its database cannot be read.
    """
    client = connect(context, config)
    if os.environ.get("BATON_URL") or os.environ.get("RAY_ADDRESS") or listens(client.url):
        return client
    from baton.store import database  # imports SQLAlchemy, and the next line FastAPI, which other commands do not need
    from services.host import offline

    loaded = load_config(path_of(config), os.environ)
    if not database.exists(loaded.database):
        return client  # whose error tells how to start the service
    try:
        reader = offline.connect(loaded, client.url)
    except RegistryError as error:
        raise NotReady(f"no service runs at {client.url}, and {error}") from error
    if not quiet:
        warn(from_database(client.url))
    client.close()
    return reader


def from_database(url: str) -> str:
    """Return the sentence that tells where an answer without a service at ``url`` is from."""
    return f"no service runs at {url}; this is from its database"


def listens(url: str) -> bool:
    """Return whether anything accepts connections there."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=LISTEN_SECONDS):
            return True
    except OSError:
        return False


@contextmanager
def may_go_on(what: str) -> Iterator[None]:
    """On Ctrl-C, say that the service may finish what it was asked to do, and exit with status 130.

    Args:
        what: what it does, as the beginning of a sentence: ``the promotion``.
    """
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"\n{what} may go on; `baton status` and `baton history` show what happened", markup=False)
        raise typer.Exit(130) from None


def state_of(path: Path) -> StateDirectory:
    """Return the state directory: BATON_STATE, else ``.baton`` next to the configuration.

    BATON_STATE is for configurations in directories that this process cannot write to.
    """
    return StateDirectory(Path(os.environ.get("BATON_STATE") or path.resolve().parent / ".baton").resolve())


def print_value(value: Any, as_json: bool, render: Callable[[Any], Any]) -> None:
    """Print ``value`` as JSON for scripts, or as ``render`` shows it to people."""
    if as_json:
        print_json(value)
    else:
        out.print(render(value))


def warn(text: str) -> None:
    """Print something that is odd, and no error, on stderr."""
    err.print(text, style="yellow", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON on stdout. A closed pipe (`baton … | head`) is not an error."""
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
