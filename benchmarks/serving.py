"""Measure throughput and latency over HTTP at several concurrencies, compared to the in-process limit, alternating."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import wrk
from benchmarks.service import MODEL, Service

CONCURRENCIES = (1, 8, 64)
SECONDS = 8
ROUNDS = 3


def measure(service: Service) -> str:
    """Measure, and return a section of the results."""
    version = service.first_version()
    directory = Path(service.client.get(f"/api/models/{MODEL}/versions/{version}")["uri"])
    texts = service.texts()
    (service.home / "texts.json").write_text(json.dumps(texts))
    script = wrk.write_script(service.home / "load.lua", texts)
    replicas = len(service.client.get(f"/api/models/{MODEL}")["replicas"])
    engine = service.client.get(f"/api/models/{MODEL}")["replicas"][0]["engine"]
    served: dict[int, list[wrk.Load]] = {concurrency: [] for concurrency in CONCURRENCIES}
    limits: dict[int, list[dict[str, float]]] = {1: [], replicas: []}
    for _ in range(ROUNDS):
        for threads, measured in limits.items():
            measured.append(_limit(service, directory, threads))
        for concurrency in CONCURRENCIES:
            served[concurrency].append(wrk.load(script, service.url, concurrency, SECONDS))
    rows = []
    best = {threads: max(_median(results, str(size)) for size in (1, 8, 32, 64)) for threads, results in limits.items()}
    for concurrency, results in served.items():
        rate, p50, p99, _ = (statistics.median(column) for column in zip(*results, strict=True))
        ratios = " | ".join(f"{rate / limit:.2f}" for limit in best.values())
        rows.append(f"| {concurrency} | {rate:.0f} | {p50:.1f} ms | {p99:.1f} ms | {ratios} |")
    limit_rows = [
        f"| {threads} | " + " | ".join(f"{_median(results, str(size)):.0f}" for size in (1, 8, 32, 64)) + " |"
        for threads, results in limits.items()
    ]
    heads = " | ".join(f"of the {threads}-thread limit" for threads in best)
    return (
        "## Serving\n\n"
        f"{engine}; {replicas} replicas of one thread each behind HAProxy; `wrk -t1 -cN -d{SECONDS}s`, one text a request,\n"
        f"holdout texts in turn, top 5 labels; medians of {ROUNDS} rounds, limit and service alternating.\n\n"
        f"| concurrency | requests/s | p50 | p99 | {heads} |\n|---|---|---|---|{'---|' * len(best)}\n"
        + "\n".join(rows)
        + "\n\n"
        "In-process limit, texts/s (the best batch size counts):\n\n"
        "| threads | batch 1 | batch 8 | batch 32 | batch 64 |\n|---|---|---|---|---|\n" + "\n".join(limit_rows) + "\n"
    )


def _median(results: list[dict[str, float]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def _limit(service: Service, directory: Path, threads: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.plain.in_process",
        str(directory),
        str(threads),
        str(service.home / "texts.json"),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result
