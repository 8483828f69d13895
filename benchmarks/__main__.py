"""Run the benchmarks against a service of their own, and write what was measured to ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks import hand_over, serving, training
from benchmarks.service import Service

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("ray", "torch", "transformers", "tokenizers", "numpy")


def main() -> None:
    """Parse the command line, run, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl (text, label)")
    parser.add_argument("--only", choices=("training", "serving", "hand_over"), action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    chosen = arguments.only or ["training", "serving", "hand_over"]
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as home, Service(Path(home), arguments.data) as service:
        if "training" in chosen:
            parts.append(training.measure(service))
            _write(arguments.out, arguments.data, parts)
        else:
            service.first_version()
        if "serving" in chosen:
            parts.append(serving.measure(service))
            _write(arguments.out, arguments.data, parts)
        if "hand_over" in chosen:
            parts.append(hand_over.measure(service))
            _write(arguments.out, arguments.data, parts)
    print(f"written to {arguments.out}")


def _write(out: Path, data: Path, parts: list[str]) -> None:
    """After each benchmark, so that one which fails later takes nothing with it."""
    out.write_text("\n".join([_head(data), *parts]), encoding="utf-8")


def _head(data: Path) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return (
        "# Results\n\n"
        f"{datetime.now(UTC):%Y-%m-%d} · {_cpu()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB · "
        f"Python {platform.python_version()}, {versions}\n\n"
        f"Data: {data.name}. Base model: all-MiniLM-L6-v2 (22.7 M parameters). Command: `make bench DATA=…/{data.name}`.\n"
        "The load generator runs on the same machine; noise between runs is large, so compare within one run only.\n"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


if __name__ == "__main__":
    main()
