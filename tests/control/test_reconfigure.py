"""Other models for a control plane that runs: what it says, looks after and does from then on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from baton.errors import NotFound
from services.control.api.app import build_api
from services.host import offline
from tests.support.local_control import LocalControl, configured, control_of, decide, publish


@pytest.fixture
def control(tmp_path: Path) -> LocalControl:
    """A control plane of ``kept`` and ``gone``."""
    return control_of(configured(tmp_path, "kept", "gone"))


def reconfigure(control: LocalControl, *models: str, **sections: Any) -> None:
    """Declare models, as `baton apply` does, and hand them in as Serve does."""
    settings = [{**control.config.models[0].model_dump(mode="json"), **sections, "name": name} for name in models]
    for model in settings:
        control.registry.declare_model(model["name"], model)
    asyncio.run(control.reconfigure({"models": settings}))


def test_the_api_knows_models_that_were_added_and_no_more_those_that_were_removed(control):
    with TestClient(build_api(control, offline._nothing), base_url="http://localhost") as api:

        def described() -> list[str]:
            return api.get("/openapi.json").json()["paths"]["/models/{model}"]["post"]["parameters"][0]["schema"]["enum"]

        assert described() == ["kept", "gone"]
        reconfigure(control, "kept", "added", gate={"min_f1": 0.7})
        assert [it["name"] for it in api.get("/api/models").json()["items"]] == ["kept", "added"]
        assert [it["gate"]["min_f1"] for it in api.get("/api/config").json()["models"]] == [0.7, 0.7]
        assert described() == ["kept", "added"]
        assert api.get("/api/models/gone").status_code == 404
        counts = api.get("/metrics").text
        assert 'baton_feedback_total{model="added",result="accepted"} 0.0' in counts


def test_everything_else_of_the_configuration_stays(control):
    before = control.config
    reconfigure(control, "kept")
    assert control.config.model_copy(update={"models": before.models}) == before
    with pytest.raises(NotFound, match="declared models: kept"):
        control.config.model("gone")


def test_added_models_are_looked_after_and_removed_ones_are_left_to_other_clusters(control):
    assert control.ownership.models() == {"kept", "gone"}
    reconfigure(control, "kept", "added")
    assert control.ownership.models() == {"kept", "added"}


def test_a_version_of_an_added_model_is_rolled_out_by_its_own_settings(control):
    reconfigure(control, "kept", "added")
    version = publish(control.registry, "added", 80)
    asyncio.run(control.rollouts.promote(decide(control.registry, "added", version.number)))
    assert control.registry.champion("added").version == version.number


def test_a_changed_gate_decides_the_next_match(control):
    version = publish(control.registry, "kept", 80)
    reconfigure(control, "kept", gate={"min_f1": 0.9})
    decision, promotion = asyncio.run(control.promote("kept", version.number, force=False, reason=None))
    assert (decision.policy["min_f1"], promotion) == (0.9, None)


def test_the_trigger_of_a_changed_model_is_checked_as_it_is_now(control):
    assert not control.retrainer.assess(control.config.model("kept"))[1].starts_run
    reconfigure(control, "kept", retrain={"every": "* * * * *", "cooldown_minutes": 0})
    assert "schedule" in control.retrainer.assess(control.config.model("kept"))[1].text
