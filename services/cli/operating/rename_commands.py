"""`baton rename`: a model gets another name and keeps all that it has."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Annotated

import typer

from baton.config.file import load_config
from services.cli.terminal import ConfigFile, err, out, path_of


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The name until now.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name that the model has in baton.yaml now.")],
    config: ConfigFile = None,
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
        renaming.rename(registry, Storage(loaded.storage), old, new, waiting=lambda: _say(old))
        champion = registry.champion(new).version
    serving = "it has no champion yet" if champion is None else f"v{champion} is its champion"
    out.print(f"renamed {old} to {new}; {serving}", soft_wrap=True)


def _say(old: str) -> None:
    err.print(f"baton: waiting until the service lets go of {old} …", style="dim", markup=False, soft_wrap=True)
