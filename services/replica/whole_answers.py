"""Lets uvicorn hand the head and the body of an answer to the kernel together.

It writes the head when an application starts its answer, and the body when that comes, in two system calls. HAProxy passes the
head on at once, and from then on the prediction cannot be repeated: a replica that is killed between the two, or waits for a
processor there, costs it. Together they are also one wake-up less for HAProxy and for the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http import httptools_impl

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


def send_answers_whole() -> None:
    """Use `WholeAnswer` in every server that this process starts from now on. uvicorn has no setting for it."""
    httptools_impl.RequestResponseCycle = WholeAnswer  # type: ignore[misc]


class WholeAnswer(httptools_impl.RequestResponseCycle):
    """One request and its answer, as uvicorn has them, with one write for the head and the first part of the body."""

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer (ASGI 3)."""
        if not self.response_started:
            self.transport = _Joining(self.transport)  # type: ignore[assignment]
        await super().send(message)
        if self.response_complete and isinstance(self.transport, _Joining):
            self.transport.flush()


class _Joining:
    """A transport that keeps what is written first until the next write."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._kept: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._kept is None:
            self._kept = data
        else:
            self._transport.write(self._kept + data if self._kept else data)
            self._kept = b""

    def flush(self) -> None:
        """Write what is kept: an answer to HEAD has no body that would come next."""
        if self._kept:
            self._transport.write(self._kept)
        self._kept = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()
