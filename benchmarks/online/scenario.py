"""The scenario of the online benchmarks: a first champion trained on few rows of some intents, and traffic with all intents."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.service import holdout_of, read_rows, train_of

INTENTS = 40
"""Number of the 77 intents that the first champion knows."""

THINNED = 0.1
"""Share of the training rows of these intents that it is trained on."""

CORRECTED = 0.3
"""Share of the traffic that the application corrects."""

AUDIT = 0.05
"""Share of the texts that people are asked to label."""

SEED = 0

Rows = list[dict[str, Any]]

TRAINING: Mapping[str, Mapping[str, Any]] = {
    "full": {"tune": "full", "learning_rate": 2.0e-4},
    "lora": {"tune": "lora", "learning_rate": 2.0e-3},
    "head": {"tune": "head", "learning_rate": 5.0e-3},
}
"""Settings that differ between the values of ``training.tune``."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The rows of the scenario."""

    train: Path
    """Training file of the first champion."""
    holdout: Path
    """Its holdout file."""
    stream: Rows
    """The rows of the traffic, shuffled."""
    test: Rows
    """Rows of all intents, which no version is trained on."""
    first: frozenset[str]
    """The intents that the first champion knows."""

    @property
    def labels(self) -> frozenset[str]:
        """Return all intents."""
        return frozenset(row["label"] for row in self.test)

    def model(self, tune: str, after_examples: int) -> dict[str, Any]:
        """Return the model's settings in `baton.yaml`."""
        return {
            "task": "classification",
            "data": {"train": str(self.train), "holdout": str(self.holdout)},
            "training": {
                "method": "fine_tune",
                "epochs": 5,
                "batch_size": 32,
                "start_from": "champion",
                "replay": 3.0,
                **TRAINING[tune],
            },
            "gate": {"min_f1": 0.1, "confidence": 0.9},
            "feedback": {"audit": AUDIT},
            "serving": {"replicas": 2},
            "retrain": {"after_examples": after_examples, "cooldown_minutes": 0},
        }


def build_scenario(data: Path, home: Path) -> Scenario:
    """Sample the scenario from banking77 in ``data``, with a fixed seed. Write its files to ``home``."""
    train, test = read_rows(train_of(data)), read_rows(holdout_of(data))
    rng = random.Random(SEED)
    first = frozenset(rng.sample(sorted({row["label"] for row in train}), INTENTS))
    rng.shuffle(train)
    known: Rows = []
    stream: Rows = []
    for row in train:
        (known if row["label"] in first and rng.random() < THINNED else stream).append(row)
    return Scenario(
        train=write_rows(home / "train.jsonl", known),
        holdout=write_rows(home / "holdout.jsonl", [row for row in test if row["label"] in first]),
        stream=stream,
        test=test,
        first=first,
    )


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a JSON Lines file, and return its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
