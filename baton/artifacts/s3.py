"""Settings of the S3 client. A service that is down, frozen or unreachable causes an error within seconds and never a hang.

Credentials and the endpoint come only from the environment. Knows no paths.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession

CONNECT_SECONDS = 3
"""Maximum time for S3 to accept a connection."""

READ_SECONDS = 10
"""Maximum time between two parts of a response."""

SEND_SECONDS = 300
"""Maximum time for a request with its body (at most 50 MiB) until the response begins."""

TRIES, PATIENT_TRIES = 2, 10
"""Maximum number of attempts for one request. The pauses between ten attempts add up to more than a minute."""


class Session(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's session, which also gives up on a server that stops responding during a request."""

    async def send(self, request: Any) -> Any:
        """Send ``request`` within `SEND_SECONDS`, without ``Expect: 100-continue``: aiohttp waits for a 100 for ever."""
        if "Expect" in request.headers:
            del request.headers["Expect"]
        async with asyncio.timeout(SEND_SECONDS):
            return await super().send(request)


def options(*, patient: bool) -> dict[str, Any]:
    """Return the arguments of s3fs. Listings are not cached, because other processes write, too.

    ``patient``: `PATIENT_TRIES` attempts for each request instead of `TRIES`.
    """
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": PATIENT_TRIES if patient else TRIES},
            "http_session_cls": Session,
        },
    }
