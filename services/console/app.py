"""Puts the console together: its pages, its gate, its errors. It stands in front of the API and takes its own paths."""

from __future__ import annotations

import logging
from dataclasses import replace
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from baton.errors import BatonError, Conflict, NotFound, Unauthenticated
from services.asgi import Application, Receive, Scope, Send
from services.bodies import timely
from services.console.comparison import comparison_routes
from services.console.data import data_routes
from services.console.dataset_changes import change_routes
from services.console.gate import HOME, ROOT, Gate, is_console
from services.console.kept import FIELD, PATH_FIELD, KeptForm
from services.console.language import LANGUAGE_COOKIE, LANGUAGES
from services.console.moves import move_routes
from services.console.overview import overview_routes
from services.console.pages import TOKEN_FIELD, VISIT, Pages, here, see, set_cookie, visit_of, with_headers
from services.console.playground import playground_routes
from services.console.review import review_routes
from services.console.runs import run_routes
from services.console.sessions import Sessions, new_cookie
from services.console.versions import version_routes
from services.control.api.protocol import ControlPlane
from services.control.control_metrics import ControlMetrics

logger = logging.getLogger("ray.serve")

LANGUAGE_SECONDS = 365 * 86400
"""How long a browser remembers the language."""

REPEAT = HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0"><title>Baton</title>')
"""A page that loads itself again, for whoever followed a link of another site: browsers then hold the cookie back, and would
take a new one for it. The second request comes from our own page, and has the cookie (``SameSite=Strict``).
"""


class Console:
    """ASGI middleware that answers the console's pages and passes every other call on."""

    def __init__(self, app: Application, control: ControlPlane, metrics: ControlMetrics) -> None:
        self._app = app
        self._sessions = Sessions()
        self._pages = Pages(control, self._sessions)
        self._gate = Gate(control, self._sessions)
        self._keyring = control.keyring
        self._answer = Starlette(
            routes=[
                Route(f"{ROOT}/static/{{name}}", self._pages.static, methods=["GET"]),
                Route(f"{ROOT}/login", self._log_in, methods=["POST"]),
                Route(f"{ROOT}/logout", self._log_out, methods=["POST"]),
                Route(f"{ROOT}/language", self._choose_language, methods=["POST"]),
                *overview_routes(self._pages),
                *version_routes(self._pages),
                *comparison_routes(self._pages),
                *playground_routes(self._pages, metrics),
                *move_routes(self._pages),
                *run_routes(self._pages),
                *review_routes(self._pages, metrics),
                *data_routes(self._pages),
                *change_routes(self._pages),
            ],
            exception_handlers={
                BatonError: self._refuse,
                HTTPException: self._refuse,
                Exception: self._fail,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_console(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        visit = scope[VISIT] = self._gate.visit(request)
        if visit.new and request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
            await REPEAT(scope, receive, with_headers(send, None))
            return
        send = with_headers(send, visit)
        try:
            self._gate.admit(request, visit)
        except BatonError as error:
            kept = await self._kept(Request(scope, timely(receive)), error)
            await self._pages.refuse(request, error, kept)(scope, receive, send)
            return
        await self._answer(scope, timely(receive), send)

    async def _kept(self, request: Request, error: BatonError) -> KeptForm | None:
        """Return the form of somebody whose session has ended."""
        if request.method != "POST" or not isinstance(error, Unauthenticated):
            return None
        try:
            return KeptForm.of(request, await self._pages.fields(request), TOKEN_FIELD)
        except (BatonError, ClientDisconnect):  # it is not of our pages, or not whole
            return None

    async def _log_in(self, request: Request) -> Response:
        visit = visit_of(request)
        form = await self._pages.form(request)
        kept = KeptForm.carried(form.get(PATH_FIELD, ""), form.get(FIELD, ""))
        token = form.get("key", "").strip()
        try:
            key = self._keyring.identify(f"Bearer {token}".encode("utf-8", "replace"))
        except Unauthenticated as error:
            page = _own(form.get("next", ""))
            return self._pages.render(request, "login.html", error.status, problem=str(error), here=page, kept=kept)
        self._sessions.end(visit.cookie)
        visit = request.scope[VISIT] = replace(visit, cookie=self._sessions.begin(key.id, token), key=key, token=token)
        if kept is not None:
            answer: Response = self._pages.render(request, "again.html", here=kept.page, kept=kept)
        else:
            answer = see(_own(form.get("next", "")))
        set_cookie(answer, visit, visit.cookie)
        logger.info("console: API key %s (%s) logged in", key.id, key.name)
        return answer

    async def _log_out(self, request: Request) -> Response:
        await self._pages.form(request)
        visit = visit_of(request)
        self._sessions.end(visit.cookie)
        answer = see(HOME)
        set_cookie(answer, visit, new_cookie())
        return answer

    async def _choose_language(self, request: Request) -> Response:
        form = await self._pages.form(request)
        answer = see(_own(form.get("next", "")))
        if form.get("language") in LANGUAGES:
            set_cookie(answer, visit_of(request), form["language"], LANGUAGE_COOKIE, seconds=LANGUAGE_SECONDS)
        return answer

    async def _refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            if error.status_code == 405 and request.method == "GET" and (page := here(request)) != request.scope["path"]:
                return see(page)  # somebody opened the path of a form, perhaps from the browser's history
            error = NotFound("there is no such page") if error.status_code == 404 else Conflict(str(error.detail))
        assert isinstance(error, BatonError)
        return self._pages.refuse(request, error)

    async def _fail(self, request: Request, error: Exception) -> Response:
        return self._pages.render(
            request, "error.html", 500, title=BatonError.title, problem=f"internal error ({type(error).__name__})"
        )


def _own(path: str) -> str:
    """Return where a form wants to go next if this is a page of the console, else its first page."""
    parts = urlsplit(path)
    ours = not parts.scheme and not parts.netloc and is_console(parts.path) and "\\" not in path
    return path if ours and path.isprintable() else HOME
