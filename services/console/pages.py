"""Renders pages, reads forms, and gives every answer of the console its headers and cookies. Knows no subject of a page."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import ImmutableMultiDict, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from baton import __version__
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, BodyTooLarge, InvalidInput, MalformedRequest, Unauthenticated
from baton.keys import Scope
from baton.store.records import LARGEST_INTEGER, LONGEST_ID
from services.asgi import Send
from services.console.gate import ROOT, Visit, cookie_name, page_of
from services.console.kept import KeptForm, StaleForm
from services.console.language import LANGUAGES, Words, translator
from services.console.sessions import Sessions
from services.control.api.bodies import LONGEST_REASON
from services.control.api.protocol import ControlPlane

VISIT = "baton.visit"
"""Entry of a request's ASGI scope: its `Visit`."""

TOKEN_FIELD = "form_token"
"""Name of the hidden field with the token of `Sessions.form_token`."""

MAX_FORM_BYTES = 2**20
"""Maximum size of a form: far more than a person types, and than a model reads."""

MAX_FIELDS = 1000

STYLES: Sequence[tuple[str, str]] = (("services.report", "report.css"),)
"""Style sheets of other rooms whose HTML our pages contain: package and name of the file."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "vary": "cookie, accept-language",
}
"""Headers of every answer of the console. Its pages load nothing from elsewhere, and contain neither scripts nor styles."""

STATIC_SECONDS = 365 * 86400
"""How long browsers keep a file of `static`: its URL changes with its content."""

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

TABS = (
    ("versions", Words("Versions"), Scope.OPERATE),
    ("playground", Words("Playground"), Scope.PREDICT),
    ("history", Words("History"), Scope.OPERATE),
    ("runs", Words("Runs"), Scope.OPERATE),
    ("review", Words("Review"), Scope.LABEL),
    ("data", Words("Data"), Scope.OPERATE),
)
"""The pages of a model: the end of the path, the words of the link, and the scope of those who see it."""

Form = ImmutableMultiDict[str, str]


class Pages:
    """What the pages of all subjects share."""

    def __init__(self, control: ControlPlane, sessions: Sessions) -> None:
        self.control, self.sessions = control, sessions
        files = [*resources.files("services.console").joinpath("static").iterdir()]
        files += [resources.files(package).joinpath(name) for package, name in STYLES]
        self._files = {file.name: file.read_bytes() for file in files}
        self.environment = Environment(
            loader=PackageLoader("services.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters.update(score=_score, time=_time, duration=_duration, percent=_percent, at=_at)
        self.environment.globals.update(
            static=self._static_url,
            root=ROOT,
            languages=LANGUAGES,
            service_version=__version__,
            token_field=TOKEN_FIELD,
            tabs=TABS,
            styles=["console.css", *(name for _, name in STYLES)],
            longest_reason=LONGEST_REASON,
            Scope=Scope,
        )

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page. ``values``: names for the template, in addition to those that all pages have."""
        visit = visit_of(request)
        content = self.environment.get_template(template).render(
            {
                "model": None,
                "tab": "",
                "here": here(request),
                **values,
                "_": translator(visit.language),
                "visit": visit,
                "model_names": [settings.name for settings in self.visible(visit)] if visit.logged_in else [],
                "form_token": self.sessions.form_token(visit.cookie),
            }
        )
        return HTMLResponse(content, status)

    def refuse(self, request: Request, error: BatonError, kept: KeptForm | None = None) -> HTMLResponse:
        """Return the page that says what is wrong: for somebody without a key, the login, which carries a form on."""
        if isinstance(error, Unauthenticated):
            return self.render(request, "login.html", error.status, problem=None, kept=kept)
        if isinstance(error, StaleForm) and (found := KeptForm.of(request, error.fields, TOKEN_FIELD)) is not None:
            return self.render(request, "again.html", error.status, kept=found)
        answer = self.render(request, "error.html", error.status, title=error.title, problem=str(error))
        answer.headers.update(error.headers)
        return answer

    async def form(self, request: Request) -> Form:
        """Return the fields of a form that one of our pages sent.

        Raises:
            BodyTooLarge: It is longer than `MAX_FORM_BYTES`.
            MalformedRequest: It is not a form.
            RegistryError: The database does not have this code's schema, so that nothing may be written.
            StaleForm: It lacks the token of this browser: a page of another origin sent it, or it is of an older session.
        """
        fields = await self.fields(request)
        form: Form = ImmutableMultiDict(fields)
        if not self.sessions.is_form_token(visit_of(request).cookie, form.get(TOKEN_FIELD, "")):
            raise StaleForm(fields)
        await asyncio.to_thread(self.control.registry.check)
        return form

    @staticmethod
    async def fields(request: Request) -> list[tuple[str, str]]:
        """Return the fields of a form, whoever sent it. Raises ``BodyTooLarge`` and ``MalformedRequest``."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                raise BodyTooLarge(f"the form has more than {MAX_FORM_BYTES:,} bytes")
        try:
            return parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        except ValueError as error:
            raise MalformedRequest("a form is expected (application/x-www-form-urlencoded)") from error

    def settings(self, request: Request) -> ModelSettings:
        """Return the settings of the model in the path. Raises ``NotFound``."""
        return self.control.config.model(request.path_params["model"])

    def visible(self, visit: Visit) -> list[ModelSettings]:
        """Return the models that a visitor may know of."""
        return [settings for settings in self.control.config.models if visit.sees(settings.name)]

    def static(self, request: Request) -> Response:
        """Answer with a file of ``static``."""
        name = request.path_params["name"]
        content = self._files.get(name)
        if content is None:
            return Response(status_code=404)
        headers = {"cache-control": f"public, max-age={STATIC_SECONDS}, immutable"}
        return Response(content, media_type=TYPES["." + name.rpartition(".")[2]], headers=headers)

    def _static_url(self, name: str) -> str:
        return f"{ROOT}/static/{name}?{hashlib.sha256(self._files[name]).hexdigest()[:12]}"


def here(request: Request) -> str:
    """Return where a browser that made this request finds its page again, also if it sent a form."""
    path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
    page = page_of(path)
    return f"{page}?{query}" if query and page == path else page


def visit_of(request: Request) -> Visit:
    """Return who makes a request."""
    visit: Visit = request.scope[VISIT]
    return visit


def see(path: str) -> RedirectResponse:
    """Return the answer to a form that was carried out: the browser loads ``path``, and a reload repeats nothing."""
    return RedirectResponse(path, 303)


def set_cookie(answer: Response, visit: Visit, value: str, name: str | None = None, *, seconds: int | None = None) -> None:
    """Give a browser a cookie that no script can read, and that it sends with our own pages only."""
    answer.set_cookie(
        name or cookie_name(visit.secure),
        value,
        max_age=seconds,
        path="/",
        secure=visit.secure,
        httponly=True,
        samesite="strict",
    )


def with_headers(send: Send, visit: Visit | None) -> Send:
    """Return a `send` that adds `HEADERS`, and the cookie of a browser that has none. None: no cookie."""

    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            kept = "immutable" in headers.get("cache-control", "")
            if visit is not None and visit.new and not kept and not _gives_session(headers, visit):
                holder = Response()
                set_cookie(holder, visit, visit.cookie)
                headers.append("set-cookie", holder.headers["set-cookie"])
        await send(message)

    return send_with_headers


def _gives_session(headers: MutableHeaders, visit: Visit) -> bool:
    return any(given.startswith(f"{cookie_name(visit.secure)}=") for given in headers.getlist("set-cookie"))


def number_of(text: str, what: str) -> int:
    """Return a positive integer that a form or a query has. Raises ``InvalidInput``."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:LONGEST_ID]) <= LARGEST_INTEGER:
        raise InvalidInput(f"{what}: {text[:LONGEST_ID]!r}; a whole number from 1 is expected")
    return int(text)


def time_of(text: str, what: str) -> datetime:
    """Return a time with its offset that a query has. Raises ``InvalidInput``."""
    with suppress(ValueError):
        if (moment := datetime.fromisoformat(text)).tzinfo is not None:
            return moment
    raise InvalidInput(f"{what}: {text[:LONGEST_ID]!r}; a time is expected, as in 2026-01-31T12:00:00+00:00")


def reason_of(form: Form) -> str:
    """Return the reason that a form gives. Raises ``InvalidInput`` if there is none, or it is too long."""
    reason = form.get("reason", "").strip()
    if not reason:
        raise InvalidInput("reason: missing; it stays in the history")
    if len(reason) > LONGEST_REASON:
        raise InvalidInput(f"reason: {len(reason)} characters; at most {LONGEST_REASON} are allowed")
    return reason


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _at(values: Any, place: Sequence[str]) -> Any:
    """Return what stands at a path in nested mappings; None if nothing does."""
    for name in place:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _time(value: datetime | str | None) -> str:
    """Return a time in UTC, to the minute."""
    if value is None:
        return "–"
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{moment:%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
