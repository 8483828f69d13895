"""The HTTP client of the command line and the demo: `baton.client` with the rest of the control API.

Knows HTTP; knows neither Ray nor the database.
"""

from __future__ import annotations

from typing import Any

import httpx

from baton import client
from baton.client import ServiceError as ApiError

__all__ = ["ApiError", "Client"]

PAGE = 10_000
"""Items per page when all pages of a list are read."""

READ_SECONDS = 900.0
"""Maximum time to wait for an answer. A promotion is the slowest call: it may evaluate both versions and roll one out."""

CONNECT_SECONDS = 30.0
"""Maximum time to wait for a connection, to send a request, and for a free connection of the pool."""


class Client(client.Client):
    """A client of the service at ``url``.

    A refused connection or a busy service is reported at once, because a person is waiting. With ``retries``, predictions and
    corrections are sent again, as `baton.client.Client` does. ``seconds``: limit of each step of a call, instead of what the
    slowest call needs.
    """

    def __init__(
        self,
        url: str,
        *,
        retries: int = 0,
        key: str | None = None,
        seconds: float | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        timeout = httpx.Timeout(CONNECT_SECONDS, read=READ_SECONDS) if seconds is None else httpx.Timeout(seconds)
        super().__init__(url, timeout=timeout, retries=retries, key=key, transport=transport)
        self.offline = transport is not None
        """Whether no service answers, but the database alone (`services.host.offline`)."""

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON at ``path``. Parameters that are None are left out of the query."""
        present = {key: value for key, value in parameters.items() if value is not None}
        return self._call("GET", path, params=present)

    def all_of(self, path: str) -> list[Any]:
        """Return the items of all pages of the list at ``path``."""
        items: list[Any] = []
        after: int | None = 0
        while after is not None:
            page = self.get(path, after=after, limit=PAGE)
            items += page["items"]
            after = page["next"]
        return items

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Send ``body`` as JSON to ``path`` and return the JSON of the answer."""
        return self._call("POST", path, json=body, headers=headers)

    def delete(self, path: str, body: Any = None, **parameters: Any) -> Any:
        """Send a DELETE for ``path``, with ``body`` as JSON, and return the JSON of the answer. Parameters are as in `get`."""
        present = {key: value for key, value in parameters.items() if value is not None}
        return self._call("DELETE", path, json=body, params=present)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        return self.send(client.Call(method=method, path=path, options=options)).json()
