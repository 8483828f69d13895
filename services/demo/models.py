"""The demo's three models: their samples, training settings and example questions, and how their labels are corrupted.

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
"""Share of rows with a wrong label in the data of the bad version."""


@dataclass(frozen=True, kw_only=True)
class DemoModel:
    """A model of the demo."""

    name: str
    """Also the name of its directory in `baton.samples`."""
    task: str
    training: Mapping[str, Any]
    """Its section ``training`` in baton.yaml."""
    gate: Mapping[str, float]
    """Its section ``gate`` in baton.yaml."""
    question: Any
    """The input whose answer the demo prints."""
    inputs: Callable[[Row], Any]
    """Returns the model's input of a row."""
    corrupt: Callable[[Row, Sequence[str], random.Random], Row]
    """Returns a copy of a row with a wrong label, chosen among all labels."""

    def settings(self) -> Mapping[str, Any]:
        """Return its entry in ``models`` of baton.yaml."""
        return {
            "name": self.name,
            "task": self.task,
            "data": {"train": f"{self.name}/train.jsonl", "holdout": f"{self.name}/holdout.jsonl"},
            "training": dict(self.training),
            "gate": dict(self.gate),
            "serving": {"replicas": 1},
        }

    def write(self, home: Path) -> list[Any]:
        """Write its data files below ``home``: train, the first third of it, a corrupted copy of it, holdout.

        Return the inputs of the holdout rows.
        """
        samples = resources.files("baton.samples") / self.name
        train, holdout = (_rows((samples / f"{split}.jsonl").read_text(encoding="utf-8")) for split in ("train", "holdout"))
        rng = random.Random(0)
        labels = sorted({label for row in train for label in _labels(row)})
        corrupted = [self.corrupt(row, labels, rng) if rng.random() < CORRUPTED else row for row in train]
        (home / self.name).mkdir()
        splits = {"train": train, "third": train[: len(train) // 3], "corrupted": corrupted, "holdout": holdout}
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (home / self.name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return [self.inputs(row) for row in holdout]


def _corrupt_label(row: Row, labels: Sequence[str], rng: random.Random) -> Row:
    return {**row, "label": rng.choice([label for label in labels if label != row["label"]])}


def _corrupt_entities(row: Row, labels: Sequence[str], rng: random.Random) -> Row:
    """Give every entity another type."""
    wrong = [{**one, "label": rng.choice([label for label in labels if label != one["label"]])} for one in row["entities"]]
    return {**row, "entities": wrong}


def _corrupt_answer(row: Row, labels: Sequence[str], rng: random.Random) -> Row:
    """Take two random words of the context as the answer."""
    words = row["context"].split()
    first = rng.randrange(len(words) - 2)
    text = " ".join(words[first : first + 2])
    return {**row, "answers": {"text": [text], "answer_start": [row["context"].index(text)]}}


MODELS = (
    DemoModel(
        name="intents",
        task="classification",
        training={"method": "fine_tune", "tune": "last_n", "last_n": 3, "epochs": 6, "learning_rate": 5.0e-4, "batch_size": 16},
        gate={"min_f1": 0.5},
        question="I was charged twice this month, please send the second payment back.",
        inputs=lambda row: row["text"],
        corrupt=_corrupt_label,
    ),
    DemoModel(
        name="entities",
        task="ner",
        training={"method": "fine_tune", "epochs": 8, "learning_rate": 3.0e-4, "batch_size": 8, "early_stopping": 8},
        gate={"min_f1": 0.2, "confidence": 0.8},  # its holdout is small, and a third of its data already gives a good F1
        question="Ines Kovar of Harbourline Logistics wants to move to the Business plan before 12 May.",
        inputs=lambda row: row["text"],
        corrupt=_corrupt_entities,
    ),
    DemoModel(
        name="help",
        task="qa",
        training={"method": "fine_tune", "epochs": 6, "learning_rate": 5.0e-4, "batch_size": 16, "max_length": 192},
        gate={"min_f1": 0.05},
        question={
            "question": "Who can change the billing address?",
            "context": "Invoices are sent on the first day of each month. The billing address can be changed by the owner "
            "under Settings > Billing, and guests see neither invoices nor prices.",
        },
        inputs=lambda row: {"question": row["question"], "context": row["context"]},
        corrupt=_corrupt_answer,
    ),
)


def write_home(home: Path, port: int) -> dict[str, list[Any]]:
    """Write a configuration with all models, and their data, into ``home``. Return the inputs of each model's holdout rows."""
    inputs = {model.name: model.write(home) for model in MODELS}
    content = {"http": {"port": port}, "models": [model.settings() for model in MODELS]}
    (home / "baton.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return inputs


def _labels(row: Row) -> list[str]:
    return [row["label"]] if "label" in row else [one["label"] for one in row.get("entities", ())]


def _rows(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines()]
