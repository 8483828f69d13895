"""Data sets: processor time and memory to freeze base data with much feedback, and to say what changed.

    python -m benchmarks.freezing

The texts are made up: their number, length and repetitions matter here, not what they say.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.feedback import Correction
from baton.store.registry import Registry
from baton.tasks import task_type
from benchmarks.__main__ import RESULTS, head_of, write
from training import pipeline

BASE, FEEDBACK = 10_000, 100_000
LABELS = tuple(f"intent {number}" for number in range(77))
WORDS = 9
REPEATED, CONTRADICTED = 0.2, 0.05
"""Shares of feedback on a text that was seen before: with its answer, and with another one."""


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freezing", description=__doc__)
    parser.add_argument("--feedback", type=int, default=FEEDBACK, help=f"rows of feedback; default {FEEDBACK}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the section of the same heading is replaced, others kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-freezing-") as home:
        text = measure(Path(home), arguments.feedback)
    write(arguments.out, text, head_of("benchmarks.freezing", f"--feedback {arguments.feedback}"))
    print(text)


def measure(home: Path, rows: int) -> str:
    """One model's first data set without feedback, the next with all of it, the same again, and the difference."""
    registry, storage = Registry(f"sqlite:///{home}/baton.db"), Storage(str(home / "storage"))
    registry.migrate()
    registry.declare_model("m")
    made = texts(random.Random(0))
    base = [next(made) for _ in range(BASE)]
    (home / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in base))
    data = {"train": str(home / "train.jsonl"), "holdout": 0.2}
    settings = ModelSettings.model_validate({"name": "m", "task": "classification", "data": data})
    clock = pipeline.Clock(lambda stage, progress: None)
    context = pipeline.Context(settings=settings, registry=registry, storage=storage, clock=clock)
    first, alone = timed(lambda: pipeline.freeze(context).version)
    give(registry, made, base, rows)
    before = peak_mib()
    second, grown = timed(lambda: pipeline.freeze(context).version)
    after = peak_mib()
    _, again = timed(lambda: pipeline.freeze(context).version)
    task_cls = task_type("classification")

    def compare() -> Any:
        return frozen.difference(task_cls, *(frozen.read_splits(task_cls, storage, version.uri) for version in (first, second)))

    _, compared = timed(compare)
    return (
        f"## Freezing {BASE:,} base rows with {rows:,} rows of feedback\n\n"
        f"{REPEATED:.0%} of the feedback repeats a text with its answer, {CONTRADICTED:.0%} with another one. Everything "
        "counts: reading files\nand database (SQLite), hashing, merging, writing both splits, recording version and ledger.\n\n"
        "| | CPU seconds | rows | peak memory of the process |\n|---|--:|--:|--:|\n"
        f"| base rows alone | {alone:.2f} | {first.train_rows + first.holdout_rows:,} | {before:.0f} MiB |\n"
        f"| with all feedback | {grown:.2f} | {second.train_rows + second.holdout_rows:,} | {after:.0f} MiB |\n"
        f"| once more, nothing new | {again:.2f} | | |\n"
        f"| the difference between both | {compared:.2f} | | {peak_mib():.0f} MiB |\n\n"
        f"The first {before:.0f} MiB are mostly libraries.\n"
    )


def texts(rng: random.Random) -> Iterator[dict[str, str]]:
    """Rows of different texts."""
    words = ["".join(rng.choices("abcdefghijklmnoprstuvwyé", k=rng.randint(2, 9))) for _ in range(5000)]
    while True:
        yield {"text": " ".join(rng.choices(words, k=WORDS)).capitalize(), "label": rng.choice(LABELS)}


def give(registry: Registry, made: Iterator[dict[str, str]], base: list[dict[str, str]], rows: int) -> None:
    """Feedback as applications send it, in the registry."""
    rng, seen = random.Random(1), list(base)
    while rows:
        examples = []
        for _ in range(min(rows, 1000)):
            drawn = rng.random()
            if drawn < REPEATED + CONTRADICTED:
                old = rng.choice(seen)
                examples.append({**old, "label": rng.choice(LABELS)} if drawn < CONTRADICTED else old)
            else:
                examples.append(next(made))
                seen.append(examples[-1])
        registry.feedback.add(
            "m", [Correction(client_id=None, request_id=None, position=0, example=dict(example)) for example in examples]
        )
        rows -= len(examples)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` gives, and the seconds of processor time that it took: others use the machine too."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def peak_mib() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
