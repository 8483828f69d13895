"""Errors of routes as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from baton.errors import BatonError, InvalidInput, MalformedRequest, NotReady
from baton.validation import not_allowed, short_repr, unknown_key
from services.control.api.answers import HEADERS
from services.control.api.bodies import Body
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
    async def handle_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = [_explain(mistake, request.scope["route"]) for mistake in error.errors()]
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


def _explain(mistake: Mapping[str, Any], route: APIRoute) -> str:
    """Return what is wrong with a request: its place, the value, and what is allowed. Keys of the body are named alone."""
    place, *keys = mistake["loc"]
    key = ".".join(str(part) for part in ([*keys] if place == "body" and keys else [place, *keys]))
    match mistake["type"]:
        case "json_invalid":
            return f"the body is not JSON: {mistake['ctx']['error']} at character {keys[0]}"
        case "missing":
            return f"{key}: missing; it has no default"
        case "extra_forbidden":
            return f"{key}: {unknown_key(str(keys[-1]), _known_keys(route))}"
    if isinstance(mistake["input"], Mapping) and keys == []:  # a validator of the whole body: its message names the key
        return str(mistake["msg"]).removeprefix("Value error, ")
    return f"{key}: {not_allowed(short_repr(mistake['input']), mistake['msg'])}"


def _known_keys(route: APIRoute) -> Sequence[str]:
    """Return the keys that the body of a route's requests may have."""
    annotation = route.body_field.field_info.annotation if route.body_field is not None else None
    bodies = [it for it in (annotation, *get_args(annotation)) if isinstance(it, type) and issubclass(it, Body)]
    return [key for body in bodies for key in body.model_fields]
