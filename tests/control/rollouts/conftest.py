"""A model with three versions, of which the first serves, and two scripted replicas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.config.serving_settings import ServingSettings
from baton.store.records import RunState
from services.control.rollouts import preparation
from services.control.rollouts.driver import Rollouts
from tests.control.rollouts.scripted import Scripted
from tests.support.local_control import LocalControl, configured, control_of, decide, publish


@pytest.fixture
def replicas() -> Scripted:
    return Scripted()


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicas: Scripted) -> Iterator[LocalControl]:
    """Model m: v1 serves; v2 and v3 are better and wait."""
    monkeypatch.setattr(preparation, "RETRY_SECONDS", 0.001)
    control = control_of(configured(tmp_path, "m"))
    settings = control.config.model("m").model_copy(update={"serving": ServingSettings(prepare_seconds=60)})
    control.rollouts = Rollouts(control.registry, replicas, {"m": settings}, lambda: "local")
    for right in (60, 90, 95):
        run = control.registry.runs.create("m", {}, started=True)
        version = publish(control.registry, "m", right, run.id)
        control.registry.runs.finish(run.id, RunState.SUCCEEDED, version=version.number)
    control.registry.promote(decide(control.registry, "m", 1), control.registry.champion("m"))
    yield control
    control.registry.close()
