"""Measure what scores are worth: calibration errors without and with a temperature, how well a wanted precision is kept, and
whether explanations name the words that matter.

    python -m benchmarks.gate.scores --data DIR [--data DIR …]

Each DIR is one data set, as for `python -m benchmarks`; its rows say which task it is for. A run with nothing set under
`training:` makes a version of it (no service; Ray runs on this machine), and the section shows what the version's scores on the
test file say. Thresholds are chosen on one half of the test rows, drawn at random, and judged on the other, many times. Of
classifiers, some test rows are explained: the words with the highest attributions are left out, and as many random ones.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from baton.artifacts.frozen import HOLDOUT
from baton.artifacts.storage import Storage
from baton.config.file import load_config
from baton.config.serving_settings import ServingSettings
from baton.predict.predictor import Predictor
from baton.quality.confidence import abstain_below, precision_curve
from baton.store.records import ModelVersion
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.tasks.base import Attribution
from baton.tasks.text_classifier import TextClassifier
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, draw_questions, holdout_of, read_rows, train_of
from training.data import datasets
from training.judge.calibration import Judged, judge

TARGETS = (0.9, 0.95, 0.98)
"""Wanted precisions."""

EXPLAINED, LEFT_OUT = 200, 0.2
"""Rows that are explained, and the share of their words that is left out."""

DRAWS = 200
"""Halves of the test rows that choose thresholds."""


def main() -> None:
    """Parse the command line, train and measure each data set, write the section."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate.scores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True, help="directory of a data set; may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file to write; only this section is replaced")
    arguments = parser.parse_args()
    rows, explained = [], []
    for data in (data.resolve() for data in arguments.data):
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
            scored = train(data, Path(home))
            rows.append([data.name, *calibration(scored)])
            print(" · ".join(rows[-1]), flush=True)
            if isinstance(scored.predictor.task, TextClassifier):
                explained.append([data.name, *explanations(scored)])
                print(" · ".join(explained[-1]), flush=True)
    heads = ["data", "F1", "scored answers", "temperature", "ECE without", "ECE with"]
    heads += [f"wanted {target:g}: kept · given" for target in TARGETS]
    section = (
        "## Scores\n\n"
        "One version of each data set, trained with nothing set under `training:` and judged on the test file. ECE: expected\n"
        "calibration error in 15 bins; with a temperature, cross-fitted. Wanted: precision of the answers that reach\n"
        f"a threshold that a random half of the test rows chose, on the other half; mean of {DRAWS} halves ± their standard\n"
        "deviation, and the share of answers that are given.\n\n"
        f"{table(heads, rows)}\n"
    )
    if explained:
        heads = ["data", "score", f"without the top {LEFT_OUT:.0%} of words", "without random ones", "explained", "plain"]
        section += (
            f"\nExplanations of {EXPLAINED} random test rows each: mean score of the answer that the whole text gets, and of\n"
            "the same answer without some words; milliseconds of one text on one thread, explained and not, median.\n\n"
            f"{table(heads, explained)}\n"
        )
    options = " ".join(f"--data …/{data.resolve().name}" for data in arguments.data)
    write(arguments.out, section, head_of("benchmarks.gate.scores", options))
    print(f"written to {arguments.out}")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A trained version, as it would be served, and its answers to the test file."""

    version: ModelVersion
    predictor: Predictor
    holdout: Sequence[Any]
    judged: Judged


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def train(data: Path, home: Path) -> Scored:
    """Train a version on ``data``, with nothing set under `training:`."""
    first = read_rows(train_of(data))[0]
    task = "qa" if "question" in first else "ner" if "tokens" in first else "classification"
    if task == "qa":
        data = draw_questions(data, home / "data")
    config = home / "baton.yaml"
    declared = {
        "name": "benchmark",
        "task": task,
        "base_model": BASE_MODEL,
        "data": {"train": str(train_of(data)), "holdout": str(holdout_of(data))},
    }
    config.write_text(
        yaml.safe_dump({"storage": str(home / "storage"), "database": f"sqlite:///{home}/baton.db", "models": [declared]})
    )
    subprocess.run([sys.executable, "-m", "training", "run", "benchmark", "-c", str(config)], check=True)
    loaded = load_config(config, {})
    registry, storage = Registry(loaded.database), Storage(loaded.storage)
    [version] = registry.versions.list("benchmark")
    registry.close()
    directory, manifest = storage.fetch(version, home)
    holdout = datasets.load_split(task_type(task), storage, version.lineage["dataset"]["uri"], HOLDOUT)
    predictor = Predictor.load(directory, manifest, loaded.model("benchmark").serving)
    outputs = predictor.predict([predictor.task.input_of(row) for row in holdout])
    return Scored(version=version, predictor=predictor, holdout=holdout, judged=judge(predictor.task, outputs, holdout))


def calibration(scored: Scored) -> list[str]:
    """Return the cells of a version's line about its scores."""
    metrics = scored.version.metrics
    facts = metrics["confidence"]
    return [
        f"{metrics['f1']:.4f}",
        f"{facts['answers']:,}",
        f"{facts['temperature']:.2f}",
        f"{facts['ece_uncalibrated']:.3f}",
        f"{facts['ece']:.3f}",
        *(kept(scored.judged, len(scored.holdout), target) for target in TARGETS),
    ]


