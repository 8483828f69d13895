"""Forms that came too late, because the session or the process that made their page has ended. What they say is kept.

The fields travel in the pages, not in this process: through the login, and to a page that shows them with a button to send them
again. Only forms of our own pages, as the browser says, are kept: no other site can put words into a reader's mouth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request

from baton.errors import Forbidden
from services.console.gate import HOME, is_console, page_of

MOST_KEPT = 300_000
"""Maximum length of what is kept, in bytes of the form. It grows threefold in the form of the login (`MAX_FORM_BYTES`)."""

FIELD, PATH_FIELD = "kept", "kept_path"
"""Names of the fields of the login that carry a form and where it was sent."""


class StaleForm(Forbidden):
    """A form whose token is not of this process or session."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        super().__init__("this page is too old: load it again, and repeat what you did")
        self.fields = fields


@dataclass(frozen=True, kw_only=True)
class KeptForm:
    """A form to send again."""

    path: str
    """Where it was sent, with the query."""
    body: str
    """Its fields, URL-encoded."""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and values, in their order."""
        return parse_qsl(self.body, keep_blank_values=True)

    @property
    def page(self) -> str:
        """The page that the form is on."""
        return page_of(self.path.partition("?")[0])

    @classmethod
    def of(cls, request: Request, fields: Sequence[tuple[str, str]], token_field: str) -> KeptForm | None:
        """Return a form that one of our pages sent; None for others, and for one that is too long."""
        path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
        body = urlencode([(name, value) for name, value in fields if name != token_field])
        if not _is_ours(request) or page_of(path) == HOME or len(body) > MOST_KEPT:
            return None
        return cls(path=f"{path}?{query}" if query else path, body=body)

    @classmethod
    def carried(cls, path: str, body: str) -> KeptForm | None:
        """Return the form that a login carries; None if it carries none."""
        ours = is_console(path.partition("?")[0]) and path.isprintable() and "\\" not in path
        return cls(path=path, body=body) if ours and page_of(path) != HOME else None


def _is_ours(request: Request) -> bool:
    """Return whether one of our pages sent a request. Over plain HTTP from another machine, browsers say only which origin."""
    site, origin = request.headers.get("sec-fetch-site"), urlsplit(request.headers.get("origin", ""))
    return site == "same-origin" if site is not None else bool(origin.netloc) and origin.netloc == request.headers.get("host")
