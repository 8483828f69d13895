"""Data set versions and the difference of two, for a terminal. Knows rich; knows neither HTTP nor storage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from baton.wording import counted
from services.tables.show import Json, grid, time_text

SIGNS = {"added": ("+", "green"), "removed": ("−", "red"), "relabelled": ("~", "yellow")}
"""Sign and colour of each kind of change."""

LABELS_SHOWN = 12
"""Labels that are named for one kind of change; the others are counted."""


def versions(items: Sequence[Json]) -> RenderableType:
    """Return a table with one line per version, newest first.

    ``new`` marks a holdout that differs from that of the version before. The traffic column has corrections in train + audited
    requests in the holdout.
    """
    if not items:
        return Text("no data sets yet; a training run freezes the first")
    table = grid("data set", "train", "holdout", "traffic", "labels", "left out", "frozen")
    for item, before in zip(items, [*items[1:], None], strict=True):
        holdout = Text(f"{item['holdout_rows']:,}")
        if before is not None and before["holdout_hash"] != item["holdout_hash"]:
            holdout.append(" new", style="yellow")
        in_train, in_holdout = item["train_feedback"], item["holdout_audited"] or item["holdout_feedback"]
        table.add_row(
            str(item["number"]),
            f"{item['train_rows']:,}",
            holdout,
            f"{in_train:,} + {in_holdout:,}" if in_train or in_holdout else "–",
            str(len(item["labels"]) or "–"),
            f"{sum(_left_out_counts(item).values()):,}",
            time_text(item["created_at"]),
        )
    return table


def version(item: Json) -> RenderableType:
    """Return one version in full: rows by label and source, conflicting texts, and rows that were left out, with reasons."""
    heading = f"data set {item['number']}: {item['train_rows']:,} train rows, {item['holdout_rows']:,} holdout rows"
    lines: list[RenderableType] = [Text(heading, style="bold"), _labels(item["counts"])]
    lines.append(Text.assemble(("left out  ", "bold"), _left_out_text(item)))
    lines += [Text(remark) for remark in item.get("remarks", ())]
    if item["senders"]:
        lines.append(Text.assemble(("senders   ", "bold"), _senders_text(item)))
    if item["corrections"]:
        lines.append(Text(f"{counted(item['corrections'], 'correction')} of held-out texts, which neither train nor judge"))
    conflicts = item["conflicts"]
    if conflicts["texts"]:
        lines.append(Text(f"{counted(conflicts['texts'], 'text')} with different answers, settled by {conflicts['policy']}:"))
        lines += [_conflict(example) for example in conflicts["examples"]]
        lines += _more(conflicts["texts"], conflicts["examples"])
    if item["quarantined_rows"]:
        lines.append(Text(f"{counted(item['quarantined_rows'], 'row')} in quarantine:"))
        lines += [_quarantined(row) for row in item["quarantined"]]
        if hidden := item["quarantined_rows"] - len(item["quarantined"]):
            lines.append(Text(f"  … and {hidden:,} more: --quarantine lists all", style="dim"))
    lines.append(Text(f"hash {item['hash']}, holdout {item['holdout_hash']}", style="dim"))
    return Group(*lines)


def quarantine(items: Sequence[Json]) -> RenderableType:
    """Return one line per quarantined row: where it came from, and why it was quarantined."""
    return Group(*map(_quarantined, items)) if items else Text("no rows in quarantine")


def difference(item: Json) -> RenderableType:
    """Return what was added, removed and relabelled in each split: counts by label, and the first changed texts."""
    lines: list[RenderableType] = [Text(f"{item['model']}: data set {item['against']} → {item['number']}", style="bold")]
    for split in ("train", "holdout"):
        change = item[split]
        lines.append(Text(f"{split}: {change['rows_before']:,} → {change['rows']:,} rows", style="bold"))
        changed = 0
        for what, (sign, style) in SIGNS.items():
            if rows := change[f"{what}_rows"]:
                changed += rows
                lines.append(Text(f"  {sign}{rows:,} {what}: {_listed(change[what])}", style=style))
        if not changed:
            lines.append(Text("  nothing changed", style="dim"))
        lines += [_change(one) for one in change["changes"]]
        lines += _more(changed, change["changes"])
    return Group(*lines)


def _left_out_counts(item: Json) -> dict[str, int]:
    """Return the number of input rows that are in neither split, by the reason."""
    return {
        "leaks": item["removed_leaks"],
        "duplicates": item["removed_duplicates"],
        "contradicted": item["conflicts"].get("dropped", 0),
        "set aside": item["set_aside"],
        "over a sender's share": item.get("over_share", 0),
        "in quarantine": item["quarantined_rows"],
    }


def _left_out_text(item: Json) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in _left_out_counts(item).items() if count) or "–"


def _senders_text(item: Json) -> str:
    """Return the share of each sender in the train rows, the largest first."""
    rows = item["train_rows"]
    return ", ".join(
        f"{f'key {sender}' if sender else 'without a key'} {count:,} ({count / rows:.1%} of train)"
        for sender, count in item["senders"].items()
    )


def _quarantined(row: Json) -> Text:
    return Text(f"  {row['where']}: {row['reason']}")


def _labels(counts: Json) -> RenderableType:
    """Return a table with one line per label: its rows by split and source."""
    splits = [(split, source) for split in ("train", "holdout") for source in counts[split]]
    table = grid("label", *(f"{split}, {source}" for split, source in splits))
    for label in sorted({label for split, source in splits for label in counts[split][source]}):
        table.add_row(Text(label or "(none)"), *(f"{counts[split][source].get(label, 0):,}" for split, source in splits))
    return table


def _conflict(example: Json) -> Text:
    votes = ", ".join(f"{_answer(vote['answer'])} ×{vote['rows']}" for vote in example["answers"])
    return Text(f"  {example['text']!r}: {votes}; kept {_answer(example['kept'])} ({example['by']}, {example['side']})")


def _change(one: Json) -> Text:
    sign, style = SIGNS[one["what"]]
    answers = [_answer(one[when]) for when in ("before", "after") if one[when] is not None]
    return Text.assemble((f"    {sign} ", style), f"{one['text']!r}: ", " → ".join(answers))


def _answer(answer: Mapping[str, Any]) -> str:
    """Return an answer as text: its value if it has one field, else JSON."""
    value = next(iter(answer.values())) if len(answer) == 1 else answer
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(labels: Mapping[str, int]) -> str:
    """Return the labels with their counts, the most frequent first, and how many labels are not named."""
    by_count = sorted(labels.items(), key=lambda pair: -pair[1])
    named = ", ".join(f"{label or '(none)'} {count:,}" for label, count in by_count[:LABELS_SHOWN])
    return named + (f" and {counted(len(by_count) - LABELS_SHOWN, 'more label')}" if len(by_count) > LABELS_SHOWN else "")


def _more(count: int, shown: Sequence[Any]) -> list[RenderableType]:
    return [Text(f"  … and {count - len(shown):,} more", style="dim")] if count > len(shown) else []
