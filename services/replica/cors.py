"""Cross-origin requests (CORS): which web pages of other origins may read answers. None, unless ``serving.cors`` names them.

Source: fetch.spec.whatwg.org, «HTTP CORS protocol». Keys travel in ``Authorization``, which pages set themselves, so that
credentials of the browser are never allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.asgi import Scope, header

ANY = "*"

REQUEST_HEADERS = (
    b"authorization, content-type, content-encoding, inference-header-content-length, "
    b"x-request-id, x-request-timeout-ms, x-baton-key, x-baton-version"
)
ANSWER_HEADERS = (
    b"x-request-id, x-answer-id, x-model-version, x-queue-ms, x-inference-ms, x-abstain, retry-after, "
    b"inference-header-content-length"
)
"""Headers of answers that pages may read, besides those that every page may."""

PREFLIGHT_SECONDS = 600
"""Time for which browsers remember the answer to a preflight request."""


class Cors:
    """The origins that may read answers."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = ANY.encode() in self._origins

    def headers(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers of an answer. Without one that allows the page's origin, browsers do not show it the answer."""
        if not self._origins:
            return ()
        origin = header(scope, b"origin")
        if not self._allows(origin):
            return ((b"vary", b"origin"),)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", ANSWER_HEADERS),
            (b"vary", b"origin"),
        )

    def preflight(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...] | None:
        """Return the headers that answer a browser's question before the request itself; None if this is not one we allow."""
        if not self._origins or scope["method"] != "OPTIONS" or not self._allows(header(scope, b"origin")):
            return None
        method = header(scope, b"access-control-request-method")
        if not method:
            return None
        return (
            (b"access-control-allow-methods", b"GET, HEAD, POST"),
            (b"access-control-allow-headers", REQUEST_HEADERS),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        )

    def _allows(self, origin: bytes) -> bool:
        return origin != b"" and (self._any or origin in self._origins)
