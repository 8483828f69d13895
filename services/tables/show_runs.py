"""Training runs for a terminal: a table, the progress of one run, and its verdict. Knows rich; knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from baton.store.records import RunState
from services.tables.show import (
    VERDICT_STYLES,
    VERDICT_WORDS,
    Json,
    decision,
    duration_text,
    grid,
    serving,
    time_text,
    version_text,
)

STATE_STYLES = {
    RunState.QUEUED: "dim",
    RunState.RUNNING: "cyan",
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.CANCELLED: "yellow",
}

PROGRESS: Sequence[tuple[str, Callable[[Json], str]]] = (
    ("evaluated_version", lambda now: f"v{now['evaluated_version']}"),
    ("trials", lambda now: f"trials {now['trial']}/{now['trials']}"),
    ("folds", lambda now: f"fold {now['fold']}/{now['folds']}"),
    ("step", lambda now: f"epoch {now['epoch']:.1f}/{now['epochs']} step {now['step']}/{now['steps']}"),
    ("loss", lambda now: f"loss {now['loss']:.3f} lr {now.get('learning_rate', 0):.1e}"),
    ("f1", lambda now: f"F1 {now['f1']:.3f}"),
    ("best_f1", lambda now: f"best F1 {now['best_f1']:.3f}"),
    ("held_back_loss", lambda now: f"held-back loss {now['held_back_loss']:.3f}"),
    ("seconds_left", lambda now: f"{duration_text(now['seconds_left'])} left"),
    ("waiting", lambda now: str(now["waiting"])),
    ("done", lambda now: f"{now['done']:,}/{now['total']:,} rows"),
)
"""Parts of a run's progress, in the order in which they are shown: the key that must be present, and the text for it."""

COUNTERS = (("step", "steps"), ("done", "total"), ("trial", "trials"))
"""Keys of a run's progress that move the bar: the number that is done, and the total. The first that is present counts."""


def runs(items: Sequence[Json]) -> RenderableType:
    """Return a table with one line per run."""
    table = grid("run", "state", "version", "verdict", "started", "took", "about")
    for item in items:
        progress = progress_text(item["progress"], item["stage"]) if item["state"] == RunState.RUNNING else ""
        source = f"registers {item['source']['location']}" if item["source"] else ""
        about = [text for text in (item["reason"] or progress, item["cause"], source) if text]
        table.add_row(
            item["id"],
            Text(item["state"], style=STATE_STYLES.get(item["state"], "")),
            version_text(item["version"]),
            Text(VERDICT_WORDS.get(item["verdict"], "–"), style=VERDICT_STYLES.get(item["verdict"], "")),
            time_text(item["started_at"]),
            _duration_of(item),
            Text("; ".join(about)),
        )
    return table if items else Text("no runs yet")


def verdict(run: Json) -> RenderableType:
    """Return how a run ended: the gate's decision, or why there is none; and whether a winner serves."""
    if run["state"] != RunState.SUCCEEDED:
        return Text(f"run {run['id']} {run['state']}: {run['reason']}", style=STATE_STYLES[run["state"]])
    if run["decision"] is None:  # it registered files that are a version already, or that nothing can judge
        return Text(f"run {run['id']} {run['state']}: {run['reason']}", style="yellow")
    lines: list[RenderableType] = [decision(run["decision"])]
    if run.get("rolled_out"):
        lines.append(serving(run["version"]))
    elif run.get("on_canary"):
        line = f"v{run['version']} is on canary, and takes over if nothing speaks against it: baton rollout {run['model']}"
        lines.append(Text(line))
    elif run.get("waits_for"):
        line = (
            f"v{run['version']} waits: v{run['waits_for']} is on trial, and v{run['version']} is judged again if it takes over"
        )
        lines.append(Text(f"{line}: baton rollout {run['model']}"))
    elif run.get("rollout_problem"):
        lines.append(Text(run["rollout_problem"], style="red"))
    return Group(*lines)


@contextmanager
def progress(console: Console, *, quiet: bool) -> Iterator[Callable[[Json], None]]:
    """Show the progress of a run in a live line while the block runs.

    Yields the function to call with the run's newest state. A console that is no terminal gets one line per stage instead.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        line = bar.add_task("queued", total=None, text="")
        last_stage = ""
        told: set[str] = set()

        def tell(text: str) -> None:
            if text not in told and not quiet:
                console.print(text, markup=False, highlight=False)
            told.add(text)

        def update(run: Json) -> None:
            nonlocal last_stage
            now, stage = run["progress"], run["stage"]
            for remark in (now.get("dataset") or {}).get("remarks", ()):
                tell(f"data: {remark}")
            if now.get("recipe"):
                tell(f"recipe: {now['recipe']}")
            done, total = _counters(now)
            text = progress_text(now)
            bar.update(line, description=stage, completed=done or 0, total=total, text=text)
            if not console.is_terminal and not quiet and stage != last_stage:
                console.print(f"{stage} {text}".rstrip(), markup=False)
            last_stage = stage

        yield update


def progress_text(now: Json, stage: str = "") -> str:
    """Return the progress of a run in one line, after ``stage`` if it is given."""
    parts = [text_of(now) for key, text_of in PROGRESS if now.get(key) is not None]
    return "  ".join([stage, *parts] if stage else parts)


def _counters(now: Json) -> tuple[float | None, float | None]:
    """Return how many steps, rows or trials of a stage are done, and of how many; None for what is not known."""
    done = next((now[key] for key, _ in COUNTERS if key in now), None)
    total = next((now[key] for _, key in COUNTERS if key in now), None)
    return done, total


def _duration_of(run: Json) -> str:
    started, finished = run["started_at"], run["finished_at"]
    if started is None or finished is None:
        return "–"
    return duration_text((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds())
