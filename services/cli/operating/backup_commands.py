"""`baton backup` and `baton restore`: the database and the storage of a service on one machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from baton.config.file import load_config
from baton.errors import Conflict
from baton.wording import counted
from services.cli.terminal import ConfigFile, err, out, path_of, state_of
from services.host.instance import alive

if TYPE_CHECKING:
    from baton.backup import record  # imports SQLAlchemy, as all of `baton.backup`, which other commands do not need

KEYS = "API keys are as they were when the backup was taken: revoke again those that were revoked since (`baton keys list`)"


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Write into this directory, which must be empty or new.")],
    config: ConfigFile = None,
) -> None:
    """Back up the SQLite database and the storage into a directory, while the service runs or not.

    `baton backup /backups/monday`

    A backup that is broken off is none: Ctrl-C removes it, and `baton restore` refuses what a crash leaves. Checkpoints of
    active runs are left out. PostgreSQL and object stores have tools of their own: docs/operations.md.
    """
    from baton.backup import record, taking

    loaded = load_config(path_of(config), os.environ)
    place = record.place_of(loaded.database, loaded.storage)
    with _progress("nothing was left in the directory") as progress:
        taken = taking.take(place, directory, progress)
    for name, problem in taken.damaged.items():
        err.print(
            f"WARNING: {name} is damaged in the storage itself: {problem}", style="bold yellow", markup=False, soft_wrap=True
        )
    files = counted(len(taken.files), "file")
    out.print(
        f"{directory}: {files}, {taken.bytes / 1e6:,.1f} MB, as of {taken.taken_at:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True
    )


def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that `baton backup` has written.")],
    config: ConfigFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move existing data aside. Without it, existing data are an error.")
    ] = False,
) -> None:
    """Restore the database and the storage from a backup. The service must not run.

    Every file is verified before anything is touched. A backup of an older Baton is brought up to date.
    """
    from baton.backup import record, restoring

    path = path_of(config)
    loaded = load_config(path, os.environ)
    place = record.place_of(loaded.database, loaded.storage)
    record.read(directory)
    state = state_of(path)
    running = state.read()
    if running is not None and alive(running):
        raise Conflict(f"the service runs at {running.url} (pid {running.pid}); stop it first: `baton down`")
    with state.claimed(), _progress("what was there before is still in place") as progress:
        done = restoring.restore(directory, place, progress, replace=replace)
    taken = done.backup
    out.print(f"restored {directory}, as of {taken.taken_at:%Y-%m-%d %H:%M:%S} UTC; `baton up` starts it", soft_wrap=True)
    for old in done.aside:
        out.print(f"what was there before is in {old}", soft_wrap=True)
    err.print(f"NOTE: {KEYS}", style="dim", markup=False, soft_wrap=True)


@contextmanager
def _progress(consolation: str) -> Iterator[record.Progress]:
    """Show progress on a terminal. ``consolation``: what Ctrl-C leaves."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)  # a file would get an empty line
    tasks = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    try:
        with bar:
            yield report
    except KeyboardInterrupt:
        err.print(f"\nbroken off; {consolation}", style="yellow")
        raise typer.Exit(130) from None
