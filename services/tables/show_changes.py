"""What differs between a configuration and the one that a service uses, for a terminal. Knows rich; reads no configuration."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from baton.config.changes import Effect, Kind
from services.tables.show import Json, grid

EFFECTS = {
    Effect.AT_ONCE: "at once",
    Effect.SCALES: "replicas are added or removed",
    Effect.REPLACES: "replicas are replaced, one after another",
    Effect.RESTART: "after a restart: `baton down`, `baton up`",
}
"""When a change is in force."""

KINDS = {Kind.ADDED: ("added", "green"), Kind.REMOVED: ("removed", "red")}


def changes(plan: Json) -> RenderableType:
    """Return a table with a line for each key, and below it what else happens."""
    table = grid("model", "key", "the service uses", "the file says", "in force")
    for model in plan["models"]:
        if not model["changes"]:
            word, style = KINDS[Kind(model["kind"])]
            table.add_row(model["model"], Text(word, style=style), "", "", EFFECTS[Effect.AT_ONCE])
        for change in model["changes"]:
            table.add_row(model["model"], *_cells(change))
    for change in plan["restart"]:
        table.add_row("", *_cells(change))
    return Group(table, *(Text(note, style="yellow") for note in (*plan["notes"], *plan["obstacles"])))


def outcome(plan: Json, *, dry_run: bool) -> RenderableType:
    """Return what was done, and what needs a restart."""
    lines = []
    if plan["models"]:
        applied = (
            "This was not applied (--dry-run)." if dry_run else "Applied: the service uses the models as the file has them."
        )
        lines.append(Text(applied, style="" if dry_run else "green"))
    if plan["restart"]:
        keys = ", ".join(change["key"] for change in plan["restart"])
        lines.append(Text(f"Only a restart applies {keys}: `baton down`, `baton up`", style="yellow"))
    return Group(*lines)


def _cells(change: Json) -> tuple[RenderableType, ...]:
    effect = Effect(change["effect"])
    style = "yellow" if effect is Effect.RESTART else ""
    return Text(change["key"]), _value(change["old"]), _value(change["new"]), Text(EFFECTS[effect], style=style)


def _value(value: Any) -> Text:
    """Return a value as YAML would have it on one line."""
    return Text("not set", style="dim") if value is None else Text(value if isinstance(value, str) else json.dumps(value))
