"""Measure Baton beside other servers with the same weights, engine and load, one after the other.

``python -m benchmarks.peers --data DIRECTORY`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks import wrk
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.peers.contenders import Baton, Contender, start_peer
from benchmarks.peers.plot import draw
from benchmarks.service import BASE_MODEL, LABELS, holdout_of, read_rows, save_model

PEERS = ("litserve", "bentoml", "ray")
FILES = {"int8": "model.int8.onnx", "fp32": "model.onnx"}
PICTURE = Path(__file__).with_name("peers.svg")
SECONDS, ROUNDS = 5, 3

MEDIAN_WORDS, SPREAD, SHORTEST, LONGEST = 20, 1.0, 3, 300
"""The length mix: the words of a text are log-normal, with this median and deviation of the logarithm, between two bounds."""

MANY = 32
"""Texts of a client's batch."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One load on one server."""

    load: str
    clients: int
    server: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of it."""

    texts_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of the machine for each text, without the load generator."""


def main() -> None:
    """Parse the command line, measure, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with test.jsonl, whose rows have a text")
    parser.add_argument("--precision", choices=tuple(FILES), default="int8", help="of the engine, ONNX Runtime; default: int8")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="default: all")
    parser.add_argument("--quick", action="store_true", help="one round of two seconds each")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument("--plot", action="store_true", help=f"also draw {PICTURE.name}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rounds, seconds = (1, 2) if arguments.quick else (ROUNDS, SECONDS)
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        home = Path(name)
        (folder := home / "baton").mkdir()
        texts = [row["text"] for row in read_rows(holdout_of(arguments.data))[:512]]
        start_baton = partial(Baton, folder, arguments.precision, texts)
        with contextlib.closing(start_baton()) as baton:
            version = baton.prepare(save_model(home / "model"))
        starts: dict[str, Callable[[], Contender]] = {"baton": start_baton}
        starts |= {peer: partial(start_peer, peer, version, FILES[arguments.precision]) for peer in arguments.peers}
        results, memory = measure(home, starts, dict(make_loads(texts)), rounds, seconds)
    section = render(arguments.precision, results, memory, rounds, seconds)
    write(arguments.out, section, head_of("benchmarks.peers", f"--data …/{arguments.data.name}", model=BASE_MODEL))
    if arguments.json:
        values = [{**asdict(case), **asdict(measured)} for case, measured in results.items()]
        arguments.json.write_text(json.dumps({"results": values, "megabytes": memory}, indent=2))
    if arguments.plot:
        draw(results, PICTURE)
    print(section)


def make_loads(texts: Sequence[str]) -> Iterator[tuple[str, tuple[Sequence[Sequence[str]], Sequence[int]]]]:
    """Yield each load by name: the texts of its requests, and the numbers of clients that send them."""
    chance = random.Random(0)
    words = " ".join(texts).split()

    def mixed() -> str:
        count = round(chance.lognormvariate(0, SPREAD) * MEDIAN_WORDS)
        return " ".join(chance.choices(words, k=min(max(count, SHORTEST), LONGEST)))

    yield "short", ([[text] for text in texts], (1, 8, 64))
    yield "length mix", ([[mixed()] for _ in range(512)], (1, 8, 64))
    yield f"batches of {MANY}", ([texts[start : start + MANY] for start in range(0, 480, MANY)], (1, 8))


def measure(
    home: Path,
    starts: Mapping[str, Callable[[], Contender]],
    loads: Mapping[str, tuple[Sequence[Sequence[str]], Sequence[int]]],
    rounds: int,
    seconds: int,
) -> tuple[dict[Case, Measured], dict[str, float]]:
    """Start each server in turn, alone, and send it every load. Return the medians over the rounds, and the memory used."""
    figures: dict[Case, list[Measured]] = defaultdict(list)
    memory: dict[str, float] = {}
    for _ in range(rounds):
        for start in starts.values():
            with contextlib.closing(start()) as server:
                for name, (requests, numbers) in loads.items():
                    script = wrk.write_bodies(home / "load.lua", [server.body(texts) for texts in requests])
                    wrk.load(script, server.url, 8, 1)  # what one-time set-up costs is not measured
                    for clients in numbers:
                        case = Case(load=name, clients=clients, server=server.name)
                        figures[case].append(_load(script, server.url, clients, seconds, len(requests[0])))
                        print(case, figures[case][-1], file=sys.stderr, flush=True)
                memory[server.name] = server.megabytes()
    order = sorted(figures, key=lambda case: (list(loads).index(case.load), case.clients))
    return {case: _medians(figures[case]) for case in order}, memory


def _medians(rounds: Sequence[Measured]) -> Measured:
    fields = Measured.__dataclass_fields__
    return Measured(**{field: statistics.median(getattr(one, field) for one in rounds) for field in fields})


def _load(script: Path, url: str, clients: int, seconds: int, size: int) -> Measured:
    before, own = psutil.cpu_times(), psutil.Process().cpu_times()
    load = wrk.load(script, url, clients, seconds)
    after, ours = psutil.cpu_times(), psutil.Process().cpu_times()
    machine = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system"))  # Ray's workers are nice
    generator = ours.children_user + ours.children_system - own.children_user - own.children_system
    return Measured(
        texts_per_second=load.rate * size,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_ms=1000 * (machine - generator) / (load.requests * size),
    )


def render(precision: str, results: Mapping[Case, Measured], memory: Mapping[str, float], rounds: int, seconds: int) -> str:
    """Return the section of the results."""
    lines = []
    for case, measured in results.items():
        ours = results[Case(load=case.load, clients=case.clients, server=Baton.name)]
        ratio = measured.texts_per_second / ours.texts_per_second
        lines.append(
            f"| {case.load} | {case.clients} | {case.server} | {measured.texts_per_second:,.0f} | {ratio:.2f} | "
            f"{measured.p50_ms:.1f} ms | {measured.p99_ms:.1f} ms | {measured.cpu_ms:.2f} ms |"
        )
    sizes = ", ".join(f"{name} {megabytes:,.0f} MB" for name, megabytes in memory.items())
    return (
        f"## Peers, ONNX Runtime {precision}\n\n"
        f"{BASE_MODEL} with {LABELS} labels; every server runs two processes of one thread with the same exported file;\n"
        f"`wrk -t1 -cN -d{seconds}s`, one server at a time, in turn; medians of {rounds} rounds.\n"
        "CPU is that of the whole machine for each text, without the load generator. Length mix: log-normal, median "
        f"{MEDIAN_WORDS} words, from {SHORTEST} to {LONGEST}.\n\n"
        "| load | clients | server | texts/s | of Baton's | p50 | p99 | CPU/text |\n|---|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\nResident memory at the end (Baton: its two replicas; others: all their processes): {sizes}.\n\n"
        f"![Rates and 99th percentiles](peers/{PICTURE.name})\n"
    )


if __name__ == "__main__":
    main()
