"""Run the main benchmarks against a service that is started for them, and write the results to ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import os
import platform
import re
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks import hand_over, killed_replicas, observability, serving, slow_clients, training
from benchmarks.service import BASE_MODEL, SUBJECTS, Service, draw_questions

RESULTS = Path(__file__).with_name("RESULTS.md")
FAST_INSTRUCTIONS = {"avx512_vnni": "VNNI", "avx_vnni": "VNNI", "avx512_bf16": "bf16", "amx_int8": "AMX"}
"""Names of instructions by their flags in Linux's ``/proc/cpuinfo``."""

PACKAGES = ("ray", "torch", "transformers", "tokenizers", "numpy")

SECTIONS: Mapping[str, Callable[[Service], str]] = {
    "training": training.measure,
    "serving": serving.measure,
    "hand_over": hand_over.measure,
    "killed_replicas": killed_replicas.measure,
    "slow_clients": slow_clients.measure,
    "observability": observability.measure,
}
"""The benchmarks in the order in which they run. The others serve the version that the first one trains."""

PREAMBLE = (
    "# Results\n\n"
    "The load generator runs on the same machine; noise between runs is large, so compare within one section only.\n\n"
)


def main() -> None:
    """Parse the command line, run the benchmarks, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="directory with train.jsonl and test.jsonl: text and label, tokens and tags (ner), or SQuAD's rows (qa)",
    )
    parser.add_argument("--task", choices=tuple(SUBJECTS), default="classification", help="default: classification")
    parser.add_argument("--only", choices=tuple(SECTIONS), action="append", help="default: all that the task has")
    parser.add_argument("--auto", action="store_true", help="train with nothing set under `training:`")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of training, each with its own seed; default: 1")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file to write; only sections with the same heading are replaced"
    )
    arguments = parser.parse_args()
    offered = list(SECTIONS) if arguments.task == "classification" else ["training"]
    wanted = arguments.only or offered
    if not set(wanted) <= set(offered):
        parser.error(f"--only: {arguments.task} has {', '.join(offered)}; the load of the others is made of texts to classify")
    measures: dict[str, Callable[[Service], str]] = {**SECTIONS, "training": partial(training.measure, rounds=arguments.rounds)}
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        home = Path(name)
        data = draw_questions(arguments.data, home / "data") if arguments.task == "qa" else arguments.data
        with Service(home, data, arguments.task, auto=arguments.auto) as service:
            for section in (section for section in SECTIONS if section in wanted):
                options = f"--data …/{arguments.data.resolve().name} --task {arguments.task} --only {section}"
                options += " --auto" * arguments.auto
                if section == "training" and arguments.rounds > 1:
                    options += f" --rounds {arguments.rounds}"
                # written at once, so that a benchmark that fails later does not lose it
                write(arguments.out, measures[section](service), head_of("benchmarks", options))
    print(f"written to {arguments.out}")


def write(out: Path, section: str, head: str) -> None:
    """Write ``section`` to ``out``, with ``head`` below its heading.

    It replaces the section with the same heading, if there is one; otherwise it is appended.
    """
    heading, _, body = section.partition("\n\n")
    new = f"{heading}\n\n{head}\n{body.rstrip()}\n"
    old = out.read_text(encoding="utf-8") if out.exists() else PREAMBLE
    parts = [part.rstrip() + "\n" for part in re.split(r"^(?=## )", old, flags=re.MULTILINE)]
    headings = [part.partition("\n")[0] for part in parts]
    index = headings.index(heading) if heading in headings else len(parts)
    parts[index : index + 1] = [new]
    out.write_text("\n".join(parts), encoding="utf-8")


def head_of(module: str, options: str, model: str | None = f"{BASE_MODEL.rpartition('/')[2]} (22.7 M parameters)") -> str:
    """Return the lines below a section's heading: the date, the machine, the software, the base model and the command."""
    base = f"Base model: {model}. " if model else ""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d} · {_cpu()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB · "
        f"Python {platform.python_version()}, {versions}\n\n"
        f"{base}Command: `{f'python -m {module} {options}'.rstrip()}`.\n"
    )


def _cpu() -> str:
    """Return the processor's name, and which instructions it has that make int8 and bf16 fast."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    found = set(facts.get("flags", "").split())
    fast = [name for flag, name in FAST_INSTRUCTIONS.items() if flag in found]
    return " ".join([facts.get("model name", platform.processor()), f"({', '.join(fast) or 'no VNNI, no bf16'})"])


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


if __name__ == "__main__":
    main()
