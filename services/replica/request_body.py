"""The body of one request: read up to a limit, and unpacked up to the same limit.

Knows neither paths nor dialects. `services.bodies` has the deadline.
"""

from __future__ import annotations

import zlib

from baton.errors import BodyTooLarge, MalformedRequest, UnsupportedMediaType
from services.asgi import Receive, Scope, header

GZIP = (b"gzip", b"x-gzip")
PLAIN = (b"", b"identity")
ALLOWED = "gzip, deflate"
"""Values of ``Content-Encoding`` (RFC 9110, 8.4.1) for messages, besides none."""

MAX_DIGITS = 18
"""Digits of ``Content-Length`` that count: no body is as long as that."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the request's body, without its content encoding.

    Raises:
        UnsupportedMediaType: an encoding that we cannot undo; nothing is read then.
        BodyTooLarge: it is known to exceed ``limit`` bytes, packed or unpacked; no more than these are unpacked.
        MalformedRequest: the body is not what its encoding promises.
    """
    encoding = header(scope, b"content-encoding").strip().lower()
    if encoding not in (*PLAIN, *GZIP, b"deflate"):
        raise UnsupportedMediaType(f"content encoding {encoding.decode('latin-1')[:60]!r}; allowed: {ALLOWED}, or none")
    body = await _read(scope, receive, limit)
    return body if encoding in PLAIN else _unpacked(body, encoding, limit)


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    announced = header(scope, b"content-length")
    if announced.isdigit() and int(announced[:MAX_DIGITS]) > limit:
        raise BodyTooLarge(
            f"the body has {int(announced[:MAX_DIGITS]):,} bytes; at most {limit:,} are allowed (serving.max_body_bytes)"
        )
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"the body has more than {limit:,} bytes, the maximum (serving.max_body_bytes)")
        if not message.get("more_body", False):
            return bytes(body)


def _unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    name = encoding.decode()
    decoder = zlib.decompressobj(_window_bits(body, encoding))
    try:
        unpacked = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedRequest(f"the body is not valid {name}: {error}") from None
    if len(unpacked) > limit:
        raise BodyTooLarge(f"the body has more than {limit:,} bytes when unpacked, the maximum (serving.max_body_bytes)")
    if not decoder.eof:
        raise MalformedRequest(f"the body is not valid {name}: its end is missing")
    if decoder.unused_data:
        raise MalformedRequest(f"the body is not valid {name}: {len(decoder.unused_data)} bytes follow its end")
    return unpacked


def _window_bits(body: bytes, encoding: bytes) -> int:
    """Return zlib's ``wbits``. ``deflate`` is zlib's format (RFC 1950, 2.2), but some clients send the bare one of RFC 1951."""
    if encoding in GZIP:
        return 16 + zlib.MAX_WBITS
    has_header = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
