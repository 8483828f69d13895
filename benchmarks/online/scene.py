"""The scene of the online benchmarks: a model that knows some intents from few rows, and traffic that brings all of them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.service import holdout_of, read_rows, train_of

INTENTS = 40
"""Of the 77 intents, how many the first champion knows."""

THINNED = 0.1
"""Share of their training rows that it has seen."""

CORRECTED = 0.3
"""Share of the traffic that the application corrects."""

SEED = 0

Rows = list[dict[str, Any]]

TRAINING: Mapping[str, Mapping[str, Any]] = {
    "full": {"tune": "full", "learning_rate": 2.0e-4},
    "lora": {"tune": "lora", "learning_rate": 2.0e-3},
    "head": {"tune": "head", "learning_rate": 5.0e-3},
}
"""What differs between the ways to tune."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """``train`` and ``holdout``: files for the first champion. ``stream``: rows of the traffic, shuffled. ``test``: rows of all
    intents, which nobody trains on; ``first`` are the intents that the first champion knows.
    """

    train: Path
    holdout: Path
    stream: Rows
    test: Rows
    first: frozenset[str]

    @property
    def labels(self) -> frozenset[str]:
        """All intents."""
        return frozenset(row["label"] for row in self.test)

    def model(self, tune: str, after_examples: int) -> dict[str, Any]:
        """The model's part of `baton.yaml`."""
        return {
            "task": "classification",
            "data": {"train": str(self.train), "holdout": str(self.holdout)},
            "training": {
                "epochs": 5,
                "batch_size": 32,
                "start_from": "champion",
                "replay": 3.0,
                **TRAINING[tune],
            },
            "gate": {"min_f1": 0.1, "confidence": 0.9},
            "serving": {"replicas": 2},
            "retrain": {"after_examples": after_examples, "cooldown_minutes": 0},
        }


def set_scene(data: Path, home: Path) -> Scene:
    """Draw the scene from banking77 in ``data``, seeded."""
    train, test = read_rows(train_of(data)), read_rows(holdout_of(data))
    rng = random.Random(SEED)
    first = frozenset(rng.sample(sorted({row["label"] for row in train}), INTENTS))
    rng.shuffle(train)
    known: Rows = []
    stream: Rows = []
    for row in train:
        (known if row["label"] in first and rng.random() < THINNED else stream).append(row)
    return Scene(
        train=_write(home / "train.jsonl", known),
        holdout=_write(home / "holdout.jsonl", [row for row in test if row["label"] in first]),
        stream=stream,
        test=test,
        first=first,
    )


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
