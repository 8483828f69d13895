"""`baton apply`: let a service that runs use the configuration as it is now."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from baton.config.changes import Difference
from baton.config.file import BatonConfig, load_config
from baton.errors import Conflict, InvalidInput, NotReady
from services.cli.pending import is_ours
from services.cli.terminal import AsJson, ConfigFile, connect, err, out, path_of, print_json, state_of, warn
from services.host import applying
from services.tables import show_changes

NOT_OURS = (
    "no service that `baton up` started with this file runs here, and only such a one can be changed. If the one at {url} was "
    "deployed from a rendered configuration, `baton render` writes the new one: docs/operations.md, «Change the configuration»"
)


def apply(
    context: typer.Context,
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what differs, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the service is changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how the configuration differs from what the running service uses, and apply it without a restart.

    Models are added, removed and changed; replicas are replaced only if what they read has changed, and the old ones answer
    until the new ones do. Address, keys, logs and stores need a restart, and this says so. A file with mistakes changes
    nothing. Run it where `baton up` was run, with RAY_ADDRESS if that was set.
    """
    path, address = path_of(config), os.environ.get("RAY_ADDRESS")
    loaded = load_config(path, os.environ)
    from services.host.checks import configuration as checks  # imports SQLAlchemy, which is slow; others need no database

    for text in checks.warnings(loaded):
        warn(text)
    with connect(context, config) as client:
        if not is_ours(config):
            raise NotReady(NOT_OURS.format(url=client.url))
        running, differs = applying.compare(client, loaded, address)
        plan = {"url": client.url, **asdict(differs), **asdict(applying.look_ahead(client, differs)), "applied": False}
    if not as_json:
        out.print(show_changes.changes(plan) if differs else f"the service at {plan['url']} uses {path.name} as it is")
    if not dry_run:
        if plan["obstacles"]:
            raise Conflict("nothing was applied: " + "; ".join(plan["obstacles"]))
        _confirm(differs, yes=yes, may_ask=sys.stdin.isatty() and not as_json)
        _carry_out(running, loaded, path)
        plan["applied"] = bool(differs.models)
    if as_json:
        print_json(plan)
    elif differs:
        out.print(show_changes.outcome(plan, dry_run=dry_run))


def _confirm(differs: Difference, *, yes: bool, may_ask: bool) -> None:
    """Ask whether the changes are wanted, unless there are none or nobody has to be asked. Exit with status 1 if they are not.

    Raises ``InvalidInput`` if nobody can be asked.
    """
    if yes or not differs.models:
        return
    if not may_ask:
        raise InvalidInput("nothing was applied: nobody can be asked without a terminal; `baton apply --yes` does not ask")
    typer.confirm("Apply this to the running service?", abort=True)


def _report(text: str) -> None:
    err.print(f"baton: {text} …", style="dim", markup=False, soft_wrap=True)


def _carry_out(running: BatonConfig, wanted: BatonConfig, path: Path) -> None:
    """Apply the models of ``wanted``. If nothing differs, finish what a call that was killed may have left."""
    address, state = os.environ.get("RAY_ADDRESS"), state_of(path)
    try:
        if address:
            applying.apply_on_cluster(running, wanted, address, state, _report)
        else:
            applying.apply_here(running, wanted, state, _report)
    except KeyboardInterrupt:
        err.print("\ninterrupted: some of it may be applied; `baton apply` again brings it to an end", markup=False)
        raise typer.Exit(130) from None
