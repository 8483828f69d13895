"""Which API key each call needs: one table, for the check in front of every route, for OpenAPI and for the documentation.

A path that the table does not know needs the scope `operate`: a new route is closed until somebody opens it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

from fastapi import FastAPI

from baton.config.file import BatonConfig, HttpSettings
from baton.errors import BatonError, Forbidden, NotFound
from baton.keys import ALLOWS, Scope
from baton.store.registry import Registry
from services import asgi
from services.asgi import Application, Receive, Send
from services.control.api.problems import problem
from services.keyring import Keyring
from services.names import HEALTH, ROUTE


@dataclass(frozen=True)
class Rule:
    """What calls of ``method`` (empty: any) to ``path``, written as routes are, need: a scope, or None for nothing."""

    method: str
    path: str
    scope: Scope | None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.path).replace(r"\{rest\}", ".*")))

    def fits(self, method: str, path: str) -> bool:
        """Whether it is about this call."""
        return self.method in ("", method) and self._pattern.fullmatch(path) is not None


CONTROL = (
    Rule("GET", "/healthz", None),
    Rule("GET", "/readyz", None),
    Rule("GET", "/metrics", Scope.METRICS),
    Rule("POST", "/api/models/{model}/feedback", Scope.FEEDBACK),
    # Models that the proxy does not know, or does not know yet: what their replicas would ask for.
    Rule("", ROUTE + "/{model}", Scope.PREDICT),
    Rule("", ROUTE + "/{model}/{rest}", Scope.PREDICT),
)
"""Rules of the control plane; the first that fits counts."""

OTHERWISE = Scope.OPERATE

REPLICAS = (Rule("GET", f"{ROUTE}/{{model}}{HEALTH}", None), *CONTROL[-2:])
"""What replicas do, for the documentation: all but `HEALTH` needs `Scope.PREDICT`."""

ABOUT = re.compile(rf"(?:/api/models|{ROUTE})/(?P<model>[^/]+)(?:/.*)?|/api/runs/(?P<run>[^/]+)(?:/.*)?")
"""Paths that name a model, or a run, which belongs to one."""


class Control(Protocol):
    """What the check needs of the control plane."""

    config: BatonConfig
    registry: Registry
    keyring: Keyring


def needed(method: str, path: str) -> Scope | None:
    """The scope that a call of the control plane needs; None: it is open to everybody."""
    return next((rule.scope for rule in CONTROL if rule.fits(method, path)), OTHERWISE)


class Guard:
    """ASGI middleware in front of the control API: routes, documentation pages and paths that do not exist alike."""

    def __init__(self, app: Application, control: Control) -> None:
        self._app, self._control = app, control

    async def __call__(self, scope: asgi.Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._check(scope)
            except BatonError as error:
                answer = problem(error.status, error.title, str(error), headers=dict(error.headers))
                await answer(scope, receive, send)
                return
        elif scope["type"] == "websocket" and self._control.keyring.required:
            await send({"type": "websocket.close", "code": 1008})  # no route of ours is one
            return
        await self._app(scope, receive, send)

    async def _check(self, scope: asgi.Scope) -> None:
        keyring = self._control.keyring
        headers = dict(reversed(scope["headers"]))  # of several, the first
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        wanted = needed(scope["method"], path)
        if wanted is None:
            return
        if not keyring.required:
            _refuse_other_pages(scope["method"], headers)
            if self._control.config.http.loopback:
                _refuse_other_names(headers)
            return
        key = keyring.identify(headers.get(b"authorization", b""))
        about = ABOUT.fullmatch(path)
        model = about["model"] if about else None
        if about and about["run"] and key.models is not None:
            model = await asyncio.to_thread(self._model_of, about["run"])
        keyring.allow(key, wanted, model)

    def _model_of(self, run_id: str) -> str:
        try:
            return self._control.registry.runs.get(run_id).model
        except NotFound:  # for one who may see some runs only, a run that is not there is like another model's
            raise Forbidden("this API key is only for some models, and none of them has such a run") from None


def _refuse_other_pages(method: str, headers: Mapping[bytes, bytes]) -> None:
    """Where no key is asked for, any web page in a browser on this machine could send forms to a service on loopback. Browsers
    say where a request comes from (Fetch Metadata, W3C); everything else does not send this header.
    """
    origin = headers.get(b"sec-fetch-site", b"none")
    if method not in ("GET", "HEAD") and origin not in (b"none", b"same-origin"):
        raise Forbidden(f"a web page of another origin sent this ({origin.decode('latin-1')}); only Baton's own pages may")


def _refuse_other_names(headers: Mapping[bytes, bytes]) -> None:
    """A page's own name may point to 127.0.0.1 (DNS rebinding), which makes it the same origin; its name stays in ``Host``."""
    host = headers.get(b"host", b"").decode("latin-1")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = host
    if name is not None and not HttpSettings(host=name).loopback:
        raise Forbidden(f"without API keys this service answers as localhost only, not as {name!r} (docs/security.md)")


def describe(api: FastAPI) -> None:
    """Let OpenAPI say which scope each operation needs."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        allowed = "; ".join(f"`{scope}`: {text}" for scope, text in ALLOWS.items())
        bearer = {"type": "http", "scheme": "bearer", "description": f"An API key. Scopes: {allowed}."}
        schema.setdefault("components", {})["securitySchemes"] = {"key": bearer}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                scope = needed(method.upper(), path)
                operation["security"] = [] if scope is None else [{"key": [scope.value]}]
        return schema

    setattr(api, "openapi", openapi)  # noqa: B010  as FastAPI's documentation has it; mypy takes it for a mistake


def table() -> str:
    """The rules in Markdown, as docs/security.md has them."""
    rows = [
        f"| `{rule.method or 'any'} {rule.path.replace('{model}', 'M').replace('{rest}', '…')}` "
        f"| {f'`{rule.scope}`' if rule.scope else 'none: open'} |"
        for rule in (*REPLICAS, *CONTROL[:-2])
    ]
    return "\n".join(["| call | scope |", "|---|---|", *rows, f"| everything else | `{OTHERWISE}` |"])
