"""Measure what a request pays for the check of its API key and for metrics, in this process, without HTTP and Ray.

``python -m benchmarks.request_costs`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from baton.keys import Scope
from baton.store.registry import Registry
from benchmarks.__main__ import RESULTS, head_of, write
from services.keyring import Keyring
from services.replica.batching import Prediction
from services.replica.telemetry import Telemetry

KEYS = 200
"""Number of other keys in the registry."""

CALLS, REPEATS = 20_000, 7


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_costs", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as home:
        section = measure(Path(home))
    write(arguments.out, section, head_of("benchmarks.request_costs", "", model=None))
    print(section)


def measure(home: Path) -> str:
    """Measure, and return a section of the results."""
    registry = Registry(f"sqlite:///{home}/baton.db")
    registry.migrate()
    registry.declare_model("m")
    for number in range(KEYS):
        registry.keys.create(f"other {number}", [Scope.PREDICT])
    _, token = registry.keys.create("mine", [Scope.PREDICT], models=["m"], rate=1e6)
    keyring = Keyring(registry.keys, required=True)
    keyring.refresh()
    header = f"Bearer {token}".encode()
    telemetry = Telemetry("m", "r", exported=False)
    prediction = Prediction(outputs=[], version=1, queue_ms=0.1, inference_ms=2.0)
    rows = {
        f"check of its API key (one of {KEYS + 1}, with a rate)": _microseconds(
            lambda: keyring.admit(header, Scope.PREDICT, "m")
        ),
        "being counted: requests by status, three histograms": _microseconds(
            lambda: telemetry.count_prediction(prediction, 0.003)
        ),
    }
    registry.close()
    lines = "\n".join(f"| {what} | {took:.1f} µs |" for what, took in rows.items())
    return (
        "## What a request pays\n\n"
        f"One call, without HTTP and Ray; the best of {REPEATS} times {CALLS:,} calls.\n\n| for | time |\n|---|---|\n{lines}\n"
    )


def _microseconds(call: Callable[[], object]) -> float:
    return 1e6 * min(timeit.repeat(call, number=CALLS, repeat=REPEATS)) / CALLS


if __name__ == "__main__":
    main()
