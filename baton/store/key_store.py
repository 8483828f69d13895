"""The table of API keys. It holds hashes and scopes, never tokens. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import InvalidInput, NotFound
from baton.keys import Key, Scope, digest_of, new_token
from baton.store import database, schema


class KeyStore:
    """Stores API keys in the registry's database. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` if the database does not respond.
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
        """Create a key, and return it with its token, which is not stored and cannot be shown again. Raises ``InvalidInput``.

        ``models``: the models that the key is valid for; None: all models. ``rate``: maximum number of requests per second.
        """
        if not 1 <= len(name.strip()) <= 63:
            raise InvalidInput(f"name: {name!r} is not allowed; give 1 to 63 characters that say who uses the key")
        if not scopes:
            raise InvalidInput(f"a key without a scope allows nothing; give at least one of {', '.join(Scope)}")
        if models is not None and not models:
            raise InvalidInput(
                "a key for an empty list of models allows nothing; name at least one model, or leave the list out to allow all"
            )
        if rate is not None and not rate > 0:
            raise InvalidInput(f"rate: {rate} is not allowed; give a number of requests per second above 0")
        key_id, token = new_token()
        key = Key(
            id=key_id,
            name=name.strip(),
            digest=digest_of(token.encode()),
            scopes=frozenset(scopes),
            models=None if models is None else frozenset(models),
            rate=rate,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        row = {
            **{name: getattr(key, name) for name in ("id", "name", "digest", "rate", "created_at", "expires_at")},
            "scopes": sorted(key.scopes),
            "models": None if key.models is None else sorted(key.models),
        }
        with database.writing(self._engine) as connection:
            connection.execute(schema.api_keys.insert().values(row))
        return key, token

    def all(self) -> list[Key]:
        """Return every key ever created, also revoked and expired ones, newest first."""
        return self._read(schema.api_keys.select())

    def live(self) -> list[Key]:
        """Return all keys that are not revoked, also expired ones, newest first."""
        return self._read(schema.api_keys.select().where(schema.api_keys.c.revoked_at.is_(None)))

    def revoke(self, key_id: str) -> Key:
        """Revoke a key, and return it. Revoking it again changes nothing. Raises ``NotFound``."""
        table = schema.api_keys
        with database.writing(self._engine) as connection:
            unrevoked = sa.and_(table.c.id == key_id, table.c.revoked_at.is_(None))
            connection.execute(table.update().where(unrevoked).values(revoked_at=datetime.now(UTC)))
            row = connection.execute(table.select().where(table.c.id == key_id)).one_or_none()
            if row is None:
                raise NotFound(f"no key {key_id!r}; `baton keys list` shows their ids")
            return _key(row)

    def note_use(self, used: Mapping[str, datetime]) -> None:
        """Store when keys were last used, by key id. A time before the stored one changes nothing."""
        table = schema.api_keys
        with database.writing(self._engine) as connection:
            for key_id, at in sorted(used.items()):  # the same order in every process: no deadlock
                older = sa.or_(table.c.last_used_at.is_(None), table.c.last_used_at < at)
                connection.execute(table.update().where(table.c.id == key_id, older).values(last_used_at=at))

    def _read(self, query: sa.Select[Any]) -> list[Key]:
        with database.reading(self._engine) as connection:
            return [_key(row) for row in connection.execute(query.order_by(schema.api_keys.c.created_at.desc()))]


def _key(row: sa.Row[Any]) -> Key:
    values = dict(row._mapping)
    scopes, models = frozenset(Scope(name) for name in values.pop("scopes")), values.pop("models")
    return Key(**values, scopes=scopes, models=None if models is None else frozenset(models))
