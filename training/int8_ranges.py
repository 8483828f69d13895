"""Training rows → the windows from which int8 takes the ranges that it has to cover."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baton.artifacts.manifest import Manifest
from baton.engines import Batch
from baton.predict.predictor import load_tokenizer, make_task

ROWS, TOKENS = 2000, 8192
"""Rows that are drawn, and tokens of their first windows, at most: seconds of work, also for a large model."""


def draw_windows(directory: Path, manifest: Manifest, train: Sequence[Any]) -> list[Batch]:
    """Return the first windows of rows that are drawn from all of ``train``, each a batch of its own.

    The same rows give the same windows, so that a version can be made again. Raises ``CorruptVersion`` if the version in
    ``directory`` has no tokenizer.
    """
    task = make_task(manifest)
    tokenizer = task.prepare_tokenizer(load_tokenizer(directory)[0])
    found: list[Batch] = []
    tokens = 0
    for row in random.Random(0).sample(train, min(len(train), ROWS)):
        windows = task.encode(tokenizer, [task.input_of(row)], [task.Options()])
        ids = np.array([windows.ids[0]], dtype=np.int64)
        types = np.array([windows.type_ids[0]], dtype=np.int64)
        found.append({"input_ids": ids, "token_type_ids": types, "attention_mask": np.ones_like(ids)})
        tokens += ids.size
        if tokens >= TOKENS:
            break
    return found
