"""A deadline for the bodies of requests, for both planes: a client that sends too slowly must not hold anything for long.

HAProxy waits for short bodies itself (`services.host.haproxy`); this is for longer ones, and for callers of a replica's port.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

from baton.errors import BodyTooSlow
from services.asgi import Application, Receive, Scope, Send

PATIENCE_SECONDS = 20.0
"""Time that we wait for a body in all, plus what its bytes take at `BYTES_PER_SECOND`."""

BYTES_PER_SECOND = 16 * 1024
"""Rate from which on a body may be of any length."""


def timely(receive: Receive) -> Receive:
    """Return a `receive` that raises ``BodyTooSlow`` when the body does not arrive in time.

    Only waiting counts, not what the application does between two chunks.
    """
    received, waited, complete = 0, 0.0, False

    async def receive_in_time() -> MutableMapping[str, Any]:
        nonlocal received, waited, complete
        if complete:
            return await receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS + received / BYTES_PER_SECOND - waited):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"{received:,} bytes of the body arrived within {waited + time.monotonic() - began:.0f} s; at least "
                f"{BYTES_PER_SECOND // 1024} KiB per second are needed"
            ) from None
        waited += time.monotonic() - began
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        return message

    return receive_in_time


class Timely:
    """ASGI middleware that lets no request of ``app`` send its body too slowly."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, timely(receive) if scope["type"] == "http" else receive, send)
