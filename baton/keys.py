"""API keys: what a token looks like, and what a key allows.

A token is shown once, when its key is made; the database has its SHA-256 and nothing more (docs/adr/0009-api-keys.md).
Knows neither HTTP nor the database.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

PREFIX = "baton"
"""First part of every token: those who search repositories and logs for secrets can recognise one."""

SECRET_BYTES = 32


class Scope(StrEnum):
    """A kind of call that a key may make. No scope includes another."""

    PREDICT = "predict"
    FEEDBACK = "feedback"
    OPERATE = "operate"
    METRICS = "metrics"


ALLOWS: Mapping[Scope, str] = {
    Scope.PREDICT: "ask models, and read what a model is (`/info`)",
    Scope.FEEDBACK: "send corrections",
    Scope.OPERATE: "read everything in the control API, and change it: train, promote, roll back, pause",
    Scope.METRICS: "read `/metrics`",
}
"""What each scope is for, in the words of the documentation, of OpenAPI and of the command line."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One API key. ``models``: the only ones it is for; None: all. ``rate``: requests per second, None: without limit."""

    id: str
    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    models: frozenset[str] | None
    rate: float | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


def new_token() -> tuple[str, str]:
    """A key's id, which is public, and its token, which is not: ``baton_ID_SECRET`` with 256 random bits."""
    key_id = secrets.token_hex(6)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"


def id_of(token: bytes) -> str:
    """The id that a token names; empty where it is none of ours."""
    prefix, _, rest = token.partition(b"_")
    key_id, _, secret = rest.partition(b"_")
    return key_id.decode("latin-1") if prefix == PREFIX.encode() and secret else ""


def digest_of(token: bytes) -> bytes:
    """What is kept of a token.

    One round of SHA-256 without salt: a token has 256 random bits, so that there is no dictionary to try, and a hash made
    slow on purpose would only slow down every request (NIST SP 800-63B, 5.1.2.2, asks for it below 112 bits).
    """
    return hashlib.sha256(token).digest()
