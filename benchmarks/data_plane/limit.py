"""Measure what serving adds to the model: the service beside the bare engine, and beside a service that computes nothing.

``python -m benchmarks.data_plane.limit --data DIRECTORY`` writes its section to ``benchmarks/RESULTS.md``.

No service can answer more than 1 / (1/E + 1/N) requests a second if its processors do E texts a second in bare loops, and N
requests without computing: each request needs both. The service that computes nothing answers from ``serving.cache``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import wrk
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, LABELS, OneModelService, holdout_of, read_rows, save_model, write_rows

REPLICAS = 2
CLIENTS, BATCH, BATCH_CLIENTS = 64, 32, 8
SECONDS, ROUNDS = 6, 5


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_plane.limit", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with test.jsonl, whose rows have a text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    texts = [row["text"] for row in read_rows(holdout_of(arguments.data))[:512]]
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name, contextlib.ExitStack() as stack:
        home = Path(name)
        model = save_model(home / "model")
        services = {}
        for kind, cache in {"computes": 0, "answers from the cache": 10_000}.items():
            (folder := home / kind.replace(" ", "-")).mkdir()
            serving = {"replicas": REPLICAS, "precision": "int8", "cache": cache}
            services[kind] = stack.enter_context(OneModelService(folder, {**write_rows(folder, texts), "serving": serving}))
            version = services[kind].register(model)
            services[kind].force(version)
        directory = services["computes"].version_directory(version)
        section = measure(home, {kind: service.url for kind, service in services.items()}, directory, texts)
    write(arguments.out, section, head_of("benchmarks.data_plane.limit", f"--data …/{arguments.data.name}", model=BASE_MODEL))
    print(section)


def measure(home: Path, urls: Mapping[str, str], directory: Path, texts: Sequence[str]) -> str:
    """Load the services and run the bare engine, in turn. Return a section."""
    single = wrk.write_script(home / "single.lua", texts)
    lists = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    bodies = [json.dumps({"inputs": list(some), "parameters": {"top_k": 5}}) for some in lists]
    batches = wrk.write_bodies(home / "batches.lua", bodies)
    (home / "texts.json").write_text(json.dumps(texts))
    computes, cached = urls.values()
    for url in urls.values():
        wrk.load(single, url, CLIENTS, 3)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    for _ in range(ROUNDS):
        note("engine", max(run_engines(directory, home / "texts.json", REPLICAS).values()))
        note("alone", 1000 / run_engines(directory, home / "texts.json", 1)["1"])
        note("no-op", wrk.load(single, cached, CLIENTS, SECONDS).rate)
        note("service", wrk.load(single, computes, CLIENTS, SECONDS).rate)
        note("batches", wrk.load(batches, computes, BATCH_CLIENTS, SECONDS).rate * BATCH)
        one = wrk.load(single, computes, 1, SECONDS)
        note("one", one.p50_ms)
        note("one p99", one.p99_ms)
        note("one no-op", wrk.load(single, cached, 1, SECONDS).p50_ms)
    found = {name: statistics.median(values) for name, values in figures.items()}
    limit = 1 / (1 / found["engine"] + 1 / found["no-op"])
    return (
        "## Limit\n\n"
        f"{BASE_MODEL} with {LABELS} labels, ONNX int8, {REPLICAS} replicas of one thread; medians of {ROUNDS} rounds of\n"
        f"{SECONDS} s, everything in turn. The bare engine: as many processes of one thread, at their best batch size.\n\n"
        "| | per second |\n|---|---|\n"
        f"| bare engine, texts | {found['engine']:,.0f} |\n"
        f"| service that computes nothing, {CLIENTS} clients | {found['no-op']:,.0f} |\n"
        f"| limit of both | {limit:,.0f} |\n"
        f"| service, {CLIENTS} clients, one text a request | {found['service']:,.0f} "
        f"({found['service'] / limit:.2f} of the limit) |\n"
        f"| service, {BATCH_CLIENTS} clients, {BATCH} texts a request | {found['batches']:,.0f} texts "
        f"({found['batches'] / found['engine']:.2f} of the bare engine) |\n\n"
        f"One client: median {found['one']:.2f} ms, p99 {found['one p99']:.2f} ms. A text takes {found['alone']:.2f} ms in a\n"
        f"bare loop (+{found['one'] - found['alone']:.2f} ms), and a request where nothing is computed "
        f"{found['one no-op']:.2f} ms.\n"
    )


def run_engines(directory: Path, texts: Path, processes: int) -> dict[str, float]:
    """Run the version in ``directory`` in so many processes of one thread at once. Return texts per second by batch size."""
    command = [sys.executable, "-m", "benchmarks.plain.in_process", str(directory), "1", str(texts), "int8"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    rates = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return {size: sum(rate[size] for rate in rates) for size in rates[0]}


if __name__ == "__main__":
    main()
