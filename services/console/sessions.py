"""Who has logged in: opaque cookies, and the tokens that forms carry. In the memory of this process only.

A restart of the control plane ends all sessions. A session holds the API key itself, because the console asks models with it;
the browser never gets it back. Knows no paths and no pages.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

SESSION_SECONDS = 12 * 3600.0
"""Time after which a session ends, however much it is used: a working day."""

MOST_SESSIONS = 1000
"""Number of sessions that are kept. With one more, the oldest ends."""

COOKIE_BYTES = 32
"""Random bytes in a cookie, which is what whoever steals a session would have to guess."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One login."""

    key_id: str
    token: str = field(repr=False)
    """The API key that was entered."""
    ends_at: float
    """In seconds of the clock of `Sessions`."""


class Sessions:
    """The sessions of one process. Used on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self, key_id: str, token: str) -> str:
        """Begin a session and return its cookie: a new one, so that nobody can have planted it before the login."""
        cookie = new_cookie()
        self._open[_digest(cookie)] = Session(key_id=key_id, token=token, ends_at=self._clock() + SESSION_SECONDS)
        if len(self._open) > MOST_SESSIONS:
            self._open.popitem(last=False)
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if there is none, or it has ended."""
        session = self._open.get(_digest(cookie))
        if session is not None and session.ends_at <= self._clock():
            self.end(cookie)
            return None
        return session

    def end(self, cookie: str) -> None:
        """End the session of a cookie, if it has one."""
        self._open.pop(_digest(cookie), None)

    def form_token(self, cookie: str) -> str:
        """Return the token that forms of this browser must carry: a page of another origin can read neither it nor the cookie.

        It is bound to the cookie by an HMAC, so that a cookie planted by a neighbouring host has no known token (OWASP's signed
        double-submit cookie).
        """
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, cookie: str, token: str) -> bool:
        """Return whether a form came from a page of this browser."""
        return hmac.compare_digest(self.form_token(cookie).encode(), token.encode())


def new_cookie() -> str:
    """Return a random value for the cookie of a browser."""
    return secrets.token_urlsafe(COOKIE_BYTES)


def _digest(cookie: str) -> bytes:
    """Return the key under which a session is kept: a lookup by the cookie itself could be timed."""
    return hashlib.sha256(cookie.encode()).digest()
