"""What a replica reads of its model's settings: a change of anything else must not replace it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import httpx
import pytest

from baton.config.changes import REPLICA_KEYS
from baton.config.model_settings import (
    DataSettings,
    FeedbackSettings,
    GateSettings,
    ModelSettings,
    RetrainSettings,
    RolloutSettings,
)
from baton.config.section import ConfigSection
from baton.config.training_settings import TrainingSettings
from baton.store.records import Rollout, RolloutMode, RolloutState
from services.replica.replica import ModelReplica
from tests.replica.test_replica_http import World, ask, classifiers, empty, world
from tests.support.replica import until

__all__ = ["classifiers", "empty", "world"]  # fixtures

SECTIONS: dict[type[ConfigSection], str] = {
    ModelSettings: "",
    DataSettings: "data.",
    TrainingSettings: "training.",
    GateSettings: "gate.",
    RolloutSettings: "rollout.",
    FeedbackSettings: "feedback.",
    RetrainSettings: "retrain.",
}
"""All sections of a model, with the beginnings of their keys, but `serving`: replicas may read all of it."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys that are read from now on, except by the checks of settings."""
    found: set[str] = set()

    def recording(section: type[ConfigSection], prefix: str) -> Any:
        def get(self: ConfigSection, name: str) -> Any:
            if name in section.model_fields and not validating(sys._getframe(1)):
                found.add(prefix + name)
            return object.__getattribute__(self, name)

        return get

    for section, prefix in SECTIONS.items():
        monkeypatch.setattr(section, "__getattribute__", recording(section, prefix))
    return found


def validating(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_name != "model_validate":
        frame = frame.f_back
    return frame is not None


def on_trial() -> Rollout:
    now = datetime.now(UTC)
    return Rollout(
        id=1,
        model="m",
        version=2,
        champion=1,
        mode=RolloutMode.CANARY,
        percent=50.0,
        minutes=None,
        decision_id=None,
        state=RolloutState.CANARY,
        reason=None,
        asked=None,
        evidence={},
        owner="local",
        created_at=now,
        changed_at=now,
    )


def test_a_replica_reads_no_key_that_is_applied_without_replacing_it(world: World, read: set[str]) -> None:
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await ask(client)).status_code == 200
        assert (await client.get("/info")).status_code == 200

        async def runs() -> bool:
            return (await replica.try_out(on_trial()))[1] is not None

        await until(runs, "the trial runs")
        assert (await ask(client)).status_code == 200
        await replica.prepare(2)

    world.run(scenario)
    assert {"training.max_length", "rollout.max_latency_ratio", "feedback.log", "feedback.audit"} <= read
    assert {key for key in read if not key.startswith(REPLICA_KEYS)} <= {"training", "feedback", "rollout"}
