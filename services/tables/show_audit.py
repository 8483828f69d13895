"""The audit for a terminal: how far its batches are, and the next texts to label. Knows rich; knows no HTTP."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from services.tables.show import Json, grid

TEXT_CHARACTERS = 300
"""Maximum number of characters of an input that are shown; a file of `baton audit --out` has all of them."""


def audit(page: Json) -> RenderableType:
    """Return how far each batch is that does not judge yet, and a table of the texts to label, in the order of the draw."""
    batches, items = page["batches"], page["items"]
    judging = [batch for batch in batches if batch["judges"]]
    texts = sum(batch["labelled"] for batch in judging)
    parts: list[RenderableType] = [Text(f"{len(judging):,} of {len(batches):,} batches judge, with {texts:,} labelled texts")]
    if len(judging) < len(batches):
        parts.append(_open_batches(page))
    if items:
        parts += [Text(), _texts(items)]
        if page["next"] is not None:
            parts.append(Text("and more: --limit shows them, --out FILE writes all of them", style="dim"))
    else:
        parts.append(Text(_why_nothing(page), style="dim"))
    return Group(*parts)


def input_of(item: Json) -> dict[str, Any]:
    """Return the fields of the input of a text to label."""
    return {name: value for name, value in item.items() if name not in ("id", "drawn_at")}


def _open_batches(page: Json) -> RenderableType:
    table = grid("batch", "texts", "labelled", "undecidable", "state")
    for batch in page["batches"]:
        if not batch["judges"]:
            counts = (f"{batch[name]:,}" for name in ("texts", "labelled", "undecidable"))
            table.add_row(str(batch["number"]), *counts, _state(batch, page["batch_size"]))
    return table


def _state(batch: Json, size: int) -> Text:
    """Return what a batch lacks before it judges."""
    missing = batch["needed"] - batch["labelled"] - batch["undecidable"]
    if size - batch["deleted"] < batch["needed"]:
        return Text(f"cannot judge: {batch['deleted']:,} texts were deleted before anybody labelled them", style="yellow")
    growing = f"{size - batch['texts']:,} more to be drawn" if batch["texts"] < size else ""
    label = f"{missing:,} more to label" if missing > 0 else ""
    return Text(", ".join(filter(None, (growing, label))))


def _texts(items: Any) -> RenderableType:
    table = grid("id", "text")
    for item in items:
        values = input_of(item)
        text = " | ".join(str(value) for value in values.values())
        table.add_row(str(item["id"]), Text(text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"))
    return table


def _why_nothing(page: Json) -> str:
    if page["batches"]:
        return "nothing is left to label"
    if not page["share"]:
        return "the audit is off (feedback.audit: 0)"
    return f"nothing was drawn yet; a share of {page['share']:g} of the logged requests is (feedback.audit)"
