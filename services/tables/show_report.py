"""A version's scores, and the report of a decision: F1 tables, a plot of the gains' intervals, confusions, changed answers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from services.tables.show import (
    Json,
    calibration_text,
    decision,
    grid,
    other_metrics,
    score_text,
    time_text,
    version_text,
)

PRECISIONS = (0.0, 0.9, 0.95, 0.98, 0.99)
"""Precisions for which an evaluation shows the lowest score that reaches them."""

PLOT_WIDTH = 31
"""Characters of a plotted interval; odd, so that zero has one of its own in the middle."""


def report(item: Json) -> RenderableType:
    """Return a decision with its report, as `baton report` shows them."""
    found = item["report"]
    ours, theirs = version_text(found["candidate"]), version_text(found["champion"])
    sections: list[RenderableType] = [decision(item["decision"])]
    if found["rows"]:
        sections += [Text(), _gains("rows of the holdout", found["unit"], found["rows"], ours, theirs)]
    if found["labels"]:
        sections += [Text(), _labels(found["labels"], found["unit"], ours, theirs)]
    if found["confusions"]:
        sections += [Text(), _confusions(found["confusions"], ours, theirs)]
    if found["changed"]:
        sections += [Text(), _changed(found["changed"], ours, theirs)]
    return Group(*sections, *_notes(found, ours, theirs))


def evaluation(item: Json) -> RenderableType:
    """Return the scores of a version on the newest holdout beside the champion's, and the gate's report if there is one."""
    table = grid("version", "F1", "other metrics", "ECE", "holdout", "size", "one answer", "evaluated")
    for number, found in ((item["version"], item["evaluation"]), (item["champion"], item["champion_evaluation"])):
        if found is None:
            continue
        metrics = found["metrics"]
        mark = " ★" if number == item["champion"] else ""
        table.add_row(
            version_text(number) + mark,
            score_text(metrics.get("f1")),
            other_metrics(metrics),
            calibration_text(metrics),
            f"{item['holdout_rows']:,}",
            f"{metrics['megabytes']:,.1f} MB" if "megabytes" in metrics else "–",
            f"{metrics['latency_ms']:,.1f} ms" if "latency_ms" in metrics else "–",
            time_text(found["created_at"]),
        )
    sections: list[RenderableType] = [table, *_precisions(item["evaluation"]["metrics"])]
    if item["report"] is not None:
        sections += [Text(), report(item)]
    elif labels := item["evaluation"]["metrics"].get("per_class"):
        by_label = grid("label", "in holdout", "F1")
        judged = {name: scores["support"] > 0 for name, scores in labels.items()}
        for name, scores in sorted(labels.items(), key=lambda pair: (not judged[pair[0]], float(pair[1]["f1"]))):
            by_label.add_row(Text(name), f"{scores['support']:,}", f"{scores['f1']:.3f}" if judged[name] else "–")
        sections += [Text(), by_label]
    return Group(*sections)


def _precisions(metrics: Json) -> list[RenderableType]:
    """Return from which scores on the answers reach some precisions, and what part of all answers that is."""
    if "confidence" not in metrics:
        return []
    table = grid("answers scored from", "right", "of all answers")
    shown = set()
    for wanted in PRECISIONS:
        point = next((point for point in metrics["confidence"]["curve"] if point[1] >= wanted), None)
        if point is not None and tuple(point) not in shown:
            shown.add(tuple(point))
            table.add_row(f"{point[0]:.3f}", f"{point[1]:.1%}", f"{point[2]:.1%}")
    return [Text(), table] if shown else []


def _gains(title: str, unit: str, rows: Sequence[Json], ours: str, theirs: str) -> RenderableType:
    """Return F1 and gain of each row, with a plot of the gain's interval: all have one scale, and ┊ marks zero."""
    scale = max((abs(row[end]) for row in rows for end in ("low", "high")), default=0.0)
    scale = max(scale, 0.01)  # below that, all gains are none
    table = grid(
        title, f"{unit}s", f"F1 {theirs}", f"F1 {ours}", "gain", f"{-scale:+.3f}".ljust(PLOT_WIDTH - 6) + f"{scale:+.3f}"
    )
    for row in rows:
        table.add_row(
            Text(row["name"]),
            f"{row['texts']:,}",
            f"{row['champion_f1']:.3f}",
            f"{row['f1']:.3f}",
            Text(f"{row['gain']:+.3f}", style=_colour(row["gain"])),
            _interval(row["low"], row["gain"], row["high"], scale),
        )
    return table


def _labels(labels: Sequence[Json], unit: str, ours: str, theirs: str) -> RenderableType:
    """Return F1 by label, with the largest losses first."""
    if labels[0].get("gain") is not None:
        return _gains("label", unit, sorted(labels, key=lambda label: label["gain"]), ours, theirs)
    compared = any(label["champion_f1"] is not None for label in labels)
    table = grid("label", "in holdout", *([f"F1 {theirs}"] if compared else []), f"F1 {ours}")
    for label in sorted(labels, key=lambda label: label["f1"] - (label["champion_f1"] or 0)):
        before = "–" if label["champion_f1"] is None else f"{label['champion_f1']:.3f}"
        table.add_row(Text(label["name"]), f"{label['texts']:,}", *([before] if compared else []), f"{label['f1']:.3f}")
    return table


def _confusions(confusions: Sequence[Json], ours: str, theirs: str) -> RenderableType:
    table = grid("right answer", "was answered", theirs, ours)
    for one in confusions:
        style = _colour(one["champion_count"] - one["count"])
        table.add_row(Text(one["truth"]), Text(one["answer"]), str(one["champion_count"]), Text(str(one["count"]), style=style))
    return table


def _changed(changed: Sequence[Json], ours: str, theirs: str) -> RenderableType:
    table = grid("answered differently", "right answer", theirs, ours)
    for one in changed:
        answer = Text(one["answer"] or "–", style=_colour(one["influence"]))
        table.add_row(Text(one["text"]), Text(one["truth"]), Text(one["champion_answer"] or "–"), answer)
    return table


def _notes(found: Json, ours: str, theirs: str) -> list[Text]:
    """Return what is worth knowing beside the tables."""
    notes = []
    for version, cost in zip((ours, theirs), found["cost"], strict=True):
        if cost is not None:
            size, latency = f"{cost['megabytes']:,.1f} MB", f"{cost['latency_ms']:,.1f} ms"
            notes.append(f"{version}: {size}, {latency} for one answer on the machine that evaluated it")
    if found["optimism"]:
        points = f"{100 * found['optimism']:.1f} points of F1"
        notes.append(f"on this holdout the gain of {ours} looks about {points} larger than it is, because it was chosen by it")
    return [Text(note, style="dim") for note in notes]


def _interval(low: float, middle: float, high: float, scale: float) -> Text:
    """Return a line such as ``┊  ├──●──┤``: the interval and its middle on an axis from -scale to scale."""

    def place(value: float) -> int:
        return round((value / scale + 1) / 2 * (PLOT_WIDTH - 1))

    line = [" "] * PLOT_WIDTH
    line[place(0)] = "┊"
    first, last = place(low), place(high)
    line[first : last + 1] = "─" * (last - first + 1)
    line[first], line[last] = "├", "┤"
    line[place(middle)] = "●"
    return Text("".join(line), style=_colour(low if middle > 0 else high if high < 0 else 0.0))


def _colour(gain: float) -> str:
    return "green" if gain > 0 else "red" if gain < 0 else ""
