"""Training rows of a model whose label a probe doubts: `baton data MODEL --suspects` leaves them for the console's review.

Each row has the fields of the task, and notes: ``_suggested``, the label that the probe prefers; ``_margin``, by how much; and
``_where``, its place in the file. A new list takes the place of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from baton.artifacts.storage import Storage

MOST_SUSPECTS = 500
"""Number of rows that are kept, the most suspicious ones: more than people look through at once."""


def store_suspects(storage: Storage, model: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the suspects of a model, the most suspicious first. Raises ``StorageError``."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:MOST_SUSPECTS])
    storage.write_report(_path(model), "".join(lines).encode())


def stored_suspects(storage: Storage, model: str) -> list[dict[str, Any]]:
    """Return what `store_suspects` stored last; [] before the first time. Raises ``StorageError``."""
    return [json.loads(line) for line in (storage.read_report(_path(model)) or b"").splitlines()]


def _path(model: str) -> str:
    return f"models/{model}/suspects.jsonl"
