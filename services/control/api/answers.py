"""The headers of every answer of the control plane, and the middleware that adds them: to routes, refused keys, unknown paths.

Starlette answers an unexpected exception outside of all middleware; its handler (`error_handlers`) adds `HEADERS` itself.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders

from services.asgi import Application, Receive, Scope, Send

HEADERS = {"cache-control": "no-store"}
"""Headers of every answer. Answers describe the present state, some of them for one API key only: no proxy may keep them
(RFC 9111, section 5.2.2.5)."""


class AnswerHeaders:
    """ASGI middleware that adds `HEADERS` to each answer, unless its route has set them."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
