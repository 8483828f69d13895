"""Compare two ways in which threads of a training process wait for each other, alone and beside processes that compute.

``python -m benchmarks.waiting`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baton.config.base_models import find_base_model
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL

VARIANTS = {"spinning (the default)": {}, "asleep (`OMP_WAIT_POLICY=PASSIVE`)": {"OMP_WAIT_POLICY": "PASSIVE"}}
BESIDE = (0, 1, 2)
"""Numbers of processes that compute half of the time, as serving processes do."""

BURST_SECONDS = 0.003
"""How long such a process computes, and then sleeps."""

THREADS, STEPS, ROUNDS = 2, 20, 3
BATCH, TOKENS = 32, 20


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", choices=("train", "compute"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "train":
        print(_seconds_per_step())
    elif arguments.part == "compute":
        _compute()
    else:
        section = measure()
        write(arguments.out, section, head_of("benchmarks.waiting", ""))
        print(section)


def measure() -> str:
    """Measure, and return a section of the results."""
    rows = []
    for count in BESIDE:
        seen: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(ROUNDS):
            for variant, environment in VARIANTS.items():
                with _busy(count):
                    seen[variant].append(_trained(environment))
        spinning, asleep = (statistics.median(seen[variant]) * 1000 for variant in VARIANTS)
        rows.append(f"| {count} | {spinning:.0f} ms | {asleep:.0f} ms | {asleep / spinning:.2f} |")
    return (
        "## Threads that wait\n\n"
        f"One step of training (batch {BATCH}, {TOKENS} tokens, bf16) with {THREADS} threads at niceness 10, as a run has it,\n"
        f"beside processes that compute half of the time, {BURST_SECONDS * 1000:.0f} ms at once; in turn, medians of\n"
        f"{ROUNDS} processes.\n\n"
        f"| beside | {' | '.join(VARIANTS)} | ratio |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


@contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-m", "benchmarks.waiting", "--part", "compute"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _compute() -> None:
    while True:
        began = time.perf_counter()
        while time.perf_counter() - began < BURST_SECONDS:
            pass
        time.sleep(BURST_SECONDS)


def _trained(environment: dict[str, str]) -> float:
    """Return the seconds of a training step, measured in a separate process."""
    command = [sys.executable, "-m", "benchmarks.waiting", "--part", "train"]
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(command, env={**clean, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def _seconds_per_step() -> float:
    import torch

    from baton.engines.torch_engine import load_model

    os.nice(10)
    torch.set_num_threads(THREADS)
    labels = [str(number) for number in range(77)]
    model = load_model("AutoModelForSequenceClassification", find_base_model(BASE_MODEL), labels).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(1000, 20_000, (BATCH, TOKENS))
    targets = torch.zeros(BATCH, dtype=torch.long)
    for number in range(STEPS + 3):  # the first three warm up
        if number == 3:
            began = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(tokens).logits.float(), targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return (time.perf_counter() - began) / STEPS


if __name__ == "__main__":
    main()
