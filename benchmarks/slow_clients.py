"""Measure what clients that send slowly cost the others: half-open connections, and bodies at one byte a second."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.service import Service
from services.demo.traffic import Exchange, Traffic, failed, latency_ms

CONCURRENCY, PAUSE = 4, 0.05
"""Clients that predict meanwhile, and seconds that each rests after an answer: the attack needs processor time, too."""

SECONDS = 30.0
"""Duration of each attack, and of the steady time before the first."""

CONNECTIONS = 5000
BODIES = 100
BUFFER = 16 * 1024
"""What HAProxy waits for before it passes a body on."""

RETRY_SECONDS = 2.0
"""Time after which an attacker whose connection was closed opens another."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Connections that each send a part of a request, and then one byte a second or nothing."""

    name: str
    connections: int
    sources: Sequence[str]
    """Addresses of this machine that they come from, in turn."""
    begin: bytes
    """What each sends at once."""
    drip: bytes = b""
    """What each sends every second from then on."""


def attacks(path: str) -> list[Attack]:
    """Return what is measured, against a model's path."""
    head = b"POST " + path.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    body = head + b"content-length: 1000000\r\n\r\n"
    many = [f"127.0.1.{number}" for number in range(1, 11)]
    return [
        Attack(name=f"{CONNECTIONS:,} half-open, one address", connections=CONNECTIONS, sources=["127.0.0.2"], begin=head),
        Attack(name=f"{CONNECTIONS:,} half-open, ten addresses", connections=CONNECTIONS, sources=many, begin=head),
        Attack(name=f"{BODIES} bodies, 1 byte/s", connections=BODIES, sources=["127.0.0.2"], begin=body, drip=b" "),
        Attack(
            name=f"{BODIES} bodies, 1 byte/s after {BUFFER // 1024} KiB",
            connections=BODIES,
            sources=["127.0.0.2"],
            begin=body + b" " * BUFFER,
            drip=b" ",
        ),
    ]


def measure(service: Service) -> str:
    """Measure, and return a section of the results."""
    service.first_version()
    address = urlsplit(service.url)
    assert address.port is not None
    with Traffic(service.url, service.texts(), CONCURRENCY, pause=PAUSE) as traffic:
        time.sleep(3.0)
        phases = [("steady", *_for_a_while())]
        for attack in attacks(address.path):
            with _running(attack, address.port):
                phases.append((attack.name, *_for_a_while()))
            time.sleep(3.0)
    rows, steady_p99 = [], 0.0
    for name, began, ended in phases:
        during = [it for it in traffic.exchanges if it.answered > began and it.sent < ended]
        p99 = latency_ms(during, 0.99)
        steady_p99 = steady_p99 or p99
        rows.append(_row(name, during, p99 / steady_p99))
    return (
        "## Slow clients\n\n"
        f"2 replicas, {CONCURRENCY} clients that rest {PAUSE * 1000:.0f} ms after each answer, and attackers on the same\n"
        f"machine, {SECONDS:.0f} s each. Half-open: a request line and some headers, and then nothing. An attacker whose\n"
        f"connection is closed opens another after {RETRY_SECONDS:.0f} s.\n\n"
        "| attack | predictions | failed | p50 | p99 | p99 to steady |\n|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _for_a_while() -> tuple[float, float]:
    began = time.perf_counter()
    time.sleep(SECONDS)
    return began, time.perf_counter()


def _row(name: str, exchanges: list[Exchange], ratio: float) -> str:
    p50, p99 = latency_ms(exchanges, 0.5), latency_ms(exchanges, 0.99)
    return f"| {name} | {len(exchanges):,} | {failed(exchanges)} | {p50:.1f} ms | {p99:.1f} ms | {ratio:.2f} |"


# --- the attackers, in a process of their own ----------------------------------------------------------------------------


@contextlib.contextmanager
def _running(attack: Attack, port: int) -> Iterator[None]:
    """Attack during a ``with`` block, which begins when every connection has been opened once."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_attack, args=(attack, port, ready.set), daemon=True)
    process.start()
    ready.wait()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _attack(attack: Attack, port: int, ready: Callable[[], None]) -> None:
    os.nice(19)  # attackers have machines of their own, and take no processor time from the service

    async def run() -> None:
        first_opened = 0

        async def hold(number: int) -> None:
            nonlocal first_opened
            first = True
            while True:
                with contextlib.suppress(OSError):
                    async with _connected(port, attack.sources[number % len(attack.sources)]) as (reader, writer):
                        writer.write(attack.begin)
                        if first:
                            first, first_opened = False, first_opened + 1
                            if first_opened == attack.connections:
                                ready()
                        await _send_slowly(reader, writer, attack.drip)
                await asyncio.sleep(RETRY_SECONDS)

        await asyncio.gather(*[hold(number) for number in range(attack.connections)])

    asyncio.run(run())


@contextlib.asynccontextmanager
async def _connected(port: int, source: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.close()


async def _send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drip: bytes) -> None:
    """Send ``drip`` every second, if it is not empty, until the connection is closed."""
    closed = asyncio.create_task(reader.read())
    while drip and not closed.done():
        writer.write(drip)
        await asyncio.wait([closed], timeout=1.0)
    await closed
