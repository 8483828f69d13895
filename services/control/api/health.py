"""Routes that probes call: whether the control plane is alive, and whether the service is ready."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from baton import __version__
from baton.errors import NotReady
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane


def add_health(api: FastAPI, control: ControlPlane) -> None:
    """Add ``/healthz`` and ``/readyz``."""

    @api.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Answer 200 while the control plane is alive."""
        return {"status": "ok", "version": __version__}

    @api.get("/readyz", tags=["health"])
    async def readyz(request: Request) -> JSONResponse:
        """Answer 200 when every declared model that has a champion answers with it, 503 otherwise.

        Without a valid key the 503 does not name its reasons.
        """
        reasons = await control.unready()
        if reasons:
            authorization = request.headers.get("authorization", "").encode("latin-1")
            detail = control.keyring.reason_if_authorised(authorization, "; ".join(reasons))
            return problem(NotReady.status, NotReady.title, detail, headers={"retry-after": "1"})
        return JSONResponse({"status": "ready"})
