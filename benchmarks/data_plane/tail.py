"""Measure the tail of replicas that began without a version, after a restart, and after swaps, with and without the log.

``python -m benchmarks.data_plane.tail --data DIRECTORY`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import wrk
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, LABELS, OneModelService, holdout_of, read_rows, save_model, write_rows

CONCURRENCIES = (8, 64)
SECONDS, ROUNDS, SWAPS = 8, 5, 5


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_plane.tail", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with test.jsonl, whose rows have a text")
    parser.add_argument("--engine", choices=("auto", "torch"), default="auto", help="`serving.engine`; default: auto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    texts = [row["text"] for row in read_rows(holdout_of(arguments.data))[:500]]
    precision = "int8" if arguments.engine == "auto" else "auto"
    rows: list[str] = []
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name, contextlib.ExitStack() as stack:
        home = Path(name)
        models = [save_model(home / f"model{seed}", seed) for seed in (0, 1)]
        script = wrk.write_script(home / "load.lua", texts)
        services = {}
        for log, share in {"on": 1.0, "off": 0.0}.items():
            (folder := home / log).mkdir()
            serving = {"replicas": 2, "engine": arguments.engine, "precision": precision}
            model = {**write_rows(folder, texts), "serving": serving, "feedback": {"log": share}}
            services[log] = stack.enter_context(OneModelService(folder, model))
        for state, _ in zip(*(_states(service, models) for service in services.values()), strict=True):
            for clients in CONCURRENCIES:
                rows += _rows(state, script, {log: service.url for log, service in services.items()}, clients)
        engine = services["on"].replicas()[0]["engine"]
    section = (
        f"## Tail, {engine}\n\n"
        f"{BASE_MODEL} with {LABELS} labels, 2 replicas of one thread; `wrk -t1 -cN -d{SECONDS}s`, one text a request;\n"
        f"two services, one with the log and one without, in turn; medians of {ROUNDS} rounds. Metrics and polls are on.\n\n"
        "| replicas | prediction log | clients | requests/s | p50 | p99 | p99/p50 | of log off |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    write(arguments.out, section, head_of("benchmarks.data_plane.tail", f"--data …/{arguments.data.name}", model=BASE_MODEL))
    print(section)


def _states(service: OneModelService, models: list[Path]) -> Iterator[str]:
    """Bring the replicas into each state to be measured, and yield its name."""
    first, second = service.register(models[0]), service.register(models[1])
    service.force(first)
    yield "began without a version"
    service.restart()
    service.wait_for(first)
    yield "began with the version"
    for version in [second, first] * (SWAPS // 2) + [second]:
        service.force(version)
    yield f"after {SWAPS} swaps"


def _rows(state: str, script: Path, urls: Mapping[str, str], clients: int) -> Iterator[str]:
    """Load the services in turn, and yield a row for each."""
    loads: dict[str, list[wrk.Load]] = {log: [] for log in urls}
    for url in urls.values():
        wrk.load(script, url, clients, 2)
    for _ in range(ROUNDS):
        for log, url in urls.items():
            loads[log].append(wrk.load(script, url, clients, SECONDS))
    off = statistics.median(load.p99_ms for load in loads["off"])
    for log, rounds in loads.items():
        rate, p50, p99, _ = (statistics.median(column) for column in zip(*rounds, strict=True))
        yield f"| {state} | {log} | {clients} | {rate:.0f} | {p50:.1f} ms | {p99:.1f} ms | {p99 / p50:.2f} | {p99 / off:.2f} |"


if __name__ == "__main__":
    main()
