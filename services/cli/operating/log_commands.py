"""`baton logs`: what the processes of the service wrote, while it runs and afterwards."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import InvalidInput, NotFound
from services.cli.terminal import AsJson, ConfigFile, err, path_of, state_of
from services.host.log_reading import RAY, UP, Entry, Reader, files_of
from services.host.starts import Start, Starts
from services.names import CONTROL

POLL_SECONDS = 0.5
"""Pause between two looks for new lines."""


def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|RUN|control|up|ray",
            help="Show one model's replicas, one run, the control plane, the supervisor (`baton up --detach`), or Ray's own "
            "servers [default: all but Ray's].",
        ),
    ] = None,
    config: ConfigFile = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    start: Annotated[
        int | None,
        typer.Option(
            "--start", min=1, metavar="N", help="Show this start of the service [default: the last that has such logs]."
        ),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, metavar="N", help="Begin with at most this many last entries.")
    ] = 200,
    as_json: AsJson = False,
) -> None:
    """Show the logs of the service, in the order of time; also when it does not run. The last five starts are kept.

    `baton logs` · `baton logs intents --follow` · `baton logs control --start 3`

    Each entry has its time, the process, and what it wrote. With --json, each is an object on a line of its own.
    """
    if os.environ.get("RAY_ADDRESS"):
        raise InvalidInput("the cluster in RAY_ADDRESS has its logs on its nodes: session_latest/logs of Ray (docs/logs.md)")
    directory = state_of(path_of(config)).logs
    chosen = _choose(directory, Starts(directory).all(), start, name)
    state = "stopped" if chosen.kept else "not stopped"
    told = f"start {chosen.number}, {chosen.began.astimezone():%Y-%m-%d %H:%M:%S}, {state}: {chosen.directory}"
    err.print(told, style="dim", markup=False, soft_wrap=True)
    reader = Reader(chosen, name)
    try:
        before = reader.read()
        _print(before[len(before) - min(lines, len(before)) :], as_json)
        while follow:
            stopped = chosen.kept  # before the last read, so that nothing is missed
            _print(reader.read(), as_json)
            if stopped:
                err.print("the service has stopped", style="dim")
                return
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `baton logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit
    finally:
        reader.close()


def _choose(directory: Path, starts: list[Start], number: int | None, name: str | None) -> Start:
    """Return start ``number``, or the last one that has logs of ``name``. Raises ``NotFound``, which says what there is."""
    if not starts:
        raise NotFound(f"no logs in {directory}: the service was not started from this configuration; `baton up` starts it")
    found = starts if number is None else [start for start in starts if start.number == number]
    if not found:
        listed = ", ".join(f"{start.number} ({start.began.astimezone():%Y-%m-%d %H:%M})" for start in starts)
        raise NotFound(f"the logs of start {number} are not there; kept are those of {listed}")
    if name is None:
        return found[-1]
    owners: set[str] = set()
    for start in reversed(found):
        here = {file.owner for file in files_of(start)}
        if name in here:
            return start
        owners |= here
    listed = ", ".join([CONTROL, UP, RAY, *sorted(owners - {CONTROL, UP, RAY})])
    where = "any start" if number is None else f"start {number}"
    raise NotFound(f"no logs of {name!r} in {where}; there are: {listed}")


def _print(entries: list[Entry], as_json: bool) -> None:
    for entry in entries:
        stamp = entry.time.isoformat(sep=" ", timespec="milliseconds")
        if as_json:
            line = json.dumps({"time": stamp, "source": entry.source, "text": entry.text}, ensure_ascii=False)
        else:
            line = f"{stamp}  {entry.source}  {entry.text}"
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
