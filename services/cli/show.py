"""API answers as tables and sentences for a terminal. Knows rich; knows neither HTTP nor the registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from baton.client import Prediction

Json = Mapping[str, Any]

VERDICTS = {"promote": "green", "reject": "red", "inconclusive": "yellow"}
ALSO = {"accuracy": "accuracy", "macro_f1": "macro-F1", "exact_match": "exact match"}
"""Metrics that a list of versions shows beside the main one, where the task has them."""

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
PASSAGE = 120
"""Characters shown on either side of an answer."""

STATES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "queued": "dim"}


def models(items: Sequence[Json]) -> RenderableType:
    """One line a model."""
    table = grid("model", "task", "champion", "F1", "live F1", "replicas", "now")
    for item in items:
        serving = [state["version"] for state in item["replicas"]]
        right = sum(version == item["champion"] for version in serving)
        replicas = (
            f"{right}/{item['replicas_wanted']} on v{item['champion']}" if item["champion"] else f"{len(serving)} waiting"
        )
        now = "rolling out" if item["rolling_out"] else f"run {item['active_run']}" if item["active_run"] else ""
        paused = f"retraining is paused: {item['retrain_paused']}" if item["retrain_paused"] else ""
        problems = {state["error"] for state in item["replicas"] if state["error"]}
        table.add_row(
            item["name"],
            item["task"],
            version_name(item["champion"]),
            score_text(item["f1"]),
            _live(item),
            replicas,
            Text("; ".join(part for part in (now, paused, *problems) if part)),
        )
    return table


def runs(items: Sequence[Json]) -> RenderableType:
    """One line a run."""
    table = grid("run", "state", "version", "started", "took", "about")
    for item in items:
        progress = item["progress"]
        now = _progress_text(item["stage"], progress) if item["state"] == "running" else ""
        about = "; ".join(filter(None, (item["reason"] or now, item["cause"])))
        table.add_row(
            item["id"],
            Text(item["state"], style=STATES.get(item["state"], "")),
            version_name(item["version"]),
            time_text(item["started_at"]),
            _took(item["started_at"], item["finished_at"]),
            Text(about),
        )
    return table if items else Text("no runs yet")


def versions(items: Sequence[Json]) -> RenderableType:
    """One line a version; the champion is marked."""
    table = grid("", "version", "F1", "also", "train rows", "holdout", "method", "made")
    holdouts = set()
    for item in items:
        dataset, training = item["lineage"].get("dataset", {}), item["lineage"].get("training", {})
        holdouts.add(dataset.get("holdout_hash"))
        table.add_row(
            "★" if item["champion"] else "",
            version_name(item["number"]),
            score_text(item["metrics"].get("f1")),
            ", ".join(
                f"{name} {item['metrics'][key]:.4f}" for key, name in ALSO.items() if item["metrics"].get(key) is not None
            ),
            str(dataset.get("train_rows", "")),
            str(dataset.get("holdout_rows", "")),
            "few-shot" if training.get("few_shot") else str(training.get("tune", "")),
            time_text(item["created_at"]),
        )
    if not items:
        return Text("no versions yet; `baton train MODEL --wait` makes the first")
    if len(holdouts) == 1:
        return table
    note = (
        "F1 is on the holdout of its time; holdouts grew in between, and `baton promote` compares both versions on the newest"
    )
    return Group(table, Text(note, style="dim"))


def history(items: Sequence[Json]) -> RenderableType:
    """The story of a model, newest first."""
    table = grid("when", "what", "version", "why")
    styles = {"promoted": "green", "refused": "red", "inconclusive": "yellow", "rolled back": "cyan", "retrain started": "cyan"}
    for item in items:
        style = styles.get(item["what"], "red")
        table.add_row(time_text(item["at"]), Text(item["what"], style=style), version_name(item["version"]), Text(item["text"]))
    return table if items else Text("nothing has happened yet")


def retrain(item: Json) -> RenderableType:
    """Whether a run would start by itself, why, and what that rests on."""
    paused, starts = item["paused"] is not None, item["starts"]
    style = "yellow" if paused else "green" if starts else "dim"
    lines: list[RenderableType] = [
        Text(
            f"{item['model']}: {'starts now' if starts else 'paused' if paused else 'no run starts now'}", style=f"bold {style}"
        ),
        Text(item["explanation"]),
        Text(f"{item['new_examples']:,} correction(s) since the last data set"),
    ]
    if item["live"]:
        lines.append(Text(f"live F1 {item['live']['f1']:.4f} over {item['live']['corrections']:,} correction(s)"))
    if item["drift"]:
        table = grid("drift of", "PSI", "alarm at", "answers", "reference")
        for drift in item["drift"]:
            style = "bold red" if drift["drifted"] else ""
            numbers = (f"{drift['psi']:.3f}", f"{drift['alarm']:.3f}", f"{drift['now']:,}", f"{drift['reference']:,}")
            table.add_row(*(Text(cell, style=style) for cell in (drift["feature"], *numbers)))
        lines.append(table)
    return Group(*lines)


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


def predictions(task: str, inputs: Sequence[Any], answer: Prediction) -> RenderableType:
    """Labels with scores, texts with their entities coloured, or answers highlighted where they stand; else JSON."""
    shown = {"classification": _labels, "multi_label": _labels, "ner": _entities, "qa": _answers}.get(task, _as_json)
    where = f"v{answer.version}, {answer.inference_ms:.2f} ms inference, {answer.queue_ms:.2f} ms queue"
    return Group(shown(inputs, answer.outputs), Text(f"{where}, request {answer.request_id}", style="dim"))


def _as_json(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    return Text("\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers))


def _labels(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """One line a label, best first; of a multi-label model's, those that apply are bold."""
    table = grid("text", "label", "score")
    for item, answer in zip(inputs, answers, strict=True):
        text = item if isinstance(item, str) else f"{item['text']} ⟷ {item['text_pair']}"
        for row, choice in enumerate(answer):
            applies = choice.get("assigned", row == 0)
            label = Text(choice["label"] + (" ✓" if choice.get("assigned") else ""), style="bold" if applies else "")
            table.add_row(Text(text if row == 0 else ""), label, f"{choice['score']:.3f}")
    return table


