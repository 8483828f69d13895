"""The answer to one HTTP request as a value. Every path of `services.replica.http` returns one, and one function sends it.

A header of every answer belongs in `send_response`. Knows neither tasks nor how an answer came about.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.asgi import Send

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and their values, as ASGI sends them."""


NO_CONTENT = 204


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer, a prediction or an error."""

    status: int = 200
    """HTTP status code (RFC 9110)."""
    version: int | None = None
    """Number in the header ``x-model-version``; None leaves the header out."""
    headers: Headers = ()
    """Headers that only this answer has."""
    body: bytes
    content_type: bytes = b"application/json"


async def send_response(response: Response, send: Send, *, head: bool = False) -> None:
    """Send an answer with the headers that every answer has; without the body if ``head`` (RFC 9110, 9.3.2)."""
    headers = [(b"content-type", response.content_type)] if response.body else []
    if response.version is not None:
        headers.append((b"x-model-version", b"%d" % response.version))
    headers += response.headers
    if response.status != NO_CONTENT:  # which must not have one (RFC 9110, 8.6)
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else response.body})
