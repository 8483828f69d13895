"""The control API as Python calls, for the command line. Knows HTTP, and how to say what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from baton.errors import BatonError, NotReady


class ApiError(BatonError):
    """The service answered with a problem; ``content`` is its document."""

    def __init__(self, status: int, content: dict[str, Any]) -> None:
        super().__init__(str(content.get("detail") or content.get("error") or f"HTTP status {status}"))
        self.status = status
        self.content = content


class Client:
    """One service at ``url``, whose connections are closed at the end of a ``with`` block.

    Methods raise ``ApiError`` for its problems and ``NotReady`` when it is not there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(30, read=900))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON at ``path``."""
        present = {key: value for key, value in parameters.items() if value is not None}
        return self._call("GET", path, params=present)

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The JSON that ``path`` answers to ``body``."""
        return self._call("POST", path, json=body, headers=headers)

    def predict(self, model: str, inputs: Sequence[Any], parameters: dict[str, Any]) -> tuple[Any, httpx.Headers]:
        """Predictions for a list of inputs, and the answer's headers."""
        response = self._send("POST", f"/models/{model}", json={"inputs": inputs, "parameters": parameters})
        return response.json(), response.headers

    def _call(self, method: str, path: str, **options: Any) -> Any:
        return self._send(method, path, **options).json()

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise NotReady(f"Baton does not answer at {self.url} ({error}); start it with `baton up`") from error
        if response.is_error:
            try:
                content = response.json()
            except ValueError:
                content = {"detail": f"HTTP status {response.status_code}: {response.text[:200]}"}
            raise ApiError(response.status_code, content)
        return response
