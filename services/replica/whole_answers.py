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

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._joining = _Joining(self.transport)
        self.transport = self._joining  # type: ignore[assignment]

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer (ASGI 3)."""
        if message["type"] == "http.response.start":
            self._joining.keep_next()
        await super().send(message)
        if self.response_complete:
            self._joining.flush()  # an answer to HEAD has no body that would come next


class _Joining:
    """A transport that can keep what is written until the next write."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._keeps_next = False
        self._kept = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def keep_next(self) -> None:
        """Keep the next write."""
        self._keeps_next = True

    def write(self, data: bytes) -> None:
        if self._keeps_next:
            self._keeps_next, self._kept = False, data
        else:
            self._kept += data
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        kept, self._kept = self._kept, b""
        if kept:
            self._transport.write(kept)

    def close(self) -> None:
        self.flush()
        self._transport.close()
