"""Live quality for a terminal. Knows rich; knows neither HTTP nor how live quality is measured."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from services.tables.show import Json, grid, score_text, version_text


def live(answer: Json, *, labels: bool) -> RenderableType:
    """Return a table with one line per version; with ``labels``, also a table of its labels, the most corrected first."""
    items = answer["items"]
    if not items:
        return Text("no corrected answers yet; send corrections with the request ids of answers with `baton feedback`")
    table = grid("version", "live F1", "corrections")
    for item in items:
        table.add_row(version_text(item["version"]), score_text(item["f1"]), f"{item['corrections']:,}")
    parts: list[RenderableType] = [
        table,
        Text(f"computed from at most the newest {answer['window']:,} corrections of each version", style="dim"),
    ]
    for item in items if labels else ():
        parts += [Text(f"\nv{item['version']}", style="bold"), _labels(item["per_class"])]
    return Group(*parts)


def _labels(per_class: Json) -> RenderableType:
    if not per_class:
        return Text("this task has no labels", style="dim")
    table = grid("label", "F1", "precision", "recall", "corrections")
    for label, scores in sorted(per_class.items(), key=lambda pair: (-pair[1]["support"], pair[0])):
        corrected = scores["support"] > 0  # a label without corrections has no score: its zeros mean nothing
        cells = (score_text(scores[key] if corrected else None) for key in ("f1", "precision", "recall"))
        table.add_row(Text(label), *cells, f"{scores['support']:,}")
    return table
