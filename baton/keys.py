"""API keys: the form of a token, and the scopes of a key.

A token is shown once, when its key is created. The database stores only its SHA-256 (docs/adr/0009-api-keys.md).
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
"""First part of every token, so that scanners for leaked secrets recognise it in repositories and logs."""

SECRET_BYTES = 32
"""Random bytes in a token."""


class Scope(StrEnum):
    """A group of calls that a key allows. No scope includes another, except that ``operate`` includes ``label``."""

    PREDICT = "predict"
    FEEDBACK = "feedback"
    LABEL = "label"
    OPERATE = "operate"
    METRICS = "metrics"


ALLOWS: Mapping[Scope, str] = {
    Scope.PREDICT: "ask models, and read what a model is (`/info`)",
    Scope.FEEDBACK: "send corrections",
    Scope.LABEL: "read what the audit asks people to label, and label it: such labels judge versions",
    Scope.OPERATE: "read everything in the control API, and change it: label, train, promote, roll back, pause",
    Scope.METRICS: "read `/metrics`",
}
"""What each scope allows. This text appears in the documentation, in OpenAPI and in the help of the command line."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One API key."""

    id: str
    """Public part of the token."""
    name: str
    """Who or what uses the key."""
    digest: bytes = field(repr=False)
    """SHA-256 of the token; see `digest_of`."""
    scopes: frozenset[Scope]
    models: frozenset[str] | None
    """Models that the key is valid for; None: all models."""
    rate: float | None
    """Maximum number of requests per second; None: no limit."""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Return whether the key allows the calls of ``scope``."""
        return scope in self.scopes or (scope is Scope.LABEL and Scope.OPERATE in self.scopes)

    def expired(self, now: datetime) -> bool:
        """Return whether the key has expired."""
        return self.expires_at is not None and self.expires_at <= now


def new_token() -> tuple[str, str]:
    """Return the public id of a new key, and its secret token: ``baton_ID_SECRET``, where SECRET has 256 random bits."""
    key_id = secrets.token_hex(6)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"


def id_of(token: bytes) -> str:
    """Return the key id in a token; empty if it does not have the form of Baton's tokens."""
    prefix, _, rest = token.partition(b"_")
    key_id, _, secret = rest.partition(b"_")
    return key_id.decode("latin-1") if prefix == PREFIX.encode() and secret else ""


def digest_of(token: bytes) -> bytes:
    """Return the digest under which a token is stored.

    It is one round of SHA-256 without salt. A token has 256 random bits and cannot be guessed from a dictionary; a slow hash
    would only slow down every request (NIST SP 800-63B, 5.1.2.2, requires one only for secrets below 112 bits).
    """
    return hashlib.sha256(token).digest()
