"""How S3 is spoken to, so that a service that is down, frozen or unreachable is an error in seconds and never a hang.

Credentials and the endpoint come from the environment alone. Knows no paths.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession

CONNECT_SECONDS, READ_SECONDS, SEND_SECONDS = 3, 10, 300
"""How long S3 may take to accept a connection, to be silent, and to take a request with its body (at most 50 MiB)."""

TRIES, PATIENT_TRIES = 2, 10
"""How often a request is made. The pauses between ten of them add up to more than a minute."""


class Session(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's own, for servers that fall silent."""

    async def send(self, request: Any) -> Any:
        """Without ``Expect: 100-continue``: aiohttp waits for that answer for ever."""
        if "Expect" in request.headers:
            del request.headers["Expect"]
        async with asyncio.timeout(SEND_SECONDS):
            return await super().send(request)


def options(*, patient: bool) -> dict[str, Any]:
    """Arguments of s3fs. Listings are not remembered: other processes write, too."""
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": PATIENT_TRIES if patient else TRIES},
            "http_session_cls": Session,
        },
    }
