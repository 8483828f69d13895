"""Measure reading data files: time and memory for each format, and how many planted label errors are among the suspects.

    python -m benchmarks.data_files --data DIRECTORY

The directory has train.jsonl: text and label. Each format is read in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from baton.config.model_settings import DataSettings, ModelSettings
from baton.tasks import task_type
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL
from training.data.sources import parse, read
from training.methods.suspects import suspects

ROWS = 100_000
DOUBTED, PLANTED = 3_000, 120
"""Rows that are searched for wrong labels, and how many of them have one."""

Rows = Sequence[Mapping[str, Any]]


def main() -> None:
    """Parse the command line, measure, write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_files", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl: text and label")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        print(json.dumps(_read(arguments.read)))
        return
    rows = [json.loads(line) for line in (arguments.data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    text = f"## Data files\n\n{_formats(rows)}\n{_doubts(rows)}"
    write(arguments.out, text, head_of("benchmarks.data_files", f"--data …/{arguments.data.resolve().name}"))
    print(text)


def _read(path: Path) -> dict[str, float]:
    """Read one file as rows of classification. Return the seconds, and the MiB that the process grew by."""
    task_cls = task_type("classification")
    before, began = _peak_mib(), time.perf_counter()
    examples = parse(task_cls, {}, read(str(path), "train"), path.name)
    return {"rows": len(examples), "seconds": time.perf_counter() - began, "mib": _peak_mib() - before}


def _peak_mib() -> float:
    """Return the peak of this process's memory. (``ru_maxrss`` would contain that of the process that started it.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def _formats(rows: Rows) -> str:
    sources = [rows[number % len(rows)] for number in range(ROWS)]
    many = [{"text": f"{row['text']} {number}", "label": row["label"]} for number, row in enumerate(sources)]
    lines = [f"{ROWS:,} rows of banking77's length, read and checked:\n", "| file | s | MiB |", "|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="baton-files-") as home:
        for name, save in WRITERS.items():
            path = Path(home) / name
            save(path, many)
            command = [sys.executable, "-m", "benchmarks.data_files", "--data", home, "--read", str(path)]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            if told["rows"] != ROWS:
                raise RuntimeError(f"{name}: {told['rows']:,} rows were read, not {ROWS:,}")
            lines.append(f"| `{name}` | {told['seconds']:.2f} | {told['mib']:.0f} |")
    return "\n".join(lines) + "\n"


def _table(path: Path, rows: Rows, **conventions: Any) -> None:
    encoding = conventions.pop("encoding", "utf-8")
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, **conventions)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["label"]] for row in rows)


def _parquet(path: Path, rows: Rows) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


WRITERS: Mapping[str, Callable[[Path, Rows], object]] = {
    "rows.csv": _table,
    "quoted.csv": lambda path, rows: _table(path, rows, quoting=csv.QUOTE_ALL, delimiter=";"),
    "utf-16.tsv": lambda path, rows: _table(path, rows, delimiter="\t", encoding="utf-16"),
    "rows.jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "array.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "rows.parquet": _parquet,
}


def _doubts(rows: Rows) -> str:
    rng = random.Random(1)
    some = parse(task_type("classification"), {}, read_rows(rng.sample(list(rows), DOUBTED)), "rows")
    labels = sorted({example.label for example in some})
    planted = set(rng.sample(range(DOUBTED), PLANTED))
    wrong = [
        example.model_copy(update={"label": rng.choice([label for label in labels if label != example.label])})
        if number in planted
        else example
        for number, example in enumerate(some)
    ]
    settings = ModelSettings(name="m", task="classification", base_model=BASE_MODEL, data=DataSettings(train="rows.jsonl"))
    began = time.perf_counter()
    found = suspects(settings, wrong)
    seconds = time.perf_counter() - began
    doubted = [one.row for one in found]
    return (
        f"Of {PLANTED} labels that were planted wrong among {DOUBTED:,} rows, {len(planted & {*doubted})} are among the "
        f"{len(found)} suspects, and\n{len(planted & {*doubted[:PLANTED]})} among the first {PLANTED} ({seconds:.0f} s).\n"
    )


def read_rows(rows: Rows) -> Any:
    """Yield rows as a file would give them."""
    from baton.tasks.rows import Row

    for number, values in enumerate(rows, start=1):
        yield Row(where=f"row {number}", values=values)


if __name__ == "__main__":
    main()
