"""Promotions while replicas are added or removed: the real roll-out over real replicas, without Serve between them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.records import DecisionKind, ReplicaState
from services.control.rollouts import preparation
from services.control.rollouts.driver import Rollouts, manual_decision
from services.control.rollouts.replicas import Answers, ReplicaCounts, Replicas
from services.replica.replica import ModelReplica
from tests.support.database import migrated_registry
from tests.support.replica import force, publish, served, until
from tests.support.tiny import save_classifier

LABELS = ("billing", "bug", "shipping")
MOMENTS = ("prepare on one", "prepare on all", "commit")


class Living(Replicas):
    """Replicas in this process. Right before a call at ``moment``, their number becomes ``wanted``, once.

    If they start ``late``, the new ones have read the champion by then, but no call reaches them until the second commit.
    """

    def __init__(self, stack: AsyncExitStack, settings: ModelSettings, url: str, storage: Storage) -> None:
        self._stack, self._settings, self._url, self._storage = stack, settings, url, storage
        self._made = 0
        self.alive: dict[str, tuple[ModelReplica, AsyncExitStack]] = {}
        self.moment: str | None = None
        self.wanted = 0
        self.late = False
        self.starting: set[str] = set()
        self.commits = 0

    async def scale(self, number: int) -> None:
        """Start replicas, or stop the oldest ones: the one that loads first is among them."""
        while len(self.alive) < number:
            self._made += 1
            name, own = f"r{self._made}", AsyncExitStack()
            await self._stack.enter_async_context(own)
            replica, _ = await own.enter_async_context(served(self._settings, self._url, self._storage, name=name))
            self.alive[name] = replica, own
            if self.late:
                self.starting.add(name)
        while len(self.alive) > number:
            _, own = self.alive.pop(next(iter(self.alive)))
            await own.aclose()

    async def call(self, model: str, timeout_s: float, method: str, *arguments: Any) -> Answers:
        if method == "commit":
            self.commits += 1
            if self.commits > 1:
                self.starting.clear()
        called = {name: replica for name, replica in self.alive.items() if name not in self.starting}
        now: str = method
        if method == "prepare":
            now = "prepare on all" if arguments[1] is None else "prepare on one"
        if self.moment == now:
            self.moment = None
            await self.scale(self.wanted)  # Serve told the caller of those in `called`
        living = [replica for name, (replica, _) in called.items() if name in self.alive]
        states = await asyncio.gather(*(getattr(replica, method)(*arguments) for replica in living))
        return Answers(states=states, died=len(called) - len(living))

    def count(self, model: str) -> ReplicaCounts:
        return ReplicaCounts(running=len(self.alive) - len(self.starting), starting=len(self.starting))


@pytest.mark.parametrize(
    ("before", "after", "late", "moment"),
    [
        *((1, 3, False, moment) for moment in MOMENTS),
        *((3, 1, False, moment) for moment in MOMENTS),
        (1, 3, True, "prepare on all"),
    ],
)
def test_a_promotion_reaches_every_replica_while_their_number_changes(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int, late: bool, moment: str
) -> None:
    monkeypatch.setattr(preparation, "RETRY_SECONDS", 0.001)
    url, storage = f"sqlite:///{tmp_path}/baton.db", Storage(str(tmp_path / "storage"))
    registry = migrated_registry(url)
    settings = ModelSettings.model_validate(
        {
            "name": "m",
            "task": "classification",
            "base_model": str(tiny_base),
            "data": {"train": "nowhere.jsonl"},
            "serving": {"precision": "fp32", "device": "cpu", "poll_seconds": 600.0},  # nobody finds out by itself
        }
    )
    registry.declare_model("m", settings.model_dump(mode="json"))
    for number in (1, 2):
        publish(registry, storage, "m", save_classifier(tiny_base, LABELS, tmp_path / f"v{number}"), LABELS)
    force(registry, "m", 1)

    async def scenario() -> list[ReplicaState]:
        async with AsyncExitStack() as stack:
            replicas = Living(stack, settings, url, storage)
            await replicas.scale(before)

            async def all_serve() -> bool:
                answers = await replicas.call("m", 60, "state")
                return all(state.version == registry.champion("m").version for state in answers.states)

            await until(all_serve, "every replica serves the champion")
            replicas.moment, replicas.wanted, replicas.late = moment, after, late
            rollouts = Rollouts(registry, replicas, {"m": settings}, lambda: "here")
            await rollouts.promote(manual_decision(DecisionKind.FORCE, "m", 2, registry.champion("m"), "a test wants it"))
            return list((await replicas.call("m", 60, "state")).states)

    states = asyncio.run(asyncio.wait_for(scenario(), 240))
    champion = registry.champion("m")
    assert [(state.version, state.sequence) for state in states] == [(2, champion.sequence)] * after
    assert champion.version == 2
    assert registry.rollouts.active("m") is None
    registry.close()
