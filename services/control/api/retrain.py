"""Routes of retraining: how things stand, pause, resume."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.errors import InvalidInput
from baton.store.records import HistoryKind
from baton.store.registry import Registry
from services.control.retrain import Choice, Retrainer, Situation


class Control(Protocol):
    """What these routes need of the control plane."""

    config: BatonConfig
    registry: Registry

    @property
    def retrainer(self) -> Retrainer:
        """What starts runs by itself."""
        ...


class PauseRequest(BaseModel):
    """Pause or resume."""

    model_config = ConfigDict(extra="forbid")

    paused: bool
    reason: str | None = Field(None, max_length=500, description="Why it is paused; stays in the history.")


def add_retrain(api: FastAPI, control: Control) -> None:
    """Add the routes to ``api``."""

    @api.get("/api/models/{model}/retrain", tags=["retraining"])
    def get_retrain(model: str) -> dict[str, Any]:
        """Whether a run would start by itself now, and why or why not; with drift, live F1 and new examples."""
        return _state(control, control.config.model(model))

    @api.post("/api/models/{model}/retrain", tags=["retraining"])
    def set_retrain(model: str, body: PauseRequest) -> dict[str, Any]:
        """Pause runs that start by themselves, or let them start again. Runs by hand are not touched."""
        settings = control.config.model(model)
        reason = (body.reason or "").strip()
        if body.paused and not reason:
            raise InvalidInput("a pause needs a reason; it is shown wherever somebody wonders why nothing is trained")
        control.registry.retrain.pause(model, reason if body.paused else None)
        text = f"Retraining was paused: {reason}." if body.paused else "Retraining was resumed."
        kind = HistoryKind.RETRAIN_PAUSED if body.paused else HistoryKind.RETRAIN_RESUMED
        control.registry.add_incident(model, kind, text)
        return _state(control, settings)


def _state(control: Control, settings: ModelSettings) -> dict[str, Any]:
    situation, choice = control.retrainer.look(settings)
    return {"model": settings.name, **_plain(situation, choice), "triggers": settings.retrain.model_dump(mode="json")}


def _plain(situation: Situation, choice: Choice) -> dict[str, Any]:
    return {
        "starts": choice.run,
        "explanation": choice.text,
        "paused": situation.paused,
        "active_run": situation.active,
        "new_examples": situation.new_examples,
        "live": {"f1": situation.live.f1, "corrections": situation.live.corrections} if situation.live else None,
        "drift": [{**asdict(drift), "drifted": drift.drifted} for drift in situation.drift],
    }
