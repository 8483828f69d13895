"""Kill the control plane at every state of a roll-out, under load, and see what is left."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from baton.config.file import load_config
from baton.store.records import RolloutState
from baton.store.registry import Registry
from benchmarks.rollouts import versions
from benchmarks.rollouts.callers import Answer, Callers
from benchmarks.rollouts.canaries import register
from benchmarks.service import MODEL, Service, holdout_of, read_rows
from services.client import ApiError
from services.host import processes
from services.host.instance import StateDirectory

REPLICAS = 3
CALLERS = 8
CONTROL = "ServeReplica:control"
ATTEMPTS = 20
"""How often a kill is tried: some states last for milliseconds, and a kill that comes too late does not count."""

SETTLE_SECONDS = 180.0
"""A service that does not agree with itself by then fails the benchmark."""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """What one kill led to."""

    move: str
    state: RolloutState
    """State in which the control plane was killed."""
    attempts: int
    """Kills until one came in time. The requests of all of them count."""
    requests: int
    failed: int
    mixed: float
    """Seconds after the kill in which both versions answered; 0 for a canary, where both shall."""
    seconds: float
    """From the kill until all replicas serve the champion, and no roll-out is unfinished but a canary that goes on."""
    champion: int
    """The champion in the end."""
    ended: RolloutState
    """How the roll-out ended."""


def measure(service: Service, home: Path) -> list[Crash]:
    """Kill the control plane in each state that a promotion, a rollback and a canary go through."""
    first = service.trained()
    good = Path(service.client.get(f"/api/models/{MODEL}/versions/{first}")["uri"].removeprefix("file://"))
    other = register(service, versions.wrong(good, home / "other"))
    rows = read_rows(holdout_of(service.data))
    registry = Registry(load_config(service.file, {}).database)

    def force(version: int) -> None:
        service.client.post(
            f"/api/models/{MODEL}/promotions", {"version": version, "force": True, "reason": "a crash benchmark"}
        )

    def canary(version: int) -> None:
        service.client.post(
            f"/api/models/{MODEL}/rollout", {"version": version, "mode": "canary", "percent": 10.0, "minutes": None}
        )

    moves: list[tuple[str, RolloutState, Callable[[], None]]] = [
        ("promotion", RolloutState.PROPOSED, lambda: force(other)),
        ("promotion", RolloutState.PREPARING, lambda: force(other)),
        ("promotion", RolloutState.COMMITTING, lambda: force(other)),
        ("rollback", RolloutState.PREPARING, lambda: service.client.post(f"/api/models/{MODEL}/rollback")),
        ("rollback", RolloutState.COMMITTING, lambda: service.client.post(f"/api/models/{MODEL}/rollback")),
        ("canary", RolloutState.PREPARING, lambda: canary(other)),
        ("canary", RolloutState.CANARY, lambda: canary(other)),
        ("promotion of the canary", RolloutState.COMMITTING, lambda: force(other)),
    ]
    found = []
    for move, state, act in moves:
        answers: list[Answer] = []
        for attempts in range(1, ATTEMPTS + 1):
            _settle(service, registry, first, force)
            if move == "rollback":
                force(other)
            elif move == "promotion of the canary":
                canary(other)
                while (active := registry.rollouts.active(MODEL)) is None or not active.state.trial:
                    time.sleep(0.1)
            with Callers(service.client.url, rows, CALLERS) as callers:
                time.sleep(3.0)
                killed = _kill_in(service, registry, state, act)
                agreed = _agreement(service, registry)
                time.sleep(3.0)
            answers += callers.answers
            if killed is not None:
                champion = registry.champion(MODEL).version
                found.append(
                    Crash(
                        move=move,
                        state=state,
                        attempts=attempts,
                        requests=len(answers),
                        failed=sum(answer.status != 200 for answer in answers),
                        mixed=0.0 if move == "canary" else _mixed(callers.answers, champion, killed),
                        seconds=agreed - killed,
                        champion=champion or 0,
                        ended=registry.rollouts.list(MODEL, limit=1)[0].state,
                    )
                )
                print(found[-1], flush=True)
                break
        else:
            raise RuntimeError(f"{ATTEMPTS} kills came too late for a {move} that is {state}")
    return found


def _settle(service: Service, registry: Registry, champion: int, force: Callable[[int], None]) -> None:
    """End whatever is going on, and let ``champion`` serve."""
    with contextlib.suppress(ApiError):
        service.client.delete(f"/api/models/{MODEL}/rollout", {"reason": "the next crash"})
    if registry.champion(MODEL).version != champion:
        force(champion)
    _agreement(service, registry)


def _kill_in(service: Service, registry: Registry, state: RolloutState, act: Callable[[], None]) -> float | None:
    """Do ``act``, kill the control plane as soon as the database shows ``state``, and return when; None if it was too late."""
    control = _control(service)
    before = [(it.id, it.state) for it in registry.rollouts.list(MODEL, limit=1)]
    file = load_config(service.file, {}).database.removeprefix("sqlite:///")
    newest = f"SELECT id, state FROM rollouts WHERE model = '{MODEL}' ORDER BY id DESC LIMIT 1"
    with contextlib.closing(sqlite3.connect(file)) as database, ThreadPoolExecutor(1) as threads:
        done = threads.submit(act)
        # Not through the registry: that takes a millisecond, and so does a step of the control plane.
        while (row := database.execute(newest).fetchall()) == before or row[0][1] != state:
            if done.done():
                done.result()
                return None
        killed = time.monotonic()
        control.kill()
        in_time = database.execute(newest).fetchall() == row
        with contextlib.suppress(Exception):  # whatever the caller is told: nobody is there to answer
            done.result(60)
    return killed if in_time else None


def _mixed(answers: Sequence[Answer], champion: int | None, killed: float) -> float:
    """Return for how long after the kill answers of the ``champion`` and of another version alternated."""
    new = [answer.sent for answer in answers if answer.version == champion]
    old = [answer.sent for answer in answers if answer.version not in (champion, None)]
    return max(0.0, max(old) - max(min(new), killed)) if new and old else 0.0


def _control(service: Service) -> psutil.Process:
    instance = StateDirectory(service.home / ".baton").read()
    assert instance is not None
    while True:
        for process in processes.find(instance.id):
            with contextlib.suppress(psutil.Error):
                if CONTROL in " ".join(process.cmdline()):
                    return process
        time.sleep(0.1)


def _agreement(service: Service, registry: Registry) -> float:
    """Wait until all replicas serve the champion, and no roll-out is unfinished but a canary; return when."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        active = registry.rollouts.active(MODEL)
        champion = registry.champion(MODEL)
        with contextlib.suppress(Exception):  # the control plane is not back yet
            states = service.client.get(f"/api/models/{MODEL}")["replicas"]
            serving = [(state["version"], state["sequence"]) for state in states]
            if serving == [(champion.version, champion.sequence)] * REPLICAS and (active is None or active.state.trial):
                return time.monotonic()
        time.sleep(0.1)
    raise RuntimeError(f"the replicas do not agree with the registry after {SETTLE_SECONDS:.0f} s")
