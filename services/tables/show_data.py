"""The report of `baton data` for a terminal. Knows rich; knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from baton.wording import counted
from services.tables.show import Json, grid

STYLES = {"error": "red", "warning": "yellow", "note": "dim"}
LABELS_SHOWN = 30
SCRIPTS_SHOWN = 4


def report(item: Json, suspects: Path | None) -> RenderableType:
    """Return what the files hold, and the findings, the most serious first. ``suspects``: the file that was asked for."""
    columns = ", ".join(f"{field} in the column {column!r}" for field, column in item["fields"].items())
    guessed = " (guessed from the rows; --task and --field say otherwise)" if item["guessed"] else ""
    if item["others"]:
        guessed += f"; {other_columns(item['others'])}"
    lines: list[RenderableType] = [Text.assemble(("task  ", "bold"), ", ".join(filter(None, [item["task"], columns])), guessed)]
    for split in item["splits"]:
        lines += _split(split, item["max_length"])
    for finding in item["findings"]:
        lines += _finding(finding)
    if not item["findings"]:
        lines.append(Text("nothing odd was found", style="green"))
    if "suspects" in item:
        about = f"{counted(item['suspects'], 'row')} whose label a probe doubts"
        lines.append(Text(f"{about}: see {suspects}" if item["suspects"] else f"{about}", style="bold"))
        if item.get("review_problem"):
            lines.append(Text(f"they are not in the console's review: {item['review_problem']}", style="yellow"))
        elif "review_problem" in item and item["suspects"]:
            lines.append(Text("they are in the console's review, too"))
    return Group(*lines)


def other_columns(names: Sequence[str]) -> str:
    """Return the sentence about columns that could hold the labels as well as the one that was guessed."""
    return (
        f"the labels could also be in {'the column' if len(names) == 1 else 'one of the columns'} {', '.join(map(repr, names))}"
    )


def _split(split: Json, max_length: int) -> Sequence[RenderableType]:
    lines: list[RenderableType] = [
        Text(f"\n{split['name']}: {counted(split['rows'], 'row')} of {split['source']}", style="bold")
    ]
    if tokens := split["tokens"]:
        lines.append(
            Text(
                f"length  median {tokens['median']:.0f}, 95% up to {tokens['p95']:.0f}, longest {tokens['max']:,.0f} tokens; "
                f"{tokens['cut']:.1%} longer than max_length ({max_length})"
            )
        )
    scripts = list(split["scripts"].items())[:SCRIPTS_SHOWN]
    if len(scripts) > 1 or (scripts and scripts[0][0] != "Latin"):
        lines.append(Text("script  " + ", ".join(f"{name} {share:.1%}" for name, share in scripts)))
    if split["labels"]:
        table = grid("label", "rows", "share")
        total = sum(split["labels"].values())
        for label, rows in list(split["labels"].items())[:LABELS_SHOWN]:
            table.add_row(Text(label), f"{rows:,}", f"{rows / total:.1%}")
        lines.append(table)
        if hidden := len(split["labels"]) - LABELS_SHOWN:
            lines += [Text(f"… and {counted(hidden, 'more label')}; --json lists all", style="dim")] if hidden > 0 else []
    return lines


def _finding(finding: Json) -> Sequence[RenderableType]:
    rows = f"{counted(finding['rows'], 'row')}: " if finding["rows"] else ""
    head = Text.assemble((f"{finding['level']}  ", STYLES[finding["level"]]), f"{rows}{finding['what']}")
    hidden = finding["rows"] - len(finding["examples"])
    more = [Text(f"    … and {hidden:,} more", style="dim")] if hidden > 0 and finding["examples"] else []
    return [head, *(Text(f"    {example}", style="dim") for example in finding["examples"]), *more]
