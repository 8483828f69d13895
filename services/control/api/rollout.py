"""Routes of a model's roll-out: begin a canary or a shadow, look at it, end it."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field, model_validator

from baton.config.model_settings import LONGEST_TRIAL_MINUTES, MAX_CANARY_PERCENT
from baton.errors import NotFound
from baton.store.records import LARGEST_INTEGER, PAGE, Rollout, RolloutMode, Trial
from baton.wording import signed
from services.control.api.bodies import LONGEST_REASON, Body, Page, to_json_values
from services.control.api.guard import actor_of
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Before, Limit
from services.control.rollouts.evidence import Evidence


class TrialRequest(Body):
    """Which version should run beside the champion."""

    version: int = Field(ge=1, le=LARGEST_INTEGER)
    mode: Literal["canary", "shadow"] = Field(
        description="canary: it answers its share of the requests. shadow: it gets a copy, and its answers are compared."
    )
    percent: float = Field(
        gt=0, description="Share of the requests, in percent; at most 50 for a canary.", json_schema_extra={"maximum": 100}
    )
    minutes: float | None = Field(
        None, gt=0, le=LONGEST_TRIAL_MINUTES, description="How long, while replicas run it; by default until somebody ends it."
    )
    reason: str | None = Field(None, max_length=LONGEST_REASON, description="Why; it stays in the history.")

    @model_validator(mode="after")
    def _leave_half_to_the_champion(self) -> TrialRequest:
        most = MAX_CANARY_PERCENT if self.mode == "canary" else 100.0
        if self.percent > most:
            raise ValueError(f"percent: {self.percent:g} is not allowed for a {self.mode}; at most {most:g}")
        return self

    def trial(self, by: str | None) -> Trial:
        """Return what is asked for. ``by``: the name of the API key of who asks."""
        return Trial(
            mode=RolloutMode(self.mode), percent=self.percent, minutes=self.minutes, asked=signed(self.reason or None, by)
        )


class TrialEnd(Body):
    """Why the trial should end."""

    reason: str = Field("ended by an operator", max_length=LONGEST_REASON)


def add_rollout(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes to ``api``."""
    registry = control.registry

    @api.post("/api/models/{model}/rollout", tags=["roll-outs"])
    async def start_trial(request: Request, model: str, body: TrialRequest) -> dict[str, Any]:
        """Begin a canary or a shadow. The champion stays, whatever it shows; a promotion ends it.

        It ends by itself if the version fails, is much slower than the champion, or is worse by feedback. Answers also with
        the newest decision of the gate on the version as ``gate``, or null: a version that it refused may be tried out.
        """
        control.config.model(model)
        begun = await control.rollouts.start_trial(model, body.version, body.trial(actor_of(request.scope)))
        decision = await asyncio.to_thread(registry.newest_gate_decision, model, body.version)
        return {**described(begun), "gate": None if decision is None else to_json_values(decision)}

    @api.get("/api/models/{model}/rollout", tags=["roll-outs"])
    def get_rollout(model: str) -> dict[str, Any]:
        """Return the active roll-out or, without one, the newest, with what was measured of both versions."""
        control.config.model(model)
        found = registry.rollouts.active(model) or next(iter(registry.rollouts.list(model, limit=1)), None)
        if found is None:
            raise NotFound(f"{model} has had no roll-out")
        return described(found)

    @api.get("/api/models/{model}/rollouts", tags=["roll-outs"])
    def list_rollouts(model: str, limit: Limit = PAGE, before: Before = None) -> Page:
        """List roll-outs, newest first, without their measurements."""
        control.config.model(model)
        found = registry.rollouts.list(model, limit=limit, before=before)
        items = [{key: value for key, value in to_json_values(it).items() if key != "evidence"} for it in found]
        return Page(items=items, next=found[-1].id if len(found) == limit else None)

    @api.delete("/api/models/{model}/rollout", tags=["roll-outs"])
    async def end_trial(request: Request, model: str, body: TrialEnd | None = None) -> dict[str, Any]:
        """End the canary or shadow: the champion answers everything again."""
        control.config.model(model)
        reason = (body or TrialEnd()).reason
        return described(await control.rollouts.end_trial(model, reason, by=actor_of(request.scope)))


def described(rollout: Rollout) -> dict[str, Any]:
    """Return a roll-out as JSON values, with the sum of what its replicas measured instead of what each did."""
    values = to_json_values(rollout)
    del values["evidence"]
    if rollout.mode is RolloutMode.DIRECT:
        return values
    evidence = Evidence.from_stored(rollout.evidence)
    counts = evidence.total
    measured = to_json_values(counts) | {"latency_ratio": counts.latency_ratio}
    del measured["ratios"]
    feedback = to_json_values(evidence.feedback) | {"judges": evidence.feedback.judges}
    return {**values, "measured": measured, "feedback": feedback}
