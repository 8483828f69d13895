"""Let the gate decide on real predictions: versions that are better, versions that are not, and small holdouts.

    python -m benchmarks.gate.intents --data DIR

DIR has train.jsonl and test.jsonl with `text` and `label`, such as banking77. A version is a linear head on the mean token
vectors of the base model, trained on a part of the train file; the product's own gate decides on its answers to the test file.
Heads take seconds to train, so that many versions can be compared; `baton demo` shows that a whole run ends the same way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.config.base_models import find_base_model
from baton.config.model_settings import GateSettings
from baton.quality.matches import allowed
from baton.store.records import Verdict
from baton.tasks.f1 import MacroF1
from benchmarks.__main__ import RESULTS, head_of, write
from training.judge.gate import Match, Outcome, decide, needed
from training.judge.pairs import pair_of

Vectors = NDArray[np.float32]
Answers = NDArray[np.int32]

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
POLICY = GateSettings()
ROUNDS = 20
"""Pairs of versions for each comparison."""
DRAWS = 400
"""Holdouts that are drawn from the test file."""


def main() -> None:
    """Parse the command line, embed, decide, write the section."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate.intents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl")
    data = parser.parse_args().data
    train, test = (_read(data / f"{name}.jsonl") for name in ("train", "test"))
    labels = tuple(sorted({row["label"] for row in train}))
    versions = Versions(train, test, labels)
    section = f"## The gate on real predictions\n\n{_comparisons(versions)}{_small_holdout(versions)}"
    print(section)
    write(RESULTS, section, head_of("benchmarks.gate.intents", f"--data …/{data.name}"))


class Versions:
    """Linear heads on frozen vectors, and their answers to the test rows."""

    def __init__(self, train: list[dict[str, str]], test: list[dict[str, str]], labels: tuple[str, ...]) -> None:
        place = {label: index for index, label in enumerate(labels)}
        self.labels = labels
        self._train = embed([row["text"] for row in train])
        self._train_truth = np.array([place[row["label"]] for row in train], dtype=np.int32)
        self._test = embed([row["text"] for row in test])
        self.truth = np.array([place[row["label"]] for row in test], dtype=np.int32)

    def answers(self, share: float, seed: int) -> Answers:
        """Train a version on a random share of the train rows. Return its answers to the test rows."""
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(self._train))[: round(share * len(self._train))]
        head = LogisticRegression(C=20.0, max_iter=200).fit(self._train[rows], self._train_truth[rows])
        return np.asarray(head.predict(self._test), dtype=np.int32)

    def decide(self, candidate: Answers, champion: Answers, rows: NDArray[np.intp], number: int, seed: int) -> Outcome:
        """Let the gate decide on some of the test rows."""
        metrics = [
            MacroF1(truth=self.truth[rows], predicted=answers[rows], labels=self.labels) for answers in (candidate, champion)
        ]
        groups = np.arange(len(rows), dtype=np.int32)
        return decide(Match(pair=pair_of(*metrics), groups=groups, number=number, seed=seed), POLICY)


def embed(texts: list[str]) -> Vectors:
    """Return the mean token vectors [n, d] of texts."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = find_base_model(BASE_MODEL)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    order = np.argsort([len(text) for text in texts])
    vectors: dict[int, Any] = {}
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            some = order[start : start + 64]
            batch = tokenizer([texts[row] for row in some], padding=True, truncation=True, max_length=64, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1)
            means = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors.update(zip(some.tolist(), means.numpy(), strict=True))
    return np.stack([vectors[row] for row in range(len(texts))])


def _comparisons(versions: Versions) -> str:
    rng, size = np.random.default_rng(0), len(versions.truth)
    whole = np.arange(size)
    lines = [
        f"{len(versions.labels)} labels, {size:,} test rows, {ROUNDS} pairs a line, each a first match ({allowed(0.95, 1):.1%} "
        "may be false).\n\n| champion | candidate | mean gain | promoted | inconclusive | refused |\n|---|---|--:|--:|--:|--:|"
    ]
    halves = [versions.answers(0.5, seed) for seed in range(2 * ROUNDS)]
    less = [versions.answers(0.25, seed) for seed in range(ROUNDS)]
    flipped = []
    for answers in halves[:ROUNDS]:
        wrong = answers.copy()
        rows = rng.choice(size, round(0.02 * size), replace=False)
        wrong[rows] = (wrong[rows] + rng.integers(1, len(versions.labels), len(rows))) % len(versions.labels)
        flipped.append(wrong)
    for champion, candidate, pairs in (
        ("a quarter of the rows", "half of the rows", zip(halves, less, strict=False)),
        ("half of the rows", "another half of the rows", zip(halves[ROUNDS:], halves, strict=False)),
        ("half of the rows", "the champion with 2% of its answers flipped", zip(flipped, halves, strict=False)),
    ):
        outcomes = [versions.decide(new, old, whole, 1, seed) for seed, (new, old) in enumerate(pairs)]
        counts = [sum(outcome.verdict is verdict for outcome in outcomes) for verdict in VERDICTS]
        gain = np.mean([outcome.comparison.gain for outcome in outcomes])
        lines.append(f"| {champion} | {candidate} | {gain:+.4f} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


VERDICTS = (Verdict.PROMOTE, Verdict.INCONCLUSIVE, Verdict.REJECT)


def _small_holdout(versions: Versions) -> str:
    """Return what 50 rows say, and whether the number of rows that the sentence asks for is right."""
    candidate, champion = versions.answers(0.5, 0), versions.answers(0.25, 0)
    rng, size = np.random.default_rng(1), len(versions.truth)
    small = [versions.decide(candidate, champion, rng.choice(size, 50), 1, seed) for seed in range(DRAWS)]
    undecided = sum(outcome.verdict is Verdict.INCONCLUSIVE for outcome in small)
    won = sum(outcome.verdict is Verdict.PROMOTE for outcome in small)
    true = versions.decide(candidate, champion, np.arange(size), 1, 0)
    rows = needed(true, POLICY)
    assert rows is not None
    shown = sum(
        versions.decide(candidate, champion, rng.choice(size, rows), 2, seed).verdict is Verdict.PROMOTE
        for seed in range(DRAWS)
    )
    return (
        f"\nOne pair with a true gain of {true.comparison.gain:+.4f}, on {DRAWS} holdouts that are drawn with replacement from "
        f"the test rows: of 50 rows, {undecided / DRAWS:.1%} are inconclusive and {won / DRAWS:.1%} promote. {rows:,} rows are "
        f"said to be enough for 80% in match 2; of holdouts of that size, {shown / DRAWS:.1%} promote.\n"
    )


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
