"""The table of API keys: hashes and scopes, never tokens. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import InvalidInput, NotFound
from baton.keys import Key, Scope, digest_of, new_token
from baton.store import database, schema


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
        if models is not None and not models:
            raise InvalidInput("a key for no model opens nothing; name at least one, or none at all for every model")
        if rate is not None and not rate > 0:
            raise InvalidInput(f"rate: {rate} is not allowed; requests per second, above 0")
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
    return Key(**values, scopes=scopes, models=None if models is None else frozenset(models))
