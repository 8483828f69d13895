"""Checks the API key of each call. One table of rules serves the check, OpenAPI and docs/security.md.

A path that no rule matches needs the scope `operate`: a new route is closed until a rule opens it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from baton.config.file import HttpSettings
from baton.errors import BatonError, Forbidden, NotFound
from baton.keys import ALLOWS, Key, Scope
from services import asgi
from services.asgi import Application, Receive, Send
from services.control.api.problems import problem
from services.control.api.protocol import ControlPlane
from services.names import HEALTH, ROUTE


@dataclass(frozen=True)
class Rule:
    """The scope that a call needs."""

    method: str
    """HTTP method; empty for any."""
    path: str
    """Path in the form of a route: ``{name}`` matches one segment, ``{rest}`` any number of them."""
    scope: Scope | None
    """None: the call is open, with or without a key."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.path).replace(r"\{rest\}", ".*")))

    def matches(self, method: str, path: str) -> bool:
        """Return whether the rule is for this call. What everybody may GET, everybody may ask about with HEAD and OPTIONS."""
        open_to = ("HEAD", "OPTIONS") if self.scope is None else ()
        return method in (self.method or method, *open_to) and self._pattern.fullmatch(path) is not None


PREDICTION_RULES = (
    Rule("", ROUTE + "/{model}", Scope.PREDICT),
    Rule("", ROUTE + "/{model}/{rest}", Scope.PREDICT),
)
"""Rules for paths of models. Replicas enforce the same; calls reach the control plane while the proxy has no route to them."""

RULES = (
    Rule("GET", "/healthz", None),
    Rule("GET", "/readyz", None),
    Rule("GET", "/v2/health/live", None),
    Rule("GET", "/v2/health/ready", None),
    Rule("GET", "/v2", Scope.PREDICT),
    Rule("POST", "/v2/repository/index", Scope.PREDICT),
    Rule("GET", "/metrics", Scope.METRICS),
    Rule("POST", "/api/models/{model}/feedback", Scope.FEEDBACK),
    Rule("DELETE", "/api/models/{model}/feedback/{rest}", Scope.FEEDBACK),
    Rule("", "/api/models/{model}/audit", Scope.LABEL),
    *PREDICTION_RULES,
)
"""Rules of the control plane. The first that matches counts."""

DEFAULT_SCOPE = Scope.OPERATE
"""The scope of every call that no rule matches."""

DOCUMENTED_REPLICA_RULES = (
    Rule("GET", f"{ROUTE}/{{model}}{HEALTH}", None),
    Rule("GET", f"{ROUTE}/{{model}}/v2/health/{{rest}}", None),
    Rule("GET", f"{ROUTE}/{{model}}/v2/models/{{rest}}/ready", None),
    Rule("GET", "/v2/models/{model}/ready", None),
    Rule("GET", "/v2/models/{model}", Scope.PREDICT),
    Rule("POST", "/v2/models/{model}/infer", Scope.PREDICT),
    Rule("POST", "/v1/models/{model}:predict", Scope.PREDICT),
    *PREDICTION_RULES,
)
"""What `services.replica.http` enforces, for the documentation only: every path but health checks needs `Scope.PREDICT`."""

OWNED = re.compile(
    rf"(?:/api/models|{ROUTE})/(?P<model>[^/]+)(?:/.*)?|/api/runs/(?P<run>[^/]+)(?:/.*)?|/api/decisions/(?P<decision>\d{{1,9}})"
)
"""Paths that name a model, or a run or a decision, which belong to a model. Keys may be limited to some models."""


KEY = "baton.key"
"""Entry of a call's ASGI scope: the `Key` that it was made with. Absent if the service needs none."""


def key_of(scope: asgi.Scope) -> Key | None:
    """Return the key that a call was made with; None if the service needs none."""
    key: Key | None = scope.get(KEY)
    return key


def actor_of(scope: asgi.Scope) -> str | None:
    """Return the name of the key that a call was made with, by which the history says who; None if the service needs none."""
    key = key_of(scope)
    return None if key is None else key.name


def required_scope(method: str, path: str) -> Scope | None:
    """Return the scope that a call of the control plane needs; None if the call is open."""
    return next((rule.scope for rule in RULES if rule.matches(method, path)), DEFAULT_SCOPE)


