"""Measure what scores are worth: calibration errors without and with a temperature, and how well a wanted precision is kept.

    python -m benchmarks.gate.calibration --data DIR [--data DIR …]

Each DIR is one data set, as for `python -m benchmarks`; its rows say which task it is for. A run with nothing set under
`training:` makes a version of it (no service; Ray runs on this machine), and the section shows what the version's scores on the
test file say. Thresholds are chosen on one half of the test rows, drawn at random, and judged on the other, many times.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from baton.artifacts.frozen import HOLDOUT
from baton.artifacts.storage import Storage
from baton.config.file import load_config
from baton.config.serving_settings import ServingSettings
from baton.predict.predictor import Predictor
from baton.quality.confidence import abstain_below, precision_curve
from baton.store.registry import Registry
from baton.tasks import task_type
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, draw_questions, holdout_of, read_rows, train_of
from training.data import datasets
from training.judge.calibration import Judged, judge

TARGETS = (0.9, 0.95, 0.98)
"""Wanted precisions."""

DRAWS = 200
"""Halves of the test rows that choose thresholds."""


def main() -> None:
    """Parse the command line, train and measure each data set, write the section."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate.calibration", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True, help="directory of a data set; may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file to write; only this section is replaced")
    arguments = parser.parse_args()
    rows = []
    for data in (data.resolve() for data in arguments.data):
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
            rows.append([data.name, *measure(data, Path(home))])
            print(" · ".join(rows[-1]), flush=True)
    heads = ["data", "F1", "scored answers", "temperature", "ECE without", "ECE with"]
    heads += [f"wanted {target:g}: kept · given" for target in TARGETS]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    section = (
        "## Scores\n\n"
        "One version of each data set, trained with nothing set under `training:` and judged on the test file. ECE: expected\n"
        "calibration error in 15 bins; with a temperature, cross-fitted. Wanted: precision of the answers that reach\n"
        f"a threshold that a random half of the test rows chose, on the other half; mean of {DRAWS} halves ± their standard\n"
        "deviation, and the share of answers that are given.\n\n"
        f"{table}\n"
    )
    options = " ".join(f"--data …/{data.resolve().name}" for data in arguments.data)
    write(arguments.out, section, head_of("benchmarks.gate.calibration", options))
    print(f"written to {arguments.out}")


def measure(data: Path, home: Path) -> list[str]:
    """Train a version on ``data`` and return the cells of its line."""
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
    directory, manifest = storage.fetch(version, home)
    holdout = datasets.load_split(task_type(task), storage, version.lineage["dataset"]["uri"], HOLDOUT)
    predictor = Predictor.load(directory, manifest, loaded.model("benchmark").serving)
    outputs = predictor.predict([predictor.task.input_of(row) for row in holdout])
    judged = judge(predictor.task, outputs, holdout)
    facts = version.metrics["confidence"]
    registry.close()
    return [
        f"{version.metrics['f1']:.4f}",
        f"{facts['answers']:,}",
        f"{facts['temperature']:.2f}",
        f"{facts['ece_uncalibrated']:.3f}",
        f"{facts['ece']:.3f}",
        *(kept(judged, len(holdout), target) for target in TARGETS),
    ]


def kept(judged: Judged, rows: int, target: float) -> str:
    """Return how precise the answers are above thresholds for ``target``, and what share of all answers they are."""
    rng = np.random.default_rng(0)
    precisions, shares = [], []
    serving = ServingSettings(target_precision=target)
    for _ in range(DRAWS):
        chosen = (rng.permutation(rows) < rows // 2)[judged.rows]
        curve = precision_curve(judged.scores[chosen], judged.right[chosen])
        threshold = abstain_below(serving, {"confidence": {"curve": curve}}) or 0.0
        given = ~chosen & (judged.scores >= threshold)
        shares.append(given.sum() / max(1, (~chosen).sum()))
        if given.any():
            precisions.append(judged.right[given].mean())
    if not precisions:
        return "never reached"
    return f"{np.mean(precisions):.3f} ± {np.std(precisions):.3f} · {np.mean(shares):.0%}"


if __name__ == "__main__":
    main()
