"""Measure what a hostile sender of corrections achieves: F1 of what serves, after each attack and the run that it starts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.online.scenario import SEED, Rows, write_rows
from benchmarks.service import MODEL, OneModelService, holdout_of, read_rows, train_of

TRAIN_SHARE = 0.2
"""Share of the training rows that the champion is trained on. The sender takes texts from the rest."""

CORRECTIONS = 600
"""Corrections of each attack."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What one attack led to."""

    name: str
    verdict: str
    """Of the gate, on the version that was trained on the corrections."""
    challenger_f1: float
    """F1 of that version on the declared holdout."""
    serving_f1: float
    """F1 of what serves afterwards on it."""


@dataclass(frozen=True, kw_only=True)
class PoisonResult:
    """The result of the benchmark."""

    first_f1: float
    """F1 of the champion before the attacks, on the declared holdout."""
    attacks: Sequence[Attack]


def measure(data: Path, home: Path) -> PoisonResult:
    """Train a champion, then send each attack's corrections and train on them and all before, one attack after the other."""
    rng = random.Random(SEED)
    rows = read_rows(train_of(data))
    rng.shuffle(rows)
    known, others = rows[: round(TRAIN_SHARE * len(rows))], rows[round(TRAIN_SHARE * len(rows)) :]
    labels = sorted({row["label"] for row in rows})
    train = write_rows(home / "train.jsonl", known)
    model = {
        "task": "classification",
        "data": {"train": str(train), "holdout": str(holdout_of(data))},
        "training": {"method": "fine_tune", "epochs": 4, "batch_size": 32, "learning_rate": 2.0e-4},
        "gate": {"min_f1": 0.1},
    }
    with OneModelService(home, model) as service:
        run, _ = service.train()
        service.wait_for(run["version"])
        first = service.client.get(f"/api/models/{MODEL}")["f1"]
        attacks = []
        for number, (name, attack) in enumerate(ATTACKS.items()):
            sent = attack(rng, others[number * CORRECTIONS : (number + 1) * CORRECTIONS], labels)
            items = [{"id": f"{number}-{place}", **row} for place, row in enumerate(sent)]
            service.client.post(f"/api/models/{MODEL}/feedback", items)
            run, _ = service.train()
            numbers = run["decision"]["numbers"]
            if run["decision"]["verdict"] == "promote":
                service.wait_for(run["version"])
            attacks.append(
                Attack(
                    name=name,
                    verdict=run["decision"]["verdict"],
                    challenger_f1=numbers["f1"],
                    serving_f1=service.client.get(f"/api/models/{MODEL}")["f1"],
                )
            )
    return PoisonResult(first_f1=first, attacks=attacks)


def _wrong(rng: random.Random, rows: Rows, labels: Sequence[str]) -> Rows:
    return [{**row, "label": rng.choice([label for label in labels if label != row["label"]])} for row in rows]


def _swapped(rng: random.Random, rows: Rows, labels: Sequence[str]) -> Rows:
    """Give each label the name of its neighbour in the alphabet: wrong, but easy to learn."""
    follower = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    return [{**row, "label": follower[row["label"]]} for row in rows]


def _one(rng: random.Random, rows: Rows, labels: Sequence[str]) -> Rows:
    return [{**row, "label": labels[0]} for row in rows]


def _new(rng: random.Random, rows: Rows, labels: Sequence[str]) -> Rows:
    return [{**row, "label": "call me"} for row in rows]


ATTACKS: Mapping[str, Callable[[random.Random, Rows, Sequence[str]], Rows]] = {
    "random wrong labels": _wrong,
    "every label swapped with another": _swapped,
    "one label for everything": _one,
    "a new label for everything": _new,
}
