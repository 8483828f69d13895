"""All errors of Baton. Each message says what went wrong, the value, and what is allowed or what to do next.

Each class has the HTTP status that the services answer with, so that no other module maps errors to statuses.

Which error to raise, in the order in which data flows:

    baton.yaml, --set ──► ConfigError              base model ──► BaseModelNotFound
    a model from elsewhere ──► UnusableModel
    data files, frozen data sets ──► DataError
    training ──► TrainingFailed (no usable checkpoint)          another engine ──► NotExportable
    a request:
        key ──► Unauthenticated, Forbidden, OverRate
        route and body ──► NotFound, MethodNotAllowed, BodyTooLarge, BodyTooSlow, UnsupportedMediaType, MalformedRequest
        values in the body ──► InvalidInput, EmptyInput
        queue ──► Overloaded, DeadlineExceeded        forward pass ──► NotFinite
        corrections of one key ──► OverQuota
    database ──► RegistryError      storage ──► StorageError (does not respond), CorruptVersion (responds with wrong bytes)
    baton backup, restore ──► BackupError
    any other dependency ──► NotReady, which the caller may retry
    a state that another caller has changed, or that does not allow the call ──► Conflict

Raise ``ValueError`` in a pydantic validator, and use ``assert`` for what only a bug can violate. Any other exception is a bug:
it is answered with 500 and without its message.
"""

from __future__ import annotations

from collections.abc import Mapping


class BatonError(Exception):
    """Base class of all errors that a user can act on."""

    status = 500
    """HTTP status (RFC 9110)."""
    title = "internal error"
    """Short problem type (RFC 9457)."""

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers of the answer."""
        return {}


class ConfigError(BatonError):
    """``baton.yaml`` or an override contains mistakes; the message lists all of them."""

    status = 422
    title = "invalid configuration"


class InvalidInput(BatonError):
    """The request is well-formed, but a value in it is not allowed."""

    status = 422
    title = "invalid input"


class EmptyInput(InvalidInput):
    """The request has no input at all."""

    status = 400
    title = "empty input"


class MalformedRequest(BatonError):
    """The request body cannot be parsed."""

    status = 400
    title = "malformed request"


class Unauthenticated(BatonError):
    """The request has no API key, or one that is unknown, revoked or expired."""

    status = 401
    title = "not authenticated"

    def __init__(self, message: str, *, sent: bool) -> None:
        """``sent``: whether the request has a key. The answer then says that the key is invalid (RFC 6750, 3.1)."""
        super().__init__(message)
        self._challenge = 'Bearer error="invalid_token"' if sent else "Bearer"

    @property
    def headers(self) -> Mapping[str, str]:
        """How to authenticate (RFC 9110, 11.6.1)."""
        return {"www-authenticate": self._challenge}


class Forbidden(BatonError):
    """The API key is valid, but does not allow this call."""

    status = 403
    title = "forbidden"

    def __init__(self, message: str, *, scope: str | None = None) -> None:
        """``scope``: the scope that the key lacks, if that is the reason."""
        super().__init__(message)
        self._scope = scope

    @property
    def headers(self) -> Mapping[str, str]:
        """The missing scope in machine-readable form (RFC 6750, 3.1)."""
        if self._scope is None:
            return {}
        return {"www-authenticate": f'Bearer error="insufficient_scope", scope="{self._scope}"'}


class NotFound(BatonError):
    """A model, version, run or other resource does not exist."""

    status = 404
    title = "not found"


class MethodNotAllowed(BatonError):
    """The path exists, but not with this HTTP method."""

    status = 405
    title = "method not allowed"


class Conflict(BatonError):
    """The current state does not allow the call (lost compare-and-swap, a run is already active)."""

    status = 409
    title = "conflict"


class BodyTooSlow(BatonError):
    """The request body does not arrive in time."""

    status = 408
    title = "body too slow"


class DeadlineExceeded(BatonError):
    """The caller set a limit (``x-request-timeout-ms``), and there is no answer yet."""

    status = 408
    title = "deadline exceeded"


class BodyTooLarge(BatonError):
    """The request body exceeds the limit."""

    status = 413
    title = "body too large"


class UnsupportedMediaType(BatonError):
    """No protocol accepts the content type of the request."""

    status = 415
    title = "unsupported media type"


class Overloaded(BatonError):
    """The queue is full. The caller may retry after ``retry_after`` seconds; None: a retry would fail as well."""

    status = 429
    title = "overloaded"

    def __init__(self, message: str, retry_after: int | None = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """When to retry (RFC 9110, 10.2.3)."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class OverRate(Overloaded):
    """An API key exceeds its request rate."""

    title = "over the rate"


class OverQuota(Overloaded):
    """An API key has sent as many corrections as it may within a day."""

    title = "too many corrections"


class Unavailable(BatonError):
    """Something that the call needs is down or has not started yet. The caller may retry."""

    status = 503

    @property
    def headers(self) -> Mapping[str, str]:
        """When to retry (RFC 9110, 10.2.3)."""
        return {"retry-after": "1"}


class NotReady(Unavailable):
    """No version is loaded yet, or a dependency is down."""

    title = "not ready"


class DataError(BatonError):
    """Rows cannot be trained or evaluated on. The message names file, line and field."""

    status = 422
    title = "invalid data"


class BaseModelNotFound(BatonError):
    """The base model is not a local directory, not bundled, and not available from the hub."""

    status = 422
    title = "base model not found"


class UnusableModel(BatonError):
    """A model from elsewhere cannot become a version: its files, its architecture, its labels or its tokenizer do not fit."""

    status = 422
    title = "unusable model"


class StorageError(Unavailable):
    """The artifact storage cannot be read or written."""

    title = "storage unavailable"


class BackupError(BatonError):
    """A backup cannot be taken, or a directory is not a backup that can be restored."""

    status = 409
    title = "no whole backup"


class CorruptVersion(BatonError):
    """Files of a version are missing, incomplete or changed. Such a version is never loaded."""

    status = 409
    title = "corrupt version"


class NotExportable(BatonError):
    """A model cannot be exported to the format of an engine. Torch runs it."""

    status = 422
    title = "not exportable"


class NotFinite(BatonError):
    """A model answered with NaN or infinity, for example because training diverged. A lower learning rate helps."""

    title = "scores are not numbers"


class RegistryError(Unavailable):
    """The database cannot be used (down, or a schema newer than this code)."""

    title = "registry unavailable"


class TrainingFailed(BatonError):
    """A run ended without a usable checkpoint."""

    title = "training failed"
