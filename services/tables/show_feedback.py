"""Live quality for a terminal. Knows rich; knows neither HTTP nor how live quality is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from baton.wording import counted
from services.tables.show import Json, ScoreBar, grid, score_text, time_text, version_text


def live(answer: Json, *, labels: bool) -> RenderableType:
    """Return a table with one line per version; with ``labels``, also a table of its labels, the most corrected first."""
    items = answer["items"]
    if not items:
        return Text("no corrected answers yet; send corrections with the request ids of answers with `baton feedback`")
    table = grid("version", "live F1", "", "corrections")
    for item in items:
        table.add_row(version_text(item["version"]), score_text(item["f1"]), ScoreBar(item["f1"]), f"{item['corrections']:,}")
    parts: list[RenderableType] = [
        table,
        Text(f"computed from at most the newest {answer['window']:,} corrections of each version", style="dim"),
    ]
    for item in items if labels else ():
        parts += [Text(f"\nv{item['version']}", style="bold"), _labels(item["per_class"])]
    return Group(*parts)


def changes(items: Sequence[Json]) -> RenderableType:
    """Return a table of replaced and withdrawn corrections, newest first."""
    if not items:
        return Text("no correction was replaced or withdrawn")
    table = grid("when", "what", "corrections", "id", "sender", "by", "the answer was")
    for item in items:
        answer = "" if item["answer"] is None else json.dumps(item["answer"], ensure_ascii=False)
        cells = (item["client_id"] or "–", item["sender"] or "–", item["actor"] or "–", answer or "–")
        table.add_row(time_text(item["happened_at"]), item["what"], f"{item['rows']:,}", *map(Text, cells))
    return table


def withdrawn(answer: Json) -> RenderableType:
    """Return how many corrections were withdrawn."""
    return Text(f"{counted(answer['withdrawn'], 'correction')} withdrawn; the next data set does not have them")


def _labels(per_class: Json) -> RenderableType:
    if not per_class:
        return Text("this task has no labels", style="dim")
    table = grid("label", "F1", "", "precision", "recall", "corrections")
    for label, scores in sorted(per_class.items(), key=lambda pair: (-pair[1]["support"], pair[0])):
        corrected = scores["support"] > 0  # a label without corrections has no score: its zeros mean nothing
        known = scores if corrected else {}
        f1, precision, recall = (known.get(key) for key in ("f1", "precision", "recall"))
        cells = (score_text(f1), ScoreBar(f1), score_text(precision), score_text(recall))
        table.add_row(Text(label), *cells, f"{scores['support']:,}")
    return table
