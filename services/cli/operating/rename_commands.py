"""`baton rename`: a model gets another name and keeps all that it has."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Annotated

import typer

from baton.config.file import load_config
from baton.errors import InvalidInput
from baton.wording import counted
from services.cli.terminal import ConfigFile, err, out, path_of


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The name until now.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name that the model has in baton.yaml now.")],
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would get the new name, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything is changed.")] = False,
) -> None:
    """Rename a model: its versions, history, feedback, data sets and logged answers go with it.

    `baton rename intents tickets`

    Change the name in baton.yaml first. If the service runs, `baton apply` follows, and then this command: the new name answers
    a moment later. Callers must use the new name; the old one is free afterwards. API keys that were limited to the old name
    are limited to the new one. Broken off, the command can be given again.
    """
    from baton.artifacts.storage import Storage  # these import SQLAlchemy and fsspec, which other commands do not need
    from baton.store.registry import Registry
    from services.host import renaming

    loaded = load_config(path_of(config), os.environ)
    renaming.check_names(loaded, old, new)
    with closing(Registry(loaded.database)) as registry:
        registry.check()
        out.print(_preview(old, new, registry.check_rename(old, new)), soft_wrap=True)
        if dry_run:
            return
        _confirm(yes=yes)
        renaming.rename(registry, Storage(loaded.storage), old, new, by=_who(), waiting=lambda: _say(old))
        champion = registry.champion(new).version
    serving = "it has no champion yet" if champion is None else f"v{champion} is its champion"
    out.print(f"renamed {old} to {new}; {serving}", soft_wrap=True)


def _preview(old: str, new: str, moved: Mapping[str, int]) -> str:
    """Return a sentence about what gets the new name."""
    parts = [counted(rows, name) for name, rows in moved.items() if rows]
    return f"{old} becomes {new}, with {', '.join(parts) if parts else 'nothing but its name'}"


def _confirm(*, yes: bool) -> None:
    """Ask whether the model is to be renamed. Raises ``InvalidInput`` if nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput("nothing was renamed: nobody can be asked without a terminal; `baton rename --yes` does not ask")
    typer.confirm("Rename it? Callers of the old name get status 404 from then on.", abort=True)


def _who() -> str:
    """Return who runs this command: it writes to the database itself, so that no API key says so."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


def _say(old: str) -> None:
    err.print(f"baton: waiting until the service lets go of {old} …", style="dim", markup=False, soft_wrap=True)