def documented_scope(method: str, path: str) -> Scope | None:
    """Return the scope that a call needs, whether the control plane or a replica answers it."""
    rules = (*DOCUMENTED_REPLICA_RULES, *RULES)
    return next((rule.scope for rule in rules if rule.matches(method, path)), DEFAULT_SCOPE)


class Guard:
    """ASGI middleware that checks the key of every call: to routes, to documentation pages and to unknown paths."""

    def __init__(self, app: Application, control: ControlPlane) -> None:
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
            await send({"type": "websocket.close", "code": 1008})  # the API has no WebSocket routes
            return
        await self._app(scope, receive, send)

    async def _check(self, scope: asgi.Scope) -> None:
        keyring = self._control.keyring
        headers = dict(reversed(scope["headers"]))  # the first of repeated headers counts
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        wanted = required_scope(scope["method"], path)
        if wanted is None:
            return
        if not keyring.required:
            refuse_cross_site_writes(scope["method"], headers)
            if self._control.config.http.loopback:
                refuse_foreign_host_names(headers)
            return
        key = keyring.identify(headers.get(b"authorization", b""))
        named = OWNED.fullmatch(path)
        model = named["model"] if named else None
        if named and model is None and key.models is not None:
            model = await asyncio.to_thread(self._model_of, named["run"], named["decision"])
        keyring.allow(key, wanted, model)
        scope[KEY] = key

    def _model_of(self, run_id: str | None, decision: str | None) -> str:
        registry = self._control.registry
        try:
            return (
                registry.decision(int(decision)).model if run_id is None and decision else registry.runs.get(run_id or "").model
            )
        except NotFound:  # the same answer as for one of another model: a limited key must not learn which ones exist
            what = "decision" if decision else "run"
            raise Forbidden(f"this API key is only for some models, and none of them has such a {what}") from None


def refuse_cross_site_writes(method: str, headers: Mapping[bytes, bytes]) -> None:
    """Raise ``Forbidden`` for a write that a web page of another origin sent.

    Without keys, any page in a browser on this machine could post forms to a service on loopback. Browsers name the origin of a
    request in ``Sec-Fetch-Site`` (Fetch Metadata, W3C); other clients do not send this header.
    """
    origin = headers.get(b"sec-fetch-site", b"none")
    if method not in ("GET", "HEAD") and origin not in (b"none", b"same-origin"):
        raise Forbidden(f"a web page of another origin sent this ({origin.decode('latin-1')}); only Baton's own pages may")


def refuse_foreign_host_names(headers: Mapping[bytes, bytes]) -> None:
    """Raise ``Forbidden`` unless ``Host`` names this machine's loopback.

    The name of a web page may resolve to 127.0.0.1 (DNS rebinding), which makes the page the same origin as the service; the
    browser still sends the page's name in ``Host``.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = host
    if name is not None and not HttpSettings(host=name).loopback:
        raise Forbidden(f"without API keys this service answers as localhost only, not as {name!r} (docs/security.md)")


def describe(api: FastAPI) -> None:
    """Add the scope that each operation needs to the OpenAPI document of ``api``."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        allowed = "; ".join(f"`{scope}`: {text}" for scope, text in ALLOWS.items())
        bearer = {"type": "http", "scheme": "bearer", "description": f"An API key. Scopes: {allowed}."}
        schema.setdefault("components", {})["securitySchemes"] = {"key": bearer}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                scope = documented_scope(method.upper(), path)
                operation["security"] = [] if scope is None else [{"key": [scope.value]}]
        return schema

    setattr(api, "openapi", openapi)  # noqa: B010  FastAPI documents this; mypy refuses to assign to a method


def table() -> str:
    """Return the rules as the Markdown table of docs/security.md."""
    rows = [
        f"| `{rule.method or 'any'} {rule.path.replace('{model}', 'M').replace('{rest}', '…')}` "
        f"| {f'`{rule.scope}`' if rule.scope else 'none: open'} |"
        for rule in (*DOCUMENTED_REPLICA_RULES, *(rule for rule in RULES if rule not in PREDICTION_RULES))
    ]
    return "\n".join(["| call | scope |", "|---|---|", *rows, f"| everything else | `{DEFAULT_SCOPE}` |"])
