"""Routes that probes call: whether the control plane is alive, and whether the service is ready."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from baton import __version__
from baton.errors import NotReady
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane


def add_health(api: FastAPI, control: ControlPlane) -> None:
    """Add ``/healthz`` and ``/readyz``."""

    allow_probes(api, "/healthz", "/readyz")

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Answer 200 while the control plane is alive."""
        return {"status": "ok", "version": __version__}

    @api.head("/readyz", include_in_schema=False)
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


def allow_probes(api: FastAPI, *paths: str) -> None:
    """Answer OPTIONS on paths of health checks, which allow GET and HEAD, too."""

    async def allowed() -> Response:
        return Response(status_code=204, headers={"allow": "GET, HEAD, OPTIONS"})

    for path in paths:
        api.add_api_route(path, allowed, methods=["OPTIONS"], include_in_schema=False)
