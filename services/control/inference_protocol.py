"""The Open Inference Protocol at the root of the service: what it is, whether it is ready, and which models it has.

Paths that name a model do not come here: HAProxy sends them to the model's replicas (`services.host.haproxy`).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from services.control.api.health import allow_probes
from services.control.api.protocol import ControlPlane
from services.open_inference import repository_index, server_metadata


def add_inference_protocol(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes below ``/v2`` that name no model."""

    @api.get("/v2", tags=["open inference protocol"])
    async def metadata() -> dict[str, Any]:
        """Return the server's name, version and extensions."""
        return server_metadata()

    allow_probes(api, "/v2/health/live", "/v2/health/ready")

    @api.head("/v2/health/live", include_in_schema=False)
    @api.get("/v2/health/live", tags=["open inference protocol"])
    async def live() -> dict[str, bool]:
        """Answer 200 while the control plane is alive."""
        return {"live": True}

    @api.head("/v2/health/ready", include_in_schema=False)
    @api.get("/v2/health/ready", tags=["open inference protocol"])
    async def ready() -> JSONResponse:
        """Answer 200 when every declared model that has a champion answers with it, 503 otherwise."""
        is_ready = not await control.unready()
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    @api.post("/v2/repository/index", tags=["open inference protocol"])
    async def index(request: Request) -> list[dict[str, str]]:
        """List all declared models with the version that serves."""
        models = {}
        for settings in control.config.models:
            states = await control.rollouts.states(settings.name)
            serving = [state.version for state in states if state.version is not None]
            reasons = [state.error for state in states if state.error is not None]
            models[settings.name] = (max(serving, default=None), next(iter(reasons), "no replica has a version"))
        return repository_index(await request.body(), models)