def explanations(scored: Scored) -> list[str]:
    """Return the cells of a classifier's line about its explanations."""
    predictor, task = scored.predictor, scored.predictor.task
    rng = random.Random(0)
    scores: list[list[float]] = []
    seconds: list[list[float]] = []
    for row in rng.sample(list(scored.holdout), EXPLAINED):
        timed = []
        for options in (task.Options(), task.Options(explain=True)):
            began = time.perf_counter()
            [output] = predictor.predict([task.input_of(row)], [options])
            timed.append(time.perf_counter() - began)
        seconds.append(timed)
        parts = sorted(output.explanation.parts, key=lambda part: -part.score)
        count = max(1, round(LEFT_OUT * len(parts)))
        texts = [_without(row.text, left_out) for left_out in (parts[:count], rng.sample(parts, count))]
        if all(texts):
            others = predictor.predict([task.from_wire(text) for text in texts])
            again = [dict(zip(other.labels, other.scores, strict=True))[output.label] for other in others]
            scores.append([output.scores[0], *again])
    plain, explained = np.median(seconds, axis=0) * 1000
    return [*(f"{value:.3f}" for value in np.mean(scores, axis=0)), f"{explained:.0f} ms", f"{plain:.1f} ms"]


def _without(text: str, parts: Sequence[Attribution]) -> str:
    """Return a text without some parts; empty if nothing is left."""
    for part in sorted(parts, key=lambda part: -part.start):
        text = text[: part.start] + text[part.end :]
    return " ".join(text.split())


def kept(judged: Judged, rows: int, target: float) -> str:
    """Return how precise the answers are above thresholds for ``target``, and what share of all answers they are."""
    rng = np.random.default_rng(0)
    precisions, shares = [], []
    serving = ServingSettings(target_precision=target)
    for _ in range(DRAWS):
        chosen = (rng.permutation(rows) < rows // 2)[judged.rows]
        curve = precision_curve(judged.scores[chosen], judged.right[chosen])
        threshold = abstain_below(serving, {"confidence": {"curve": curve, "answers": int(chosen.sum())}}) or 0.0
        given = ~chosen & (judged.scores >= threshold)
        shares.append(given.sum() / max(1, (~chosen).sum()))
        if given.any():
            precisions.append(judged.right[given].mean())
    if not precisions:
        return "never reached"
    return f"{np.mean(precisions):.3f} ± {np.std(precisions):.3f} · {np.mean(shares):.0%}"


if __name__ == "__main__":
    main()
