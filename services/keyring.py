"""The API keys as one process knows them: a copy in memory, renewed in the background, and the rate of each key.

No request waits for the database: it decides by the last copy, also while the database is down. Rates are counted here,
so that a key may make its rate at every replica. Knows no paths and no frameworks.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from baton.errors import BatonError, Forbidden, NotReady, OverRate, Unauthenticated
from baton.keys import Key, Scope, digest_of, id_of
from baton.store.key_store import KeyStore

logger = logging.getLogger("ray.serve")

NOTE_USE = timedelta(minutes=1)
"""How exact `last_used_at` is: a process writes it at most this often for each key."""

NOBODY = bytes(32)
"""Compared with where no key has the id, so that this takes as long as a wrong secret."""


@dataclass
class Bucket:
    """A token bucket: filled with ``rate`` tokens a second up to one second's worth, but room for one at least."""

    rate: float
    tokens: float
    at: float

    @classmethod
    def full(cls, rate: float, now: float) -> Bucket:
        """A bucket that nobody has taken from; ``now`` in seconds, as in `take`."""
        return cls(rate, max(1.0, rate), now)

    def take(self, now: float) -> float:
        """Take one token and return 0, or the seconds until there is one."""
        self.tokens = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return 0.0


class Keyring:
    """``required``: whether anybody is asked for a key at all. Requests belong to one event loop; `refresh` to any thread."""

    def __init__(self, store: KeyStore, *, required: bool) -> None:
        self.required = required
        self._store = store
        self._keys: Mapping[str, Key] | None = None
        self._buckets: dict[str, Bucket] = {}
        self._used: dict[str, datetime] = {}
        self._noted: dict[str, datetime] = {}

    # --- requests ----------------------------------------------------------------------------------------------------

    def admit(self, authorization: bytes, scope: Scope, model: str | None) -> None:
        """Let a request pass that has this ``Authorization`` header and is about ``model``, or about none.

        Raises:
            Unauthenticated, Forbidden, OverRate: it does not pass.
            NotReady: the keys have never been read yet.
        """
        if self.required:
            key = self.identify(authorization)
            self.allow(key, scope, model)

    def reason_if_authorised(self, authorization: bytes, reason: str) -> str:
        """``reason`` for whoever has a valid key: it may name models and files. Health checks are open to everybody."""
        try:
            if self.required:
                self.identify(authorization)
        except BatonError:
            return "not ready; send an API key to be told why"
        return reason

    def identify(self, authorization: bytes) -> Key:
        """The key of an ``Authorization`` header."""
        if self._keys is None:
            raise NotReady("the API keys cannot be read yet: the database does not answer")
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token:
            raise Unauthenticated(
                "an API key is needed: send it as `Authorization: Bearer KEY`; `baton keys create` makes one", sent=False
            )
        key = self._keys.get(id_of(token))
        # In constant time: an answer must not tell how much of a guess was right.
        right = hmac.compare_digest(digest_of(token), key.digest if key is not None else NOBODY)
        if key is None or not right:
            raise Unauthenticated("this API key is not valid: it is unknown or was revoked", sent=True)
        now = datetime.now(UTC)
        if key.expired(now):
            raise Unauthenticated(f"API key {key.id} expired at {key.expires_at:%Y-%m-%d %H:%M} UTC", sent=True)
        self._used[key.id] = now
        return key

    def allow(self, key: Key, scope: Scope, model: str | None) -> None:
        """Whether ``key`` may make a call of this kind now."""
        if scope not in key.scopes:
            has = ", ".join(sorted(key.scopes))
            raise Forbidden(
                f"API key {key.id} lacks the scope {scope.value!r}, which this call needs; it has: {has}", scope=scope
            )
        if key.models is not None and model not in key.models:
            about = f"not for {model!r}" if model is not None else "and this call is not about one model"
            raise Forbidden(f"API key {key.id} is only for {', '.join(sorted(key.models))}, {about}")
        if key.rate is not None:
            now = time.monotonic()
            bucket = self._buckets.get(key.id) or self._buckets.setdefault(key.id, Bucket.full(key.rate, now))
            wait = bucket.take(now)
            if wait:
                raise OverRate(f"API key {key.id} may make {key.rate:g} requests per second", retry_after=math.ceil(wait))

    # --- the copy ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the keys anew, and tell the database which were used. Raises ``RegistryError``: the old copy stays."""
        self._keys = {key.id: key for key in self._store.live()}
        used, self._used = self._used, {}
        fresh = {
            key_id: at for key_id, at in dict(used).items() if key_id not in self._noted or at - self._noted[key_id] >= NOTE_USE
        }
        try:
            self._store.note_use(fresh)
        except BatonError:
            self._used = {**used, **self._used}
            raise
        self._noted.update(fresh)

    async def try_refresh(self) -> None:
        """`refresh`, if keys are asked for, whatever goes wrong."""
        if not self.required:
            return
        try:
            await asyncio.to_thread(self.refresh)
        except BatonError as error:
            logger.warning("API keys: the last known ones go on: %s", error)
        except Exception:
            logger.exception("API keys: reading them failed")

    async def refresh_forever(self, seconds: float) -> None:
        """`catch_up` every so often, for ever."""
        while self.required:
            await asyncio.sleep(seconds)
            await self.try_refresh()
