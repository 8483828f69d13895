"""Who may see a page: reads the cookies of a request, and checks the key of its session as the API's guard checks a header.

A page that no rule opens needs the scope `operate`. Knows the paths of all pages; renders nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

from baton.errors import BatonError, Unauthenticated
from baton.keys import Key, Scope
from services.console.language import LANGUAGE_COOKIE, chosen_language
from services.console.sessions import Sessions, new_cookie
from services.control.api.guard import DEFAULT_SCOPE, Rule, refuse_cross_site_writes, refuse_foreign_host_names
from services.control.api.protocol import ControlPlane
from services.report.words import Language

HOME = "/"
ROOT = "/console"
"""The path below which all other pages are."""

COOKIE = "baton_console"
"""Name of the session's cookie. Over HTTPS it has the prefix ``__Host-``: no other host can then set it (RFC 6265bis)."""

OPEN = (
    Rule("GET", ROOT + "/static/{rest}", None),
    Rule("POST", ROOT + "/login", None),
    Rule("POST", ROOT + "/language", None),
)
"""What needs no key."""

RULES = (
    Rule("GET", HOME, None),
    Rule("POST", ROOT + "/logout", None),
    Rule("GET", ROOT + "/models/{model}", None),
    Rule("", ROOT + "/models/{model}/playground", Scope.PREDICT),
    Rule("POST", ROOT + "/models/{model}/feedback", Scope.FEEDBACK),
    Rule("", ROOT + "/models/{model}/review", Scope.LABEL),
)
"""Scopes of pages; the first that matches counts. None: any valid key, and the page shows what this key may see."""

OWNED = re.compile(rf"{ROOT}/models/(?P<model>[^/]+)(?:/.*)?")
"""Paths that name a model."""


FORMS = (
    (re.compile(rf"({ROOT}/models/[^/]+)/feedback"), r"\1/playground"),
    (re.compile(rf"({ROOT}/models/[^/]+/runs/[^/]+)/cancel"), r"\1"),
    (re.compile(rf"{ROOT}/(?:login|logout|language)"), HOME),
)
"""Paths that only take forms, each with the page that the form is on."""


def page_of(path: str) -> str:
    """Return the page of a path that only takes forms; any other path is a page itself."""
    return next((found.expand(page) for form, page in FORMS if (found := form.fullmatch(path))), path)


def is_console(path: str) -> bool:
    """Return whether a path belongs to the console."""
    return path in (HOME, ROOT) or path.startswith(f"{ROOT}/")


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One request of a browser: who makes it, and in which language."""

    cookie: str
    """Value of the session's cookie; a new one if the browser sent none."""
    new: bool
    """Whether the browser has yet to be given the cookie."""
    secure: bool
    """Whether the browser came over HTTPS, as far as the proxy in front says."""
    language: Language
    keys_required: bool
    key: Key | None = None
    """The key of the session; None before the login, and where no keys are required."""
    token: str | None = None
    """The same as the text that was entered, to ask models with."""

    @property
    def logged_in(self) -> bool:
        """Whether pages may be shown."""
        return self.key is not None or not self.keys_required

    def may(self, scope: Scope, model: str | None = None) -> bool:
        """Return whether this visitor may make calls of ``scope``, about ``model`` if given."""
        if self.key is None:
            return not self.keys_required
        return self.key.allows(scope) and (model is None or self.key.models is None or model in self.key.models)

    def sees(self, model: str) -> bool:
        """Return whether this visitor may know of a model."""
        return self.key is None or self.key.models is None or model in self.key.models


class Gate:
    """Reads visits, and refuses those that may not see a page."""

    def __init__(self, control: ControlPlane, sessions: Sessions) -> None:
        self._control, self._sessions = control, sessions

    def visit(self, request: Request) -> Visit:
        """Return who makes a request. Never raises: a session whose key is gone is no session."""
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
        sent = request.cookies.get(cookie_name(secure), "")
        key, token = self._identify(sent)
        return Visit(
            cookie=sent or new_cookie(),
            new=not sent,
            secure=secure,
            language=chosen_language(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", "")),
            keys_required=self._control.keyring.required,
            key=key,
            token=token,
        )

    def _identify(self, cookie: str) -> tuple[Key | None, str | None]:
        session = self._sessions.find(cookie) if cookie and self._control.keyring.required else None
        if session is None:
            return None, None
        try:
            return self._control.keyring.recall(session.key_id), session.token
        except BatonError:
            return None, None

    def admit(self, request: Request, visit: Visit) -> None:
        """Return if the visitor may see this page.

        Raises:
            Unauthenticated: Nobody has logged in.
            Forbidden: The key lacks the scope or is for other models; or, without keys, the request is from another origin.
            OverRate: The key has used up its rate.
        """
        method, keyring = request.method, self._control.keyring
        path = request.scope["path"]  # not that of `request.url`, into which the Host header goes
        if not keyring.required:
            headers = dict(reversed(request.headers.raw))
            refuse_cross_site_writes(method, headers)
            if self._control.config.http.loopback:
                refuse_foreign_host_names(headers)
            return
        if any(rule.matches(method, path) for rule in OPEN):
            return
        if visit.key is None:
            raise Unauthenticated("log in with an API key", sent=False)
        wanted = next((rule.scope for rule in RULES if rule.matches(method, path)), DEFAULT_SCOPE)
        if wanted is not None:
            named = OWNED.fullmatch(path)
            keyring.allow(visit.key, wanted, named["model"] if named else None)


def cookie_name(secure: bool) -> str:
    """Return the name of the session's cookie."""
    return f"__Host-{COOKIE}" if secure else COOKIE


def table() -> str:
    """Return the rules as the Markdown table of docs/security.md."""
    rows = [
        f"| `{rule.method or 'any'} {rule.path.replace('{model}', 'M').replace('{rest}', '…')}` | {needs} |"
        for rules, otherwise in ((OPEN, "none: open"), (RULES, "any valid key"))
        for rule in rules
        for needs in [f"`{rule.scope}`" if rule.scope else otherwise]
    ]
    return "\n".join(["| page | scope |", "|---|---|", *rows, f"| everything else below `{ROOT}` | `{DEFAULT_SCOPE}` |"])
