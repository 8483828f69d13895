"""One webhook: the request that tells of an event, signed as the receiver expects it.

The form is that of Standard Webhooks (https://www.standardwebhooks.com), which has libraries for many languages.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx
from pydantic_core import to_json

from baton.client import on_loopback

TIMEOUT_SECONDS = 15.0
"""How long a receiver may take to answer in all, as the specification recommends."""

GONE = 410
"""The status of a receiver that wants to hear no more of it."""


class Refused(Exception):
    """A receiver did not take an event. Its message says why, and quotes neither the URL nor an answer."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final
        """Whether another try would be in vain."""


async def send(url: str, key: bytes | None, event: str, at: datetime, body: Mapping[str, Any]) -> None:
    """Tell ``url`` of ``event``. ``at``: the time of this try, which the signature with ``key`` holds.

    Raises ``Refused`` unless the receiver answers with a status of success. Redirects are none: they would take the event to
    an address that nobody configured.
    """
    content = to_json(body)
    headers = {"content-type": "application/json", "webhook-id": event, "webhook-timestamp": str(int(at.timestamp()))}
    if key is not None:
        headers["webhook-signature"] = signature(key, event, headers["webhook-timestamp"], content)
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=not on_loopback(url)) as client,
            client.stream("POST", url, content=content, headers=headers) as answer,  # nobody reads its body
        ):
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # TimeoutError is an OSError
        raise Refused(f"no answer ({type(error).__name__})", final=False) from None
    if not httpx.codes.is_success(status):
        raise Refused(f"status {status}", final=status == GONE)


def signature(key: bytes, event: str, timestamp: str, content: bytes) -> str:
    """Return the value of the header ``webhook-signature``: «v1,» and the HMAC-SHA256 of id, time and body in base64."""
    signed = b".".join((event.encode(), timestamp.encode(), content))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
