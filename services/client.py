"""The control API as Python calls, for the command line: what `baton.client` does for applications, and the rest of it."""

from __future__ import annotations

from typing import Any

import httpx

from baton import client
from baton.client import ServiceError as ApiError

__all__ = ["ApiError", "Client"]


PAGE = 10_000
"""Items of one page, where all are wanted."""


class Client(client.Client):
    """One service at ``url``; its slowest calls play a match. A refused connection is an answer to a person: nothing is sent
    again unless ``retries`` says so.
    """

    def __init__(self, url: str, *, retries: int = 0, key: str | None = None) -> None:
        super().__init__(url, timeout=httpx.Timeout(30, read=900), retries=retries, key=key)

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON at ``path``."""
        present = {key: value for key, value in parameters.items() if value is not None}
        return self._call("GET", path, params=present)

    def all_of(self, path: str) -> list[Any]:
        """The items at ``path``, of all pages."""
        items: list[Any] = []
        after: int | None = 0
        while after is not None:
            page = self.get(path, after=after, limit=PAGE)
            items += page["items"]
            after = page["next"]
        return items

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The JSON that ``path`` answers to ``body``."""
        return self._call("POST", path, json=body, headers=headers)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        return self.send(client.Call(method=method, path=path, options=options)).json()
