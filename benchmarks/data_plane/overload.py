"""Measure overload: four times what the replicas can answer, for a minute; and megabytes of text beside short ones.

``python -m benchmarks.data_plane.overload --data DIRECTORY`` writes its section to ``benchmarks/RESULTS.md``. Needs hey and wrk
(Debian: apt-get install hey wrk).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks import wrk
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, LABELS, OneModelService, holdout_of, read_rows, save_model, write_rows

TIMES = 4
"""Requests that are sent, in multiples of those that the replicas can answer."""

SECONDS, CAPACITY_SECONDS, LONG_SECONDS = 60, 20, 15
SATURATING, OVERLOADING = 64, 1000
"""Clients without a pause that use all there is, and clients that together send too much."""

SENDERS = 20
"""Processes that share the latter. All clients of one hey send at the same moments; those of several, begun in turn, do not."""

BEGINNING_SECONDS = 2
"""Time in which replicas find out that more comes than they can answer."""

LONG_CLIENTS, LONG_SIZE, SHORT_CLIENTS = 20, 1_000_000, 4


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    seconds: float
    status: int
    sent_at: float
    """Seconds after the first request of its sender."""


@dataclass(kw_only=True)
class Watch:
    """What was seen from outside during an overload."""

    megabytes: list[float] = field(default_factory=list)
    """Resident memory of the replicas, in 10^6 bytes, each half second."""
    refused: int = 0
    """Answers 429 to the requests that this process sent, ..."""
    told: int = 0
    """and those of them that said in seconds when to try again."""
    unanswered: int = 0
    """Requests of this process without an answer."""


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_plane.overload", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with test.jsonl, whose rows have a text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    texts = [row["text"] for row in read_rows(holdout_of(arguments.data))[:500]]
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        home = Path(name)
        (folder := home / "baton").mkdir()
        serving = {"replicas": 2, "precision": "int8"}
        with OneModelService(folder, {**write_rows(home, texts), "serving": serving}) as service:
            service.force(service.register(save_model(home / "model")))
            section = overload(home, service, texts) + "\n" + long_texts(home, service, texts)
    write(
        arguments.out, section, head_of("benchmarks.data_plane.overload", f"--data …/{arguments.data.name}", model=BASE_MODEL)
    )
    print(section)


def overload(home: Path, service: OneModelService, texts: Sequence[str]) -> str:
    """Measure what the replicas can answer, then send a multiple of it. Return a section."""
    typical = sorted(texts, key=len)[len(texts) // 2]
    body = home / "body.json"
    body.write_text(json.dumps({"inputs": typical, "parameters": {"top_k": 5}}))
    attack(service.url, body, 3, clients=SATURATING)
    at_capacity = attack(service.url, body, CAPACITY_SECONDS, clients=SATURATING)
    capacity = len(at_capacity) / CAPACITY_SECONDS
    clients, rate = OVERLOADING // SENDERS, TIMES * capacity / SENDERS
    outputs = [home / f"overload-{number}.csv" for number in range(SENDERS)]
    with contextlib.ExitStack() as senders:
        for output in outputs:
            command = hey(service.url, body, SECONDS, clients=clients, rate=rate)
            senders.enter_context(subprocess.Popen(command, stdout=senders.enter_context(output.open("w"))))
            time.sleep(clients / rate / SENDERS)
        with watching(service, body.read_bytes()) as watch:
            time.sleep(SECONDS)
        recovered = recovery_seconds(service.url, body.read_bytes(), time.perf_counter(), p99_ms(at_capacity))
    replies = [reply for output in outputs for reply in parse(output.read_text())]
    admitted = [reply for reply in replies if reply.status == 200]
    later = [reply for reply in admitted if reply.sent_at >= BEGINNING_SECONDS]
    refused = [reply for reply in replies if reply.status == 429]
    others = len(replies) - len(admitted) - len(refused)
    quarter = len(watch.megabytes) // 4
    return (
        "## Overload\n\n"
        f"{BASE_MODEL} with {LABELS} labels, ONNX int8, 2 replicas of one thread; `hey`, one text a request.\n"
        f"{SATURATING} clients without a pause, then {TIMES} times their rate from {OVERLOADING:,} clients.\n\n"
        "| | sent/s | answered/s | p50 | p99 | refused (429) | other |\n|---|---|---|---|---|---|---|\n"
        f"| capacity, {CAPACITY_SECONDS} s | {capacity:.0f} | {capacity:.0f} | {p50_ms(at_capacity):.0f} ms | "
        f"{p99_ms(at_capacity):.0f} ms | {sum(reply.status == 429 for reply in at_capacity)} | "
        f"{sum(reply.status not in (200, 429) for reply in at_capacity)} |\n"
        f"| overload, {SECONDS} s | {len(replies) / SECONDS:.0f} | {len(admitted) / SECONDS:.0f} | {p50_ms(admitted):.0f} ms | "
        f"{p99_ms(admitted):.0f} ms | {len(refused):,} | {others} |\n\n"
        f"p99 of the answered: {p99_ms(admitted) / p99_ms(at_capacity):.2f} times that at capacity; without the first "
        f"{BEGINNING_SECONDS} s {p99_ms(later):.0f} ms, {p99_ms(later) / p99_ms(at_capacity):.2f} times.\n"
        f"A refusal took {p50_ms(refused):.0f} ms (p99 {p99_ms(refused):.0f} ms); "
        f"{watch.told} of {watch.refused} sampled ones had `Retry-After`. Memory of the two replicas, first and last quarter: "
        f"{np.mean(watch.megabytes[:quarter]):.0f}, {np.mean(watch.megabytes[-quarter:]):.0f} MB.\n"
        f"Ten answers in a row within the p99 at capacity: from {recovered:.1f} s after the last request of the overload on.\n"
        f"hey does not list requests without an answer; of the sampled ones {watch.unanswered} had none.\n"
    )


def long_texts(home: Path, service: OneModelService, texts: Sequence[str]) -> str:
    """Measure short requests alone, and beside clients that send megabytes. Return a section."""
    script = wrk.write_script(home / "load.lua", texts)
    wrk.load(script, service.url, SHORT_CLIENTS, 2)
    alone = wrk.load(script, service.url, SHORT_CLIENTS, LONG_SECONDS)
    body = home / "long.json"
    words = " ".join(texts)
    long = (words * (LONG_SIZE // len(words) + 1))[:LONG_SIZE]
    body.write_text(json.dumps({"inputs": long, "parameters": {"top_k": 5}}))
    command = hey(service.url, body, LONG_SECONDS + 4, clients=LONG_CLIENTS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(2)
        beside = wrk.load(script, service.url, SHORT_CLIENTS, LONG_SECONDS)
        assert process.stdout is not None
        long_replies = parse(process.stdout.read())
    statuses = ", ".join(
        f"{status}: {sum(reply.status == status for reply in long_replies)}"
        for status in sorted({reply.status for reply in long_replies})
    )
    return (
        "### Long texts\n\n"
        f"{SHORT_CLIENTS} clients with short texts, alone, and beside {LONG_CLIENTS} clients whose texts have {LONG_SIZE:,} "
        "characters each.\n\n"
        "| short texts | requests/s | p50 | p99 |\n|---|---|---|---|\n"
        f"| alone | {alone.rate:.0f} | {alone.p50_ms:.1f} ms | {alone.p99_ms:.1f} ms |\n"
        f"| beside long ones | {beside.rate:.0f} | {beside.p50_ms:.1f} ms | {beside.p99_ms:.1f} ms |\n\n"
        f"p99 ratio {beside.p99_ms / alone.p99_ms:.2f}. Answers to long texts by status: {statuses}.\n"
    )


def hey(url: str, body: Path, seconds: int, *, clients: int, rate: float | None = None) -> list[str]:
    """Return the command that posts ``body`` again and again, ``rate`` times a second or as soon as an answer has come."""
    limit = [] if rate is None else ["-q", f"{rate / clients:.3f}"]
    method = ["-m", "POST", "-T", "application/json", "-D", str(body)]
    return ["hey", "-z", f"{seconds}s", "-c", str(clients), *limit, *method, "-t", "60", "-o", "csv", url]


def attack(url: str, body: Path, seconds: int, *, clients: int, rate: float | None = None) -> list[Reply]:
    """Run `hey`, and return every answer."""
    command = hey(url, body, seconds, clients=clients, rate=rate)
    return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse(output: str) -> list[Reply]:
    """Read what ``hey -o csv`` prints."""
    rows = csv.DictReader(output.splitlines())
    return [
        Reply(seconds=float(row["response-time"]), status=int(row["status-code"]), sent_at=float(row["offset"])) for row in rows
    ]


@contextlib.contextmanager
def watching(service: OneModelService, body: bytes) -> Iterator[Watch]:
    """Watch the memory of the replicas, and what single requests are told, during a ``with`` block."""
    watch, over = Watch(), threading.Event()
    processes = [psutil.Process(replica["pid"]) for replica in service.replicas()]

    def look() -> None:
        while not over.wait(0.5):
            watch.megabytes.append(sum(process.memory_info().rss for process in processes) / 1e6)
            try:
                answer = httpx.post(service.url, content=body, headers=JSON, timeout=60)
            except httpx.HTTPError:
                watch.unanswered += 1
                continue
            watch.refused += answer.status_code == 429
            watch.told += answer.status_code == 429 and int(answer.headers.get("retry-after", 0)) >= 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def recovery_seconds(url: str, body: bytes, since: float, limit_ms: float) -> float:
    """Return when ten answers in a row came within ``limit_ms``: the seconds from ``since`` to the first of them."""
    first, count = since, 0
    while count < 10:
        sent = time.perf_counter()
        answer = httpx.post(url, content=body, headers=JSON, timeout=60)
        if answer.status_code == 200 and (time.perf_counter() - sent) * 1000 <= limit_ms:
            first = time.perf_counter() if count == 0 else first
            count += 1
        else:
            count = 0
    return first - since


def p50_ms(replies: Sequence[Reply]) -> float:
    """Return the median, in milliseconds."""
    return float(np.quantile([reply.seconds for reply in replies], 0.5)) * 1000 if replies else float("nan")


def p99_ms(replies: Sequence[Reply]) -> float:
    """Return the 99th percentile, in milliseconds."""
    return float(np.quantile([reply.seconds for reply in replies], 0.99)) * 1000 if replies else float("nan")


JSON = {"content-type": "application/json"}


if __name__ == "__main__":
    main()
