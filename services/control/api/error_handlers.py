"""Errors of routes as problem documents (RFC 9457)."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from baton.errors import BatonError, InvalidInput, MalformedRequest, NotReady
from services.control.api.answers import HEADERS
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane
from services.names import ROUTE


def add_error_handlers(api: FastAPI, control: ControlPlane) -> None:
    """Let ``api`` answer every error as a problem document."""

    @api.exception_handler(BatonError)
    async def handle_baton_error(_: Request, error: BatonError) -> JSONResponse:
        return problem(error.status, error.title, str(error), headers=dict(error.headers))

    @api.exception_handler(Exception)
    async def handle_unexpected_error(_: Request, error: Exception) -> JSONResponse:
        # answered outside of all middleware, also of the one that adds these headers
        return problem(500, BatonError.title, f"internal error ({type(error).__name__})", headers=HEADERS)

    @api.exception_handler(RequestValidationError)
    async def handle_invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = [
            f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']} (got {str(mistake.get('input'))[:60]!r})"
            for mistake in error.errors()
        ]
        malformed = any(mistake["type"] == "json_invalid" for mistake in error.errors())
        error_cls = MalformedRequest if malformed else InvalidInput
        return problem(error_cls.status, error_cls.title, "; ".join(mistakes))

    @api.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, BatonError):  # FastAPI answers 400 to whatever is raised while it reads a body
            return await handle_baton_error(request, error.__cause__)
        path = request.url.path
        detail = f"{error.detail}: {request.method} {path}"
        if path.startswith(f"{ROUTE}/"):  # a model's path ends here while the proxy has no route to its replicas
            name, names = path.split("/")[2], [settings.name for settings in control.config.models]
            if name in names:
                return problem(NotReady.status, NotReady.title, f"{name} is starting; try again", headers={"retry-after": "1"})
            detail = f"unknown model {name!r}; declared models: {', '.join(names)}"
        return problem(error.status_code, str(error.detail).lower(), detail)
