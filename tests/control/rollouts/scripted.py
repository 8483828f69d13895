"""Scripted replicas for the tests of roll-outs, and what these tests ask the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from baton.quality.trials import TrialCounts
from baton.store.records import Decision, HistoryKind, ReplicaState, Rollout
from services.control.rollouts.replicas import Answers, ReplicaCounts, Replicas
from tests.support.local_control import LocalControl, decide


class Scripted(Replicas):
    """Two replicas, r1 and r2. ``on_prepare(version, only)`` says how a prepare ends; every one is noted in ``prepared``."""

    def __init__(self) -> None:
        self.prepared: list[tuple[int, str | None]] = []
        self.serving: dict[str, tuple[int, int]] = {"r1": (1, 1), "r2": (1, 1)}
        self.on_prepare: Callable[[int, str | None], Awaitable[Answers]] | None = None
        self.asked = asyncio.Event()
        """Set by every prepare."""
        self.committing, self.may_commit = asyncio.Event(), asyncio.Event()
        self.may_commit.set()
        self.trial: Rollout | None = None
        """What the replicas were last told to run beside the champion."""
        self.measured: dict[str, TrialCounts | None] = {"r1": TrialCounts(), "r2": TrialCounts()}
        """What each replica measured in the trial; None for one that does not run it."""
        self.corpses = 0
        """How many calls for states still find a dead replica."""

    async def call(self, model: str, timeout_s: float, method: str, *arguments: Any) -> Answers:
        if method == "state" and self.corpses:
            self.corpses -= 1
            return replace(self.answers("r2"), died=1)
        if method == "prepare":
            self.prepared.append(arguments)
            self.asked.set()
            if self.on_prepare is not None:
                return await self.on_prepare(*arguments)
        if method == "commit":
            self.committing.set()
            await self.may_commit.wait()
            self.serving = dict.fromkeys(self.serving, arguments)
            self.trial = None
        return self.answers()

    async def trials(self, model: str, timeout_s: float, rollout: Rollout) -> Mapping[str, TrialCounts | None]:
        self.trial = rollout if rollout.state.trial else None
        return dict(self.measured)

    def count(self, model: str) -> ReplicaCounts:
        return ReplicaCounts(running=2, starting=0)

    def answers(self, *names: str, error: str | None = None, unavailable: bool = False) -> Answers:
        states = [
            ReplicaState(
                replica=name,
                pid=1,
                version=self.serving[name][0],
                sequence=self.serving[name][1],
                prepared=(),
                engine="",
                unlogged=0,
                error=error,
                unavailable=unavailable,
            )
            for name in names or self.serving
        ]
        return Answers(states=states)

    async def kill(self, version: int, only: str | None) -> Answers:
        """What Serve tells of a replica that died: the other one answers, and the next look finds the corpse."""
        self.corpses = 1
        return replace(self.answers("r2" if only == "r1" else "r1"), died=1)


def won(control: LocalControl, version: int) -> Decision:
    """The decision of the version's run, which waits to be carried out."""
    return decide(control.registry, "m", version, of_run=True)


def waiting(control: LocalControl) -> list[int]:
    return [decision.candidate for decision in control.registry.pending_decisions()]


def incidents(control: LocalControl) -> list[tuple[HistoryKind, int | None, str]]:
    return [(it.kind, it.version, it.detail) for it in control.registry.history.incidents("m")]