def _entities(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """Each text, its entities coloured by type and followed by it."""
    types = sorted({found["entity_group"] for answer in answers for found in answer})
    styles = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(types)}
    lines = []
    for text, answer in zip(inputs, answers, strict=True):
        line, position = Text(), 0
        for found in answer:
            style = styles[found["entity_group"]]
            line.append(text[position : found["start"]])
            line.append(text[found["start"] : found["end"]], style=f"bold {style}")
            line.append(f" [{found['entity_group']} {found['score']:.2f}]", style=style)
            position = found["end"]
        line.append(text[position:])
        lines.append(line)
    return Group(*lines)


def _answers(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """Each question, its answers with their scores, and the passage in which the best one stands."""
    lines = []
    for item, answer in zip(inputs, answers, strict=True):
        found = answer if isinstance(answer, list) else [answer]
        line = Text.assemble((item["question"], "bold"), "\n")
        for one in found:
            line.append(one["answer"] or "no answer in this text", style="green" if one["answer"] else "yellow")
            line.append(f" ({one['score']:.3f})\n")
        context, best = item["context"], found[0]
        begin, end = max(0, best["start"] - PASSAGE), best["end"] + PASSAGE
        if best["answer"]:
            line.append("… " * (begin > 0) + context[begin : best["start"]], style="dim")
            line.append(context[best["start"] : best["end"]], style="bold reverse green")
            line.append(context[best["end"] : end] + " …" * (end < len(context)), style="dim")
        lines.append(line)
    return Group(*lines)


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
            done, total = (
                next((now[key] for key in keys if key in now), None)
                for keys in (("step", "done", "trial"), ("steps", "total", "trials"))
            )
            text = _progress_text("", now)
            bar.update(line, description=run["stage"], completed=done or 0, total=total, text=text)
            if not console.is_terminal and not quiet and run["stage"] != last:
                console.print(f"{run['stage']} {text}".rstrip(), markup=False)  # a log file gets one line a stage
            last = run["stage"]

        yield update


PROGRESS: Sequence[tuple[str, Callable[[Json], str]]] = (
    ("trials", lambda now: f"trials {now['trial']}/{now['trials']}"),
    ("folds", lambda now: f"fold {now['fold']}/{now['folds']}"),
    ("step", lambda now: f"epoch {now['epoch']:.1f}/{now['epochs']} step {now['step']}/{now['steps']}"),
    ("loss", lambda now: f"loss {now['loss']:.3f} lr {now.get('learning_rate', 0):.1e}"),
    ("f1", lambda now: f"F1 {now['f1']:.3f}"),
    ("best_f1", lambda now: f"best F1 {now['best_f1']:.3f}"),
    ("held_back_loss", lambda now: f"held-back loss {now['held_back_loss']:.3f}"),
    ("seconds_left", lambda now: f"{_duration(now['seconds_left'])} left"),
    ("waiting", lambda now: str(now["waiting"])),
    ("done", lambda now: f"{now['done']:,}/{now['total']:,} rows"),
)
"""What of a run's progress is shown, in this order, where it is there."""


def _progress_text(stage: str, now: Json) -> str:
    parts = [show(now) for key, show in PROGRESS if now.get(key) is not None]
    return "  ".join([stage, *parts] if stage else parts)


def grid(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # ids are for copying: whatever has to give way on a narrow terminal, they stay whole
        table.add_column(column, overflow="fold", no_wrap=column in ("run", "id"))
    return table


def version_name(number: int | None) -> str:
    return "–" if number is None else f"v{number}"


def _live(item: Json) -> str:
    """Live F1 with the number of corrections that it rests on."""
    return score_text(item["live_f1"]) + (f" ({item['corrections']:,})" if item["corrections"] else "")


def score_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def time_text(stamp: str | None) -> str:
    return "–" if stamp is None else datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(began: str | None, ended: str | None) -> str:
    if began is None or ended is None:
        return "–"
    return _duration((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
