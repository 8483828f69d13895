"""Models, versions, history and retraining for a terminal, and the cells that all tables share.

Takes answers of the API as JSON. Knows rich; knows neither HTTP nor the registry. Runs, predictions, data sets and live quality
have modules of their own: ``show_*``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from baton.store.records import DecisionKind, HistoryKind, RolloutMode, Verdict
from baton.wording import counted

Json = Mapping[str, Any]
"""One object in an answer of the API."""

VERDICT_STYLES = {Verdict.PROMOTE: "green", Verdict.REJECT: "red", Verdict.INCONCLUSIVE: "yellow"}

VERDICT_WORDS = {Verdict.PROMOTE: "promote", Verdict.REJECT: "refused", Verdict.INCONCLUSIVE: "inconclusive"}
"""Verdicts as the gate's sentences begin with them."""

HISTORY_STYLES = {
    HistoryKind.PROMOTED: "green",
    HistoryKind.REFUSED: "red",
    HistoryKind.INCONCLUSIVE: "yellow",
    HistoryKind.ROLLED_BACK: "cyan",
    HistoryKind.ROLLOUT_ENDED: "yellow",
    HistoryKind.TRIAL_ENDED: "yellow",
    HistoryKind.RETRAIN_STARTED: "cyan",
}
"""Colours of a history line by its kind; red for all other kinds."""

BAR_WIDTH = 24
"""Width of a bar from 0 to 1, in characters."""

OTHER_METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "exact_match": "exact match"}
"""Metrics that a list of versions shows besides F1, for tasks that have them, with the names to show."""


def models(items: Sequence[Json]) -> RenderableType:
    """Return a table with one line per model."""
    table = grid("model", "task", "champion", "F1", "live F1", "replicas", "now")
    for item in items:
        problems = {state["error"] for state in item["replicas"] if state["error"]}
        table.add_row(
            item["name"],
            item["task"],
            version_text(item["champion"]),
            score_text(item["f1"]),
            _live_text(item),
            _replicas_text(item),
            Text("; ".join([*_activities(item), *problems])),
        )
    return table


def versions(items: Sequence[Json]) -> RenderableType:
    """Return a table with one line per version and marks at the champion, forced, rolled back and rejected versions.

    Notes below explain the marks and why a version is not served by a faster engine, and say if the versions were evaluated on
    different holdouts: their F1 cannot be compared directly.
    """
    table = grid("", "version", "F1", "other metrics", "ECE", "train rows", "holdout", "method", "engine", "created")
    holdouts = set()
    for item in items:
        dataset, metrics = item["lineage"].get("dataset", {}), item["metrics"]
        holdouts.add(dataset.get("holdout_hash"))
        table.add_row(
            "".join(mark for mark, applies in _marks(item) if applies),
            version_text(item["number"]),
            score_text(metrics.get("f1")),
            other_metrics(metrics),
            calibration_text(metrics),
            str(dataset.get("train_rows", "")),
            str(dataset.get("holdout_rows", "")),
            _method(item["lineage"]),
            item["lineage"].get("engine", ""),
            time_text(item["created_at"]),
        )
    if not items:
        return Text("no versions yet; `baton train MODEL --wait` trains the first, `baton register` brings one from elsewhere")
    notes = []
    if len(holdouts) > 1:
        notes.append(
            "these F1 scores were measured on different holdouts, each on the newest of its time; "
            "`baton promote` compares two versions on the newest holdout"
        )
    if any(DecisionKind.FORCE in item["moves"] for item in items):
        notes.append("! became champion by force, without the gate; `baton history` has the reason")
    if any(item["rolled_back"] for item in items):
        notes.append("↩ was taken out of service by a rollback; `baton history` has the reason")
    notes += [f"✗ v{item['number']} was rejected: {item['rejected']}" for item in items if item["rejected"] is not None]
    reasons = {reason: item["number"] for item in reversed(items) if (reason := item["lineage"].get("engine_reason"))}
    notes += [f"engine of v{number}: {reason}" for reason, number in reasons.items()]
    return Group(table, *(Text(note, style="dim") for note in notes))


def _method(lineage: Json) -> str:
    """Return how a version was made."""
    training = lineage.get("training", {})
    if lineage.get("source"):
        return "registered"
    if training.get("few_shot"):
        return "few-shot"
    tune = str(training.get("tune", ""))
    return f"probe, {tune}" if training.get("start_from") == "probe" else tune


def other_metrics(metrics: Json) -> str:
    """Return the metrics besides F1 that lists show, on one line."""
    return ", ".join(f"{name} {metrics[key]:.4f}" for key, name in OTHER_METRICS.items() if metrics.get(key) is not None)


def calibration_text(metrics: Json) -> str:
    """Return the calibration error of a version's scores, and a dash where none was measured."""
    return f"{metrics['confidence']['ece']:.3f}" if "confidence" in metrics else "–"


def _marks(item: Json) -> Sequence[tuple[str, bool]]:
    return (
        ("★", item["champion"]),
        ("!", DecisionKind.FORCE in item["moves"]),
        ("↩", item["rolled_back"]),
        ("✗", item["rejected"] is not None),
    )


