"""Measure hand-overs under load: five promotions and rollbacks in a row at concurrency 16, compared to steady load before."""

from __future__ import annotations

import time

from benchmarks.service import MODEL, Service
from services.demo.traffic import Exchange, Traffic, failed, latency_ms, stale

CONCURRENCY = 16
STEADY_SECONDS = 15.0
SWAPS = 5


def measure(service: Service) -> str:
    """Measure, and return a section of the results."""
    old = service.first_version()
    run, _ = service.train("training.epochs=1", "training.tune=head", "training.seed=1")
    new = int(run["version"])
    first_move = {"version": new, "force": True, "reason": "the benchmark needs two champions"}
    if run["decision"]["verdict"] == "promote":
        service.wait_for(new)  # it is promoted automatically
    else:
        service.client.post(f"/api/models/{MODEL}/promotions", first_move)
    service.client.post(f"/api/models/{MODEL}/rollback", {"reason": "back to the start"})
    moves = []
    with Traffic(service.url, service.texts(), CONCURRENCY) as traffic:
        time.sleep(3.0)
        began = time.perf_counter()
        time.sleep(STEADY_SECONDS)
        steady_until = time.perf_counter()
        for number in range(SWAPS):
            target = new if number % 2 == 0 else old
            path, body = ("promotions", first_move) if target == new else ("rollback", {"reason": "benchmark"})
            asked = time.perf_counter()
            service.client.post(f"/api/models/{MODEL}/{path}", body)
            moves.append((asked, time.perf_counter(), target))
            time.sleep(1.0)
    everything = traffic.exchanges
    steady = _between(everything, began, steady_until)
    during = [exchange for asked, returned, _ in moves for exchange in _between(everything, asked, returned)]
    ends = [asked for asked, _, _ in moves[1:]] + [float("inf")]
    wrong = sum(stale(everything, target, returned, end) for (_, returned, target), end in zip(moves, ends, strict=True))
    ratio = latency_ms(during, 0.99) / latency_ms(steady, 0.99)
    promotions, rollbacks = (
        ", ".join(f"{returned - asked:.2f}" for asked, returned, target in moves if target == wanted) for wanted in (new, old)
    )
    return (
        "## Hand-over under load\n\n"
        f"2 replicas, {CONCURRENCY} clients without a pause, {SWAPS} promotions and rollbacks in a row. The promotions took\n"
        f"{promotions} s (verify SHA-256, load, warm, self-check on every replica, move the pointer, commit, confirm),\n"
        f"the rollbacks {rollbacks} s: the previous champion waits in memory. So does the version that is promoted again.\n\n"
        "| | requests | failed | p50 | p99 |\n|---|---|---|---|---|\n"
        f"{_row(f'steady ({STEADY_SECONDS:.0f} s)', steady)}\n{_row('during the hand-overs', during)}\n\n"
        f"p99 ratio {ratio:.2f}. All requests of the run: {len(everything)}, failed: {failed(everything)}, answered by the\n"
        f"old version though sent after `promote` had returned: {wrong}.\n"
    )


def _row(name: str, exchanges: list[Exchange]) -> str:
    p50, p99 = latency_ms(exchanges, 0.5), latency_ms(exchanges, 0.99)
    return f"| {name} | {len(exchanges)} | {failed(exchanges)} | {p50:.1f} ms | {p99:.1f} ms |"


def _between(exchanges: list[Exchange], since: float, until: float) -> list[Exchange]:
    """Return the requests that were in flight at any time between ``since`` and ``until``."""
    return [exchange for exchange in exchanges if exchange.answered > since and exchange.sent < until]
