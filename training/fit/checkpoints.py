"""The files that Baton adds to a checkpoint of the `transformers.Trainer`. Knows neither Ray nor torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOTE = "baton-checkpoint.json"
"""File name of the note: the epoch and the scores of a checkpoint. Ray keeps them apart from the checkpoint's files."""

ADAPTED_BASE = "base"
"""Folder of the adapted base model in a checkpoint of an adaptation: a plain Hugging Face directory."""


def checkpoint_directory(args: Any, state: Any) -> Path:
    """Return the directory into which a `transformers.Trainer` saved the checkpoint of its current step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def write_note(directory: Path, note: Mapping[str, Any]) -> None:
    """Write ``note`` (JSON values) into the checkpoint ``directory``."""
    (directory / NOTE).write_text(json.dumps(note), encoding="utf-8")


def read_note(directory: str | Path) -> dict[str, Any]:
    """Return the note of the checkpoint in ``directory``."""
    note: dict[str, Any] = json.loads((Path(directory) / NOTE).read_text(encoding="utf-8"))
    return note
