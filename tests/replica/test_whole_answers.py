"""The head and the body of an answer leave the process in one write, through a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl

from services.replica.replica import ModelReplica
from services.replica.whole_answers import WholeAnswer

Send = Callable[[dict[str, Any]], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: here\r\n\r\n"
EXPECTING = (
    b"POST / HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    b"ok",
)


class Writes:
    """A transport that remembers what is written through it."""

    def __init__(self, transport: asyncio.Transport, written: list[bytes]) -> None:
        self._transport, self._written = transport, written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)


async def written(requests: list[bytes], *bodies: bytes, length: bool = True, status: int = 200) -> tuple[list[bytes], bytes]:
    """Serve answers of ``bodies`` with uvicorn, and return its writes, and what a client of one connection has read."""
    writes: list[bytes] = []

    class Protocol(httptools_impl.HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Writes(transport, writes))

    async def application(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        await receive()
        headers = [(b"content-length", b"%d" % sum(map(len, bodies)))] if length else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(lambda: application, factory=True, http=Protocol, lifespan="off", log_level="error")
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        read = b""
        for request in requests:
            writer.write(request)
            read += await reader.read(65536)
        while sum(map(len, writes)) > len(read):
            read += await reader.read(65536)
        writer.close()
        server.should_exit = True
        await serving
    return writes, read


@pytest.fixture
def _whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", WholeAnswer)


def test_a_replica_lets_uvicorn_answer_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", WholeAnswer.__base__)

    ModelReplica.__new__(ModelReplica).__serve_build_asgi_app__()

    assert httptools_impl.RequestResponseCycle is WholeAnswer


def test_uvicorn_itself_writes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", WholeAnswer.__base__)
    writes, _ = asyncio.run(written([GET], b"hello"))

    assert len(writes) == 2  # otherwise, `whole_answers` is needed no more


@pytest.mark.usefixtures("_whole")
@pytest.mark.parametrize("request_", [GET, CLOSING], ids=["keep-alive", "close"])
def test_head_and_body_are_one_write(request_: bytes) -> None:
    writes, read = asyncio.run(written([request_], b"hello"))

    assert writes == [read]
    assert read.startswith(b"HTTP/1.1 200 OK\r\n")
    assert read.endswith(b"\r\n\r\nhello")


@pytest.mark.usefixtures("_whole")
def test_each_answer_of_a_connection_is_one_write() -> None:
    writes, read = asyncio.run(written([GET, GET], b"hello"))

    assert len(writes) == 2
    assert read.count(b"HTTP/1.1 200 OK\r\n") == read.count(b"\r\n\r\nhello") == 2


@pytest.mark.usefixtures("_whole")
def test_an_answer_to_head_is_its_head() -> None:
    writes, read = asyncio.run(written([HEAD], b"hello"))

    assert writes == [read]
    assert b"content-length: 5\r\n" in read
    assert read.endswith(b"\r\n\r\n")


@pytest.mark.usefixtures("_whole")
def test_an_answer_without_a_body_is_its_head() -> None:
    writes, read = asyncio.run(written([GET], b"", length=False, status=204))

    assert writes == [read]
    assert read.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert read.endswith(b"\r\n\r\n")


@pytest.mark.usefixtures("_whole")
def test_later_parts_follow_at_once() -> None:
    writes, read = asyncio.run(written([GET], b"one ", b"two ", b"three"))

    assert [writes[0][-4:], *writes[1:]] == [b"one ", b"two ", b"three"]
    assert read.endswith(b"\r\n\r\none two three")


@pytest.mark.usefixtures("_whole")
def test_an_invitation_to_go_on_is_not_kept() -> None:
    writes, _ = asyncio.run(written(list(EXPECTING), b"hello"))

    assert writes[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert writes[1].endswith(b"\r\n\r\nhello")
    assert len(writes) == 2