def matches(model: Json) -> RenderableType:
    """Return how often the champion was challenged, and what is left for the next matches."""
    played, left, total = model["matches"]["played"], model["matches"]["left"], model["matches"]["of"]
    if not played:
        return Text(f"no match yet on this holdout; {total:.1%} of false promotions allowed in all", style="dim")
    return Text(f"match {played} on this holdout, {left:.2%} of {total:.1%} left for the next (docs/gate.md)", style="dim")


def history(items: Sequence[Json]) -> RenderableType:
    """Return a table with one line per event of a model, newest first."""
    table = grid("when", "what", "version", "why")
    for item in items:
        style = HISTORY_STYLES.get(item["what"], "red")
        table.add_row(time_text(item["at"]), Text(item["what"], style=style), version_text(item["version"]), Text(item["text"]))
    return table if items else Text("nothing has happened yet")


def retrain(item: Json) -> RenderableType:
    """Return whether automatic retraining would start a run now, why, and the measurements behind that."""
    if item["paused"] is not None:
        state, style = "paused", "yellow"
    elif item["starts"]:
        state, style = "starts now", "green"
    else:
        state, style = "no run starts now", "dim"
    lines: list[RenderableType] = [
        Text(f"{item['model']}: {state}", style=f"bold {style}"),
        Text(item["explanation"]),
        Text(f"{counted(item['new_examples'], 'correction')} since the last data set"),
    ]
    if item["live"]:
        lines.append(Text(f"live F1 {item['live']['f1']:.4f} over {counted(item['live']['corrections'], 'correction')}"))
    if item["drift"]:
        lines.append(_drift_table(item["drift"]))
    return Group(*lines)


def decision(item: Json) -> RenderableType:
    """Return the sentence of a decision of the gate, and its reason if it has one, in the verdict's colour."""
    reason = f" Reason: {item['reason']}" if item.get("reason") else ""
    return Text(item["sentence"] + reason, style=VERDICT_STYLES[item["verdict"]])


def moved(item: Json) -> RenderableType:
    """Return the decision that moved the champion pointer, and the version that serves since."""
    return Group(decision(item["decision"]), serving(item["promotion"]["version"]))


def rejected(item: Json) -> RenderableType:
    """Return what a rejection means, and what it ended."""
    ended = {None: "", RolloutMode.DIRECT: " Its roll-out has ended."}.get(item["ended"], f" Its {item['ended']} has ended.")
    return Text(f"v{item['version']} of {item['model']} will not take over.{ended} Reason: {item['reason']}")


def serving(version: int) -> RenderableType:
    """Return a line that says that a version has taken over."""
    return Text(f"v{version} is serving.", style="bold green")


# --- cells that all tables share -----------------------------------------------------------------------------------------


def grid(*columns: str) -> Table:
    """Return an empty table with these column titles and no lines between its cells."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # ids are for copying: on a narrow terminal, the other columns are folded
        table.add_column(column, overflow="fold", no_wrap=column in ("run", "id"))
    return table


def version_text(number: int | None) -> str:
    """Return ``v3`` for version 3, and a dash for none."""
    return "–" if number is None else f"v{number}"


@dataclass(frozen=True)
class ScoreBar:
    """A bar as long as a score from 0 to 1, on a terminal; nothing in a file or a pipe, and for no score."""

    value: float | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_terminal and self.value is not None:
            yield Bar(1.0, 0.0, self.value, width=BAR_WIDTH, color="cyan")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = BAR_WIDTH if console.is_terminal else 0
        return Measurement(width, width)


def score_text(value: float | None) -> str:
    """Return a score with four decimals, and a dash for none."""
    return "–" if value is None else f"{value:.4f}"


def time_text(stamp: str | None) -> str:
    """Return an ISO 8601 time in the zone of this machine, and a dash for none."""
    return "–" if stamp is None else datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration_text(seconds: float) -> str:
    """Return a duration such as ``2 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# --- parts of the tables above -------------------------------------------------------------------------------------------


def _activities(model: Json) -> list[str]:
    """Return what a model does now: a roll-out or a run, and whether its automatic retraining is paused."""
    found = []
    if rollout := model["rollout"]:
        share = f" ({rollout['percent']:g}%)" if rollout["percent"] else ""
        found.append(f"v{rollout['version']}: {rollout['state']}{share}")
    elif model["active_run"]:
        found.append(f"run {model['active_run']}")
    if model["retrain_paused"]:
        found.append(f"retraining is paused: {model['retrain_paused']}")
    return found


def _replicas_text(model: Json) -> str:
    """Return how many of the wanted replicas serve the champion; without one, how many wait for it."""
    champion, replicas = model["champion"], model["replicas"]
    if not champion:
        return f"{len(replicas)} waiting"
    current = sum(state["version"] == champion for state in replicas)
    return f"{current}/{model['replicas_wanted']} on v{champion}"


def _live_text(model: Json) -> str:
    """Return the live F1 and, in brackets, the number of corrections that it was computed from."""
    corrections = f" ({model['corrections']:,})" if model["corrections"] else ""
    return score_text(model["live_f1"]) + corrections


def _drift_table(drifts: Sequence[Json]) -> Table:
    table = grid("drift of", "PSI", "alarm at", "answers", "reference")
    for drift in drifts:
        style = "bold red" if drift["drifted"] else ""
        cells = (
            drift["feature"],
            f"{drift['psi']:.3f}",
            f"{drift['alarm']:.3f}",
            f"{drift['now']:,}",
            f"{drift['reference']:,}",
        )
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table
