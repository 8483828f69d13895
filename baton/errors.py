"""One error tree. Every error says what went wrong, the value, and what is allowed or to be done next.

Each class carries the HTTP status that the services answer with, so that no other module maps errors to statuses.
"""

from __future__ import annotations

from collections.abc import Mapping


class BatonError(Exception):
    """Base of all errors that a user can do something about.

    ``status`` is the HTTP status (RFC 9110), ``title`` the short problem type (RFC 9457).
    """

    status = 500
    title = "internal error"

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers that belong to the answer."""
        return {}


class ConfigError(BatonError):
    """``baton.yaml`` or an override holds mistakes; the message lists all of them."""

    status = 422
    title = "invalid configuration"


class InvalidInput(BatonError):
    """A request is well-formed, but a value in it is not allowed."""

    status = 422
    title = "invalid input"


class MalformedRequest(BatonError):
    """A request body that cannot be parsed."""

    status = 400
    title = "malformed request"


class Unauthenticated(BatonError):
    """No API key, or one that is not valid (any more)."""

    status = 401
    title = "not authenticated"

    def __init__(self, message: str, *, sent: bool) -> None:
        """``sent``: whether there was a key at all; the answer then says that it was the key (RFC 6750, 3.1)."""
        super().__init__(message)
        self._challenge = 'Bearer error="invalid_token"' if sent else "Bearer"

    @property
    def headers(self) -> Mapping[str, str]:
        """How to do better (RFC 9110, 11.6.1)."""
        return {"www-authenticate": self._challenge}


class Forbidden(BatonError):
    """A valid API key, and not for this."""

    status = 403
    title = "forbidden"

    def __init__(self, message: str, *, scope: str | None = None) -> None:
        """``scope``: the one that the key lacks, where that is the reason."""
        super().__init__(message)
        self._scope = scope

    @property
    def headers(self) -> Mapping[str, str]:
        """The missing scope, for programs (RFC 6750, 3.1)."""
        if self._scope is None:
            return {}
        return {"www-authenticate": f'Bearer error="insufficient_scope", scope="{self._scope}"'}


class NotFound(BatonError):
    """A model, version or run that does not exist."""

    status = 404
    title = "not found"


class MethodNotAllowed(BatonError):
    """The path exists, the HTTP method does not."""

    status = 405
    title = "method not allowed"


class Conflict(BatonError):
    """The state that the caller expected is no longer the state (lost compare-and-swap, run already active)."""

    status = 409
    title = "conflict"


class BodyTooLarge(BatonError):
    """A request body over the limit."""

    status = 413
    title = "body too large"


class UnsupportedMediaType(BatonError):
    """A content type that no protocol here speaks."""

    status = 415
    title = "unsupported media type"


class Overloaded(BatonError):
    """The queue is full; try again after ``retry_after`` seconds."""

    status = 429
    title = "overloaded"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """When to try again."""
        return {"retry-after": str(self.retry_after)}


class OverRate(Overloaded):
    """An API key made more requests than its rate allows."""

    title = "over the rate"


class Unavailable(BatonError):
    """Something that the call needs is down, or not up yet. The same call may succeed in a moment."""

    status = 503

    @property
    def headers(self) -> Mapping[str, str]:
        """When to try again."""
        return {"retry-after": "1"}


class NotReady(Unavailable):
    """No version is loaded yet, or a dependency is down."""

    title = "not ready"


class DataError(BatonError):
    """Rows that cannot be trained or scored on; names file, line and field."""

    status = 422
    title = "invalid data"


class BaseModelNotFound(BatonError):
    """Neither a directory, nor a bundled model, nor to be had from the hub."""

    status = 422
    title = "base model not found"


class StorageError(Unavailable):
    """The artifact storage cannot be read or written."""

    title = "storage unavailable"


class CorruptVersion(BatonError):
    """A version whose files are missing, half-written or altered; it is never loaded."""

    status = 409
    title = "corrupt version"


class NotFinite(BatonError):
    """A model answered NaN or infinity. Training that diverged does that; a lower learning rate helps."""

    title = "scores are not numbers"


class RegistryError(Unavailable):
    """The database cannot be used (down, or a schema newer than this code)."""

    title = "registry unavailable"


class TrainingFailed(BatonError):
    """A run ended without a usable checkpoint."""

    title = "training failed"
