"""Measure few-shot training: seconds and macro-F1 from a few rows of each label, for several choices of rows.

    python -m benchmarks.learning.few_shot --data path/to/banking77

Each time includes encoding the rows, choosing the regularisation, fitting, and writing the version. The version is then loaded
and evaluated on the test file by the predictor that would serve it.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baton.artifacts.manifest import Manifest
from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.tasks import task_type
from baton.text.normal_form import normalise
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, holdout_of, train_of
from training.data.sources import parse, read
from training.judge.evaluate import evaluate
from training.methods.few_shot import fit_head

PER_LABEL = 8


@dataclass(frozen=True, kw_only=True)
class Result:
    """The measurement for one choice of rows."""

    seed: int
    seconds: float
    strength: float
    """Regularisation strength that was chosen."""
    held_back_f1: float
    """Cross-validated macro-F1 on the training rows."""
    f1: float
    """Macro-F1 on the test file."""


def main() -> None:
    """Parse the command line, measure, write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.few_shot", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl: text and label")
    parser.add_argument("--per-label", type=int, default=PER_LABEL, help=f"rows of each label; default {PER_LABEL}")
    parser.add_argument("--seeds", type=int, default=5, help="number of choices of rows; default 5")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file to write; only the section with the same heading is replaced"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    task_cls = task_type("classification")
    train, test = (
        parse(task_cls, {}, read(str(file), split), str(file))
        for file, split in ((train_of(arguments.data), "train"), (holdout_of(arguments.data), "test"))
    )
    test_texts = {normalise(row.text) for row in test}
    rows = [row for row in train if normalise(row.text) not in test_texts]
    results = []
    for seed in range(arguments.seeds):
        results.append(measure(rows, test, arguments.per_label, seed))
        print(results[-1], flush=True)
    options = f"--data …/{arguments.data.resolve().name} --per-label {arguments.per_label} --seeds {arguments.seeds}"
    write(arguments.out, section(results, arguments.per_label, len(test)), head_of("benchmarks.learning.few_shot", options))


def measure(rows: Sequence[Any], test: Sequence[Any], per_label: int, seed: int) -> Result:
    """Train on ``per_label`` rows of each label, sampled with ``seed``, and evaluate the version on ``test``."""
    labels = task_type("classification").labels_of(rows)
    rng = random.Random(seed)
    chosen = [row for label in labels for row in rng.sample([row for row in rows if row.label == label], per_label)]
    settings = ModelSettings.model_validate(
        {
            "name": "benchmark",
            "task": "classification",
            "base_model": BASE_MODEL,
            "data": {"train": "train.jsonl"},
            "training": {"few_shot": True},
        }
    )
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        directory = Path(name)
        began = time.perf_counter()
        base = find_base_model(BASE_MODEL)
        fitted = fit_head(base, settings, labels, chosen, directory=directory, report=lambda done, total: None)
        seconds = time.perf_counter() - began
        manifest = Manifest(
            model="benchmark",
            task="classification",
            labels=labels,
            max_length=settings.max_length,
            base_model=BASE_MODEL,
            dataset={},
            training={},
            metrics={},
            code_version="0",
        )
        predictor = Predictor.load(directory, manifest, settings.serving, threads=torch.multiprocessing.cpu_count())
        score = evaluate(predictor, test, lambda done, total: None).score
    f1 = float(score.metrics["f1"])
    return Result(seed=seed, seconds=seconds, strength=fitted.strength, held_back_f1=fitted.f1, f1=f1)


def section(results: Sequence[Result], per_label: int, tested: int) -> str:
    """Return the section of the results."""
    heads = ("seed", "time", "strength", "F1 of rows held back in turn", "macro-F1")
    rows = [
        (str(it.seed), f"{it.seconds:.1f} s", f"{it.strength:g}", f"{it.held_back_f1:.4f}", f"{it.f1:.4f}") for it in results
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    scores = [it.f1 for it in results]
    return (
        f"## Few-shot: {per_label} rows a label\n\n"
        f"`training.few_shot: true`; the rows are drawn from the train file by seed, the score is that of all {tested:,} test\n"
        "rows, by the predictor that would serve the version. Time: from loading the base model to the written version.\n\n"
        f"{table}\n\nMacro-F1 {statistics.mean(scores):.4f} on average, at least {min(scores):.4f}; "
        f"time {statistics.median(it.seconds for it in results):.1f} s at the median. The machine's load average at the end "
        f"was {os.getloadavg()[0]:.1f}: above its number of cores, the time was shared with others.\n"
    )


if __name__ == "__main__":
    main()
