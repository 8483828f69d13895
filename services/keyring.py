"""The API keys in the memory of one process: a copy that is refreshed in the background, and the rate limit of each key.

A request is checked against the copy and never waits for the database, so keys also work while the database is down. Each
process limits the rate on its own: a key may use its full rate at every replica. Knows no paths and no web framework.
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

USE_WRITE_INTERVAL = timedelta(minutes=1)
"""Minimum time between two writes of ``last_used_at`` for one key by one process, and so the precision of that column."""

UNKNOWN_KEY_DIGEST = bytes(32)
"""Compared with the token's digest if no key has its id, so that an unknown id takes as long as a wrong secret."""


@dataclass
class Bucket:
    """A token bucket that allows ``rate`` requests a second. It holds the tokens of one second, and one token at minimum."""

    rate: float
    """Tokens that are added per second."""
    tokens: float
    """Tokens in the bucket at the time ``at``."""
    at: float
    """Time of the last `take`, in seconds of a monotonic clock."""

    @classmethod
    def full(cls, rate: float, now: float) -> Bucket:
        """Return a full bucket at the time ``now``."""
        return cls(rate, max(1.0, rate), now)

    def take(self, now: float) -> float:
        """Take one token and return 0. If there is none, return the seconds until the next one."""
        self.tokens = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return 0.0


class Keyring:
    """Checks API keys without waiting for the database.

    Requests are checked on one event loop; `refresh` may run in any thread.
    """

    def __init__(self, store: KeyStore, *, required: bool) -> None:
        """``required``: whether calls need a key; if not, every call is allowed."""
        self.required = required
        self._store = store
        self._keys: Mapping[str, Key] | None = None
        self._buckets: dict[str, Bucket] = {}
        self._used: dict[str, datetime] = {}
        self._noted: dict[str, datetime] = {}

    # --- requests ----------------------------------------------------------------------------------------------------

    def admit(self, authorization: bytes, scope: Scope, model: str | None) -> None:
        """Check the ``Authorization`` header of a request that needs ``scope`` and is about ``model`` (None: not about one).

        Raises:
            Unauthenticated: The header has no valid key.
            Forbidden: The key lacks the scope, or is not for this model.
            OverRate: The key has used up its rate.
            NotReady: The keys have not been read yet.
        """
        if self.required:
            key = self.identify(authorization)
            self.allow(key, scope, model)

    def reason_if_authorised(self, authorization: bytes, reason: str) -> str:
        """Return ``reason`` if the header has a valid key, else a text that reveals nothing.

        Health checks need no key, but a reason may name models and files.
        """
        try:
            if self.required:
                self.identify(authorization)
        except BatonError:
            return "not ready; send an API key to see the reason"
        return reason

    def identify(self, authorization: bytes) -> Key:
        """Return the key of an ``Authorization`` header.

        Raises:
            Unauthenticated: There is no key, or it is unknown, revoked or expired.
            NotReady: The keys have not been read yet.
        """
        if self._keys is None:
            raise NotReady("the API keys cannot be read yet: the database does not answer")
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token:
            raise Unauthenticated(
                "an API key is needed: send it as `Authorization: Bearer KEY`; `baton keys create` makes one", sent=False
            )
        key = self._keys.get(id_of(token))
        # In constant time: the duration must not reveal how much of a guess was right.
        right = hmac.compare_digest(digest_of(token), key.digest if key is not None else UNKNOWN_KEY_DIGEST)
        return self._usable(key if right else None)

    def recall(self, key_id: str) -> Key:
        """Return a key that was identified before, by its id. Raises ``Unauthenticated`` if it is gone, revoked or expired."""
        return self._usable((self._keys or {}).get(key_id))

    def _usable(self, key: Key | None) -> Key:
        if key is None:
            raise Unauthenticated("this API key is not valid: it is unknown or was revoked", sent=True)
        now = datetime.now(UTC)
        if key.expired(now):
            raise Unauthenticated(f"API key {key.id} expired at {key.expires_at:%Y-%m-%d %H:%M} UTC", sent=True)
        self._used[key.id] = now
        return key

    def allow(self, key: Key, scope: Scope, model: str | None) -> None:
        """Count a call against the rate of ``key``, if the key allows it.

        Raises:
            Forbidden: The key lacks ``scope``, or is not for ``model`` (None: the call is not about a single model).
            OverRate: The key has used up its rate.
        """
        if not key.allows(scope):
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
                seconds = math.ceil(wait)
                raise OverRate(
                    f"API key {key.id} is over its rate of {key.rate:g} requests per second; retry in {seconds} s",
                    retry_after=seconds,
                )

    # --- the copy ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the keys from the database, then write there when each was last used.

        Raises ``RegistryError`` if the database does not answer. The keys then stay as they were read last, and times that were
        not written are written by a later refresh.
        """
        self._keys = {key.id: key for key in self._store.live()}
        used, self._used = self._used, {}
        fresh = {
            key_id: at
            for key_id, at in dict(used).items()
            if key_id not in self._noted or at - self._noted[key_id] >= USE_WRITE_INTERVAL
        }
        try:
            self._store.note_use(fresh)
        except BatonError:
            self._used = {**used, **self._used}
            raise
        self._noted.update(fresh)

    async def try_refresh(self) -> None:
        """Call `refresh` if keys are required. Log errors instead of raising them."""
        if not self.required:
            return
        try:
            await asyncio.to_thread(self.refresh)
        except BatonError as error:
            logger.warning("API keys cannot be refreshed; the last copy stays in use: %s", error)
        except Exception:
            logger.exception("API keys cannot be refreshed; the last copy stays in use")

    async def refresh_forever(self, seconds: float) -> None:
        """Call `try_refresh` every ``seconds`` seconds, until cancelled; return at once if keys are not required."""
        while self.required:
            await asyncio.sleep(seconds)
            await self.try_refresh()
