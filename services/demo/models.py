"""The demo's three models: their bundled samples, how they train, what they are asked, and how their labels are spoilt.

Knows nothing of the service.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]

CORRUPTED = 0.6
"""Share of the labels that the bad version learns from."""


@dataclass(frozen=True, kw_only=True)
class DemoModel:
    """One model. ``name`` is that of its samples, too; ``spoil`` gives a row a wrong label, out of all that occur."""

    name: str
    task: str
    training: Mapping[str, Any]
    gate: Mapping[str, float]
    question: Any
    inputs: Callable[[Row], Any]
    spoil: Callable[[Row, Sequence[str], random.Random], Row]

    def settings(self) -> Mapping[str, Any]:
        """Its section of baton.yaml."""
        return {
            "name": self.name,
            "task": self.task,
            "data": {"train": f"{self.name}/train.jsonl", "holdout": f"{self.name}/holdout.jsonl"},
            "training": dict(self.training),
            "gate": dict(self.gate),
            "serving": {"replicas": 1},
        }

    def write(self, home: Path) -> list[Any]:
        """Its files below ``home``: train, a third of it, a corrupted copy, holdout. Returns the holdout's inputs, for load."""
        samples = resources.files("baton.samples") / self.name
        train, holdout = (_rows((samples / f"{split}.jsonl").read_text(encoding="utf-8")) for split in ("train", "holdout"))
        rng = random.Random(0)
        labels = sorted({label for row in train for label in _labels(row)})
        corrupted = [self.spoil(row, labels, rng) if rng.random() < CORRUPTED else row for row in train]
        (home / self.name).mkdir()
        splits = {"train": train, "third": train[: len(train) // 3], "corrupted": corrupted, "holdout": holdout}
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (home / self.name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return [self.inputs(row) for row in holdout]


def _spoil_label(row: Row, labels: Sequence[str], rng: random.Random) -> Row:
    return {**row, "label": rng.choice([label for label in labels if label != row["label"]])}


def _spoil_entities(row: Row, labels: Sequence[str], rng: random.Random) -> Row:
    """Every entity gets another type."""
    wrong = [{**one, "label": rng.choice([label for label in labels if label != one["label"]])} for one in row["entities"]]
    return {**row, "entities": wrong}


def _spoil_answer(row: Row, labels: Sequence[str], rng: random.Random) -> Row:
    """Some other words of the context are the answer."""
    words = row["context"].split()
    first = rng.randrange(len(words) - 2)
    text = " ".join(words[first : first + 2])
    return {**row, "answers": {"text": [text], "answer_start": [row["context"].index(text)]}}


MODELS = (
    DemoModel(
        name="intents",
        task="classification",
        training={"tune": "last_n", "last_n": 3, "epochs": 6, "learning_rate": 5.0e-4, "batch_size": 16},
        gate={"min_f1": 0.5},
        question="I was charged twice this month, please send the second payment back.",
        inputs=lambda row: row["text"],
        spoil=_spoil_label,
    ),
    DemoModel(
        name="entities",
        task="ner",
        training={"epochs": 8, "learning_rate": 3.0e-4, "batch_size": 8, "early_stopping": 8},
        gate={"min_f1": 0.2, "confidence": 0.8},  # its holdout is small, and a third of its data teaches much already
        question="Ines Kovar of Harbourline Logistics wants to move to the Business plan before 12 May.",
        inputs=lambda row: row["text"],
        spoil=_spoil_entities,
    ),
    DemoModel(
        name="help",
        task="qa",
        training={"epochs": 6, "learning_rate": 5.0e-4, "batch_size": 16, "max_length": 192},
        gate={"min_f1": 0.05},
        question={
            "question": "Who can change the billing address?",
            "context": "Invoices are sent on the first day of each month. The billing address can be changed by the owner "
            "under Settings > Billing, and guests see neither invoices nor prices.",
        },
        inputs=lambda row: {"question": row["question"], "context": row["context"]},
        spoil=_spoil_answer,
    ),
)


def write_home(home: Path, port: int) -> dict[str, list[Any]]:
    """A configuration with all models, and their data. Returns each model's holdout inputs."""
    inputs = {model.name: model.write(home) for model in MODELS}
    content = {"http": {"port": port}, "models": [model.settings() for model in MODELS]}
    (home / "baton.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return inputs


def _labels(row: Row) -> list[str]:
    return [row["label"]] if "label" in row else [one["label"] for one in row.get("entities", ())]


def _rows(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines()]
