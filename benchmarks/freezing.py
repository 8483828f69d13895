"""Measure processor time and memory to freeze a data set with much feedback, and to compare two data sets.

    python -m benchmarks.freezing

The texts are random: only their number, length and repetitions matter here.
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
from baton.store.feedback.correction import Correction
from baton.store.registry import Registry
from baton.tasks import task_type
from benchmarks.__main__ import RESULTS, head_of, write
from training import freezing
from training.context import Clock, Context

BASE, FEEDBACK = 10_000, 100_000
LABELS = tuple(f"intent {number}" for number in range(77))
WORDS = 9
REPEATED, CONTRADICTED = 0.2, 0.05
"""Shares of feedback on a text that was seen before: with the same label, and with another one."""


def main() -> None:
    """Parse the command line, measure, write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freezing", description=__doc__)
    parser.add_argument("--feedback", type=int, default=FEEDBACK, help=f"rows of feedback; default {FEEDBACK}")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file to write; only the section with the same heading is replaced"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-freezing-") as home:
        text = measure(Path(home), arguments.feedback)
    write(arguments.out, text, head_of("benchmarks.freezing", f"--feedback {arguments.feedback}"))
    print(text)


def measure(home: Path, rows: int) -> str:
    """Freeze a data set without feedback, one with all feedback, and the same again; then compare the first two.

    Return a section of the results.
    """
    registry, storage = Registry(f"sqlite:///{home}/baton.db"), Storage(str(home / "storage"))
    registry.migrate()
    new_rows = texts(random.Random(0))
    base = [next(new_rows) for _ in range(BASE)]
    (home / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in base))
    data = {"train": str(home / "train.jsonl"), "holdout": 0.2}
    settings = ModelSettings.model_validate({"name": "m", "task": "classification", "data": data})
    registry.declare_model("m", settings.model_dump(mode="json"))
    clock = Clock(lambda stage, progress: None)
    context = Context(settings=settings, declared=settings, registry=registry, storage=storage, clock=clock)
    first, alone = timed(lambda: freezing.freeze(context).version)
    add_feedback(registry, new_rows, base, rows)
    before = peak_mib()
    second, grown = timed(lambda: freezing.freeze(context).version)
    after = peak_mib()
    _, again = timed(lambda: freezing.freeze(context).version)
    task_cls = task_type("classification")

    def compare() -> Any:
        return frozen.difference(task_cls, storage, first.uri, second.uri)

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
    """Yield rows with random texts and labels."""
    words = ["".join(rng.choices("abcdefghijklmnoprstuvwyé", k=rng.randint(2, 9))) for _ in range(5000)]
    while True:
        yield {"text": " ".join(rng.choices(words, k=WORDS)).capitalize(), "label": rng.choice(LABELS)}


def add_feedback(registry: Registry, new_rows: Iterator[dict[str, str]], base: list[dict[str, str]], rows: int) -> None:
    """Store ``rows`` corrections in the registry, as applications send them."""
    rng, seen = random.Random(1), list(base)
    while rows:
        examples = []
        for _ in range(min(rows, 1000)):
            drawn = rng.random()
            if drawn < REPEATED + CONTRADICTED:
                old = rng.choice(seen)
                examples.append({**old, "label": rng.choice(LABELS)} if drawn < CONTRADICTED else old)
            else:
                examples.append(next(new_rows))
                seen.append(examples[-1])
        registry.feedback.add(
            "m", [Correction(client_id=None, request_id=None, position=0, example=dict(example)) for example in examples]
        )
        rows -= len(examples)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of ``work`` and the processor time that it took, in seconds.

    Not wall time, because other programs may use the machine.
    """
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def peak_mib() -> float:
    """Return the maximum resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
