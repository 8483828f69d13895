"""Run the benchmarks of roll-outs on an intent data set, and write the results to ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.rollouts import canaries, crashes, shadows, soak
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


def _shadows(service: Service, home: Path) -> str:
    found = shadows.measure(service, home)
    parts = {"without": found.without, "with a shadow": found.beside}
    rows = "\n".join(
        f"| {name} | {len(answers):,} | {p50:.1f} ms | {p99:.1f} ms |"
        for name, answers in parts.items()
        for p50, p99 in [shadows.latencies_ms(answers)]
    )
    return (
        "## A shadow beside the champion\n\n"
        f"2 replicas, {shadows.CALLERS} callers without a pause; {shadows.ROUNDS} times {shadows.SECONDS:.0f} s without a "
        f"shadow, and {shadows.SECONDS:.0f} s with one\nthat is to get a copy of {shadows.PERCENT:.0f}% of the requests, in "
        f"turn. It answered {found.compared:,} copies; {found.skipped:,} were\ndropped because the replica was busy. "
        f"{found.failed} requests failed.\n\n"
        "| | requests | p50 | p99 |\n| --- | --- | --- | --- |\n"
        f"{rows}\n"
    )


def _crashes(service: Service, home: Path) -> str:
    found = crashes.measure(service, home)
    rows = "\n".join(
        f"| {it.move} | {it.state} | {it.attempts} | {it.requests:,} | {it.failed} | {it.mixed:.1f} s | {it.seconds:.1f} s | "
        f"v{it.champion} | {it.ended} |"
        for it in found
    )
    return (
        "## The control plane killed during a roll-out\n\n"
        f"{crashes.REPLICAS} replicas, {crashes.CALLERS} callers without a pause. The control plane is killed (SIGKILL) when\n"
        "the database shows a state, and Ray starts another one. v1 is the champion before a promotion or a canary, v2\n"
        "before a rollback. Some states last for milliseconds: the table counts the kills until one came in time, and the\n"
        "requests of all. «Both answer»: from the kill, or the first answer of the version that is champion in the end, to\n"
        "the last one of the other. «Agree»: a new control plane is there, all replicas serve the champion, and no roll-out\n"
        "is unfinished but a canary that goes on.\n\n"
        "| move | killed while | kills | requests | failed | both answer for | all agree after | champion | the roll-out is |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        f"{rows}\n"
    )


def _soak(service: Service, home: Path) -> str:
    found = soak.measure(service, home)
    soak.draw(found, Path(__file__).with_name("soak.svg"))
    failed = sum(answer.status != 200 for answer in found.answers)
    early, late = (_mean(part) for part in (found.samples[6:30], found.samples[-24:]))  # minutes 1 to 5, and the last four
    rows = "\n".join(
        f"| {group} | {early[group][0]:,.0f} → {late[group][0]:,.0f} MB | {early[group][1]:.0f} → {late[group][1]:.0f} |"
        for group in early
    )
    return (
        "## A soak\n\n"
        f"2 replicas, {soak.CALLERS} callers without a pause who correct {soak.CORRECTED:.0%} of the answers, "
        f"{soak.MINUTES} minutes; a swap a minute, and half a\nminute after each a replica is killed (SIGKILL).\n\n"
        f"{len(found.answers):,} requests, {failed} failed; {found.swaps} swaps, {found.kills} kills, "
        f"{found.corrections:,} corrections accepted, {found.refused}\nrefused; {found.left} temporary files left behind.\n\n"
        "| processes | resident memory, minutes 1–5 → last 4 | open file descriptors |\n| --- | --- | --- |\n"
        f"{rows}\n\n![Memory and file descriptors over time](rollouts/soak.svg)\n"
    )


def _mean(samples: Sequence[soak.Sample]) -> dict[str, tuple[float, float]]:
    """Return the mean memory and the mean number of file descriptors of each group."""
    return {
        group: (
            statistics.mean(sample.memory_mb[group] for sample in samples),
            statistics.mean(sample.files[group] for sample in samples),
        )
        for group in samples[0].files
    }


SECTIONS: Mapping[str, tuple[int, Callable[[Service, Path], str]]] = {
    "canaries": (2, _canaries),
    "shadows": (2, _shadows),
    "crashes": (crashes.REPLICAS, _crashes),
    "soak": (2, _soak),
}
"""The benchmarks, each with the number of replicas."""


if __name__ == "__main__":
    main()
