"""Routes of automatic retraining: its state, pause, resume."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from pydantic import Field

from baton.config.model_settings import ModelSettings
from baton.errors import InvalidInput
from baton.store.records import HistoryKind
from services.control.api.bodies import LONGEST_REASON, Body
from services.control.api.protocol import ControlPlane
from services.control.retrain import Choice
from services.control.triggers import Situation


class PauseRequest(Body):
    """Whether automatic retraining should be paused."""

    paused: bool
    reason: str | None = Field(
        None, max_length=LONGEST_REASON, description="Why it is paused; needed for a pause, and kept in the history."
    )


def add_retrain(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes to ``api``."""

    @api.get("/api/models/{model}/retrain", tags=["retraining"])
    def get_retrain(model: str) -> dict[str, Any]:
        """Return whether a trigger would start a run now, and why or why not, with drift, live F1 and new examples."""
        return _state(control, control.config.model(model))

    @api.post("/api/models/{model}/retrain", tags=["retraining"])
    def set_retrain(model: str, body: PauseRequest) -> dict[str, Any]:
        """Pause or resume automatic retraining. Runs that people start are not affected."""
        settings = control.config.model(model)
        reason = (body.reason or "").strip()
        if body.paused and not reason:
            raise InvalidInput("a pause needs a reason; it is shown with the state of retraining and in the history")
        control.registry.retrain.pause(model, reason if body.paused else None)
        text = f"Retraining was paused: {reason}." if body.paused else "Retraining was resumed."
        kind = HistoryKind.RETRAIN_PAUSED if body.paused else HistoryKind.RETRAIN_RESUMED
        control.registry.history.add_incident(model, kind, text)
        return _state(control, settings)


def _state(control: ControlPlane, settings: ModelSettings) -> dict[str, Any]:
    situation, choice = control.retrainer.assess(settings)
    return {"model": settings.name, **_to_json_values(situation, choice), "triggers": settings.retrain.model_dump(mode="json")}


def _to_json_values(situation: Situation, choice: Choice) -> dict[str, Any]:
    return {
        "starts": choice.starts_run,
        "explanation": choice.text,
        "paused": situation.paused,
        "active_run": situation.active,
        "new_examples": situation.new_examples,
        "live": {"f1": situation.live.f1, "corrections": situation.live.corrections} if situation.live else None,
        "drift": [{**asdict(drift), "drifted": drift.drifted} for drift in situation.drift],
    }
