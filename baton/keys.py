"""API keys: what a token looks like, what a key allows, and where keys are kept.

A token is shown once, when its key is made; the database has its SHA-256 and nothing more (docs/adr/0009-api-keys.md).
Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from baton import database, schema
from baton.errors import InvalidInput, NotFound

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


class KeyStore:
    """Keys on the registry's engine; every method is one transaction.

    Any method raises ``RegistryError`` when the database does not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str,
        scopes: Collection[Scope],
        *,
        models: Collection[str] | None = None,
        expires_at: datetime | None = None,
        rate: float | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its token: the only time that anybody sees it. Raises ``InvalidInput``."""
        if not 1 <= len(name.strip()) <= 63:
            raise InvalidInput(f"name: {name!r} is not allowed; 1 to 63 characters that say who uses the key")
        if not scopes:
            raise InvalidInput(f"a key without a scope allows nothing; give at least one of {', '.join(Scope)}")
        if rate is not None and rate <= 0:
            raise InvalidInput(f"rate: {rate} is not allowed; requests per second, above 0")
        key_id, token = new_token()
        key = Key(
            id=key_id,
            name=name.strip(),
            digest=digest_of(token.encode()),
            scopes=frozenset(scopes),
            models=frozenset(models) if models else None,
            rate=rate,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        row = {
            **{name: getattr(key, name) for name in ("id", "name", "digest", "rate", "created_at", "expires_at")},
            "scopes": sorted(key.scopes),
            "models": sorted(key.models) if key.models else None,
        }
        with database.writing(self._engine) as connection:
            connection.execute(schema.api_keys.insert().values(row))
        return key, token

    def all(self) -> list[Key]:
        """Every key that ever was, newest first."""
        return self._read(schema.api_keys.select())

    def live(self) -> list[Key]:
        """The keys that are not revoked; expired ones are among them."""
        return self._read(schema.api_keys.select().where(schema.api_keys.c.revoked_at.is_(None)))

    def revoke(self, key_id: str) -> Key:
        """The key is of no use from now on. Revoking it again changes nothing. Raises ``NotFound``."""
        table = schema.api_keys
        with database.writing(self._engine) as connection:
            unrevoked = sa.and_(table.c.id == key_id, table.c.revoked_at.is_(None))
            connection.execute(table.update().where(unrevoked).values(revoked_at=datetime.now(UTC)))
            row = connection.execute(table.select().where(table.c.id == key_id)).one_or_none()
            if row is None:
                raise NotFound(f"no key {key_id!r}; `baton keys list` shows their ids")
            return _key(row)

    def note_use(self, used: Mapping[str, datetime]) -> None:
        """Remember when keys were last used. A time before the one that is known changes nothing."""
        table = schema.api_keys
        with database.writing(self._engine) as connection:
            for key_id, at in sorted(used.items()):  # in one order everywhere: two that wait for each other's row wait for ever
                older = sa.or_(table.c.last_used_at.is_(None), table.c.last_used_at < at)
                connection.execute(table.update().where(table.c.id == key_id, older).values(last_used_at=at))

    def _read(self, query: sa.Select[Any]) -> list[Key]:
        with database.reading(self._engine) as connection:
            return [_key(row) for row in connection.execute(query.order_by(schema.api_keys.c.created_at.desc()))]


def _key(row: sa.Row[Any]) -> Key:
    values = dict(row._mapping)
    scopes, models = frozenset(Scope(name) for name in values.pop("scopes")), values.pop("models")
    return Key(**values, scopes=scopes, models=frozenset(models) if models else None)
