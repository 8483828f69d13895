"""Run the benchmarks of roll-outs on an intent data set, and write the results to ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.rollouts import canaries, crashes
from benchmarks.service import Service


def main() -> None:
    """Parse the command line, run the benchmarks, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl: text and label")
    parser.add_argument("--only", choices=tuple(SECTIONS), action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name in arguments.only or SECTIONS:
        replicas, section = SECTIONS[name]
        with (
            tempfile.TemporaryDirectory(prefix="baton-bench-") as home,
            Service(Path(home), arguments.data, "classification", replicas=replicas) as service,
        ):
            text = section(service, Path(home))
        write(arguments.out, text, head_of("benchmarks.rollouts", f"--data …/{arguments.data.resolve().name} --only {name}"))
    print(f"written to {arguments.out}")


def _canaries(service: Service, home: Path) -> str:
    found = canaries.measure(service, home)
    rows = "\n".join(
        f"| {it.name} | {it.seconds:.1f} s | {it.requests:,} | {it.answered:,} | {it.instead:,} | {it.failed} | "
        f"{it.p99_before_ms:.0f} → {it.p99_ms:.0f} ms |"
        for it in found
    )
    reasons = "\n".join(f"- {it.name}: «{it.reason}»" for it in found)
    return (
        "## Bad versions on canary\n\n"
        f"2 replicas, {canaries.CALLERS} callers without a pause, each request under a key of its own; the version gets "
        f"{canaries.PERCENT:.0f}% of them until\nBaton takes it back by itself. p99 is of all requests, before and during the "
        "canary.\n\n"
        "| the version | taken back after | requests so far | it answered | the champion answered instead | failed | p99 |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        f"{rows}\n\nThe history says:\n\n{reasons}\n"
    )


def _crashes(service: Service, home: Path) -> str:
    found = crashes.measure(service, home)
    rows = "\n".join(
        f"| {it.move} | {it.state} | {it.requests:,} | {it.failed} | {it.seconds:.1f} s | v{it.champion} | {it.ended} |"
        for it in found
    )
    return (
        "## The control plane killed during a roll-out\n\n"
        f"{crashes.REPLICAS} replicas, {crashes.CALLERS} callers without a pause. The control plane is killed (SIGKILL) when "
        "the registry shows a state, and Ray\nstarts another one. v1 is the champion before a promotion or a canary, v2 before "
        "a rollback.\n\n"
        "| move | killed while | requests | failed | until replicas and registry agree | champion | the roll-out is |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        f"{rows}\n"
    )


SECTIONS: Mapping[str, tuple[int, Callable[[Service, Path], str]]] = {
    "canaries": (2, _canaries),
    "crashes": (crashes.REPLICAS, _crashes),
}
"""The benchmarks, each with the number of replicas."""


if __name__ == "__main__":
    main()
