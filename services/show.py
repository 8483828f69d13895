"""API answers as tables and sentences for a terminal. Knows rich; knows neither HTTP nor the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

VERDICTS = {"promote": "green", "reject": "red", "inconclusive": "yellow"}
STATES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "queued": "dim"}


def models(items: Sequence[Json]) -> RenderableType:
    """One line a model."""
    table = _table("model", "task", "champion", "F1", "replicas", "now")
    for item in items:
        serving = [state["version"] for state in item["replicas"]]
        right = sum(version == item["champion"] for version in serving)
        replicas = (
            f"{right}/{item['replicas_wanted']} on v{item['champion']}" if item["champion"] else f"{len(serving)} waiting"
        )
        now = "rolling out" if item["rolling_out"] else f"run {item['active_run']}" if item["active_run"] else ""
        problems = {state["error"] for state in item["replicas"] if state["error"]}
        table.add_row(
            item["name"],
            item["task"],
            _version(item["champion"]),
            _score(item["f1"]),
            replicas,
            Text("; ".join(part for part in (now, *problems) if part)),
        )
    return table


def runs(items: Sequence[Json]) -> RenderableType:
    """One line a run."""
    table = _table("run", "state", "version", "started", "took", "about")
    for item in items:
        progress = item["progress"]
        about = item["reason"] or ("" if item["state"] != "running" else _progress_text(item["stage"], progress))
        table.add_row(
            item["id"],
            Text(item["state"], style=STATES.get(item["state"], "")),
            _version(item["version"]),
            _when(item["started_at"]),
            _took(item["started_at"], item["finished_at"]),
            Text(about),
        )
    return table if items else Text("no runs yet")


def versions(items: Sequence[Json]) -> RenderableType:
    """One line a version; the champion is marked."""
    table = _table("", "version", "F1", "accuracy", "rows", "tune", "made")
    for item in items:
        lineage = item["lineage"]
        table.add_row(
            "★" if item["champion"] else "",
            _version(item["number"]),
            _score(item["metrics"].get("f1")),
            _score(item["metrics"].get("accuracy")),
            f"{lineage.get('dataset', {}).get('train_rows', '')}",
            str(lineage.get("training", {}).get("tune", "")),
            _when(item["created_at"]),
        )
    return table if items else Text("no versions yet; `baton train MODEL --wait` makes the first")


def history(items: Sequence[Json]) -> RenderableType:
    """The story of a model, newest first."""
    table = _table("when", "what", "version", "why")
    styles = {"promoted": "green", "refused": "red", "inconclusive": "yellow", "rolled back": "cyan"}
    for item in items:
        style = styles.get(item["what"], "red")
        table.add_row(_when(item["at"]), Text(item["what"], style=style), _version(item["version"]), Text(item["text"]))
    return table if items else Text("nothing has happened yet")


def decision(item: Json) -> RenderableType:
    """The sentence, in the verdict's colour."""
    reason = f" Reason: {item['reason']}" if item.get("reason") else ""
    return Text(item["sentence"] + reason, style=VERDICTS[item["verdict"]])


def verdict(run: Json) -> RenderableType:
    """How a run ended."""
    if run["state"] != "succeeded":
        return Text(f"run {run['id']} {run['state']}: {run['reason']}", style=STATES[run["state"]])
    lines: list[RenderableType] = [decision(run["decision"])]
    if run.get("rolled_out"):
        lines.append(Text(f"v{run['version']} is serving.", style="bold green"))
    elif run.get("rollout_problem"):
        lines.append(Text(run["rollout_problem"], style="red"))
    return Group(*lines)


def predictions(texts: Sequence[str], answers: Sequence[Any], headers: Mapping[str, str]) -> RenderableType:
    """Labels with scores for each text."""
    table = _table("text", "label", "score")
    for text, answer in zip(texts, answers, strict=True):
        for row, choice in enumerate(answer):
            table.add_row(Text(text if row == 0 else ""), Text(choice["label"]), f"{choice['score']:.3f}")
    where = f"v{headers['x-model-version']}, {headers['x-inference-ms']} ms inference, {headers['x-queue-ms']} ms queue"
    return Group(table, Text(where, style="dim"))


@contextmanager
def progress(console: Console, *, quiet: bool) -> Iterator[Callable[[Json], None]]:
    """A live line for a run; the yielded function takes the run's newest state."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        line = bar.add_task("queued", total=None, text="")
        last = ""

        def update(run: Json) -> None:
            nonlocal last
            now = run["progress"]
            done, total = now.get("step", now.get("done")), now.get("steps", now.get("total"))
            text = _progress_text("", now)
            bar.update(line, description=run["stage"], completed=done or 0, total=total, text=text)
            if not console.is_terminal and not quiet and run["stage"] != last:
                console.print(f"{run['stage']} {text}".rstrip(), markup=False)  # a log file gets one line a stage
            last = run["stage"]

        yield update


def _progress_text(stage: str, now: Json) -> str:
    parts = [stage] if stage else []
    if "step" in now:
        parts.append(f"epoch {now['epoch']:.1f}/{now['epochs']} step {now['step']}/{now['steps']}")
    if "loss" in now:
        parts.append(f"loss {now['loss']:.3f} lr {now.get('learning_rate', 0):.1e}")
    if "f1" in now:
        parts.append(f"F1 {now['f1']:.3f}")
    if now.get("seconds_left") is not None:
        parts.append(f"{_duration(now['seconds_left'])} left")
    if "done" in now:
        parts.append(f"{now['done']:,}/{now['total']:,} rows")
    return "  ".join(parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _version(number: int | None) -> str:
    return "–" if number is None else f"v{number}"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _when(stamp: str | None) -> str:
    return "–" if stamp is None else datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(began: str | None, ended: str | None) -> str:
    if began is None or ended is None:
        return "–"
    return _duration((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
