"""Clients that send their bodies too slowly, to the function that limits them and to both planes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import BodyTooSlow
from services import bodies
from services.asgi import Receive
from services.control.api.app import build_api
from tests.support.local_control import configured, control_of
from tests.support.replica import served

PATIENCE = 0.3


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", PATIENCE)


def chunk(content: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


def client_that_sends(*chunks: dict[str, Any], pause: float = 0.0) -> Receive:
    """A client that makes a pause before each chunk but the first, and is silent after the last one."""
    left = list(chunks)

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        await asyncio.sleep(pause if len(left) < len(chunks) else 0.0)
        return left.pop(0)

    return receive


def test_a_body_that_does_not_end_is_given_up_with_what_came_of_it() -> None:
    async def scenario() -> None:
        receive = bodies.timely(client_that_sends(chunk(b"{" * 1234)))
        await receive()
        with pytest.raises(BodyTooSlow, match=r"^1,234 bytes of the body arrived within \d s; at least 16 KiB per second"):
            await receive()

    asyncio.run(scenario())


def test_a_long_body_at_a_decent_rate_may_take_as_long_as_it_takes() -> None:
    enough = 60 * bodies.BYTES_PER_SECOND  # so that a busy machine does not make this client a slow one

    async def scenario() -> None:
        receive = bodies.timely(client_that_sends(chunk(b"x" * enough), chunk(b"y"), chunk(b"", more=False), pause=PATIENCE))
        messages = [await receive() for _ in range(3)]
        assert sum(len(message["body"]) for message in messages) == enough + 1

    asyncio.run(scenario())


def test_what_the_application_does_between_two_chunks_does_not_count() -> None:
    async def scenario() -> None:
        receive = bodies.timely(client_that_sends(chunk(b"a"), chunk(b"b", more=False)))
        await receive()
        await asyncio.sleep(2 * PATIENCE)
        assert (await receive())["body"] == b"b"

    asyncio.run(scenario())


def test_after_the_body_nothing_limits_the_wait_for_the_client_to_leave() -> None:
    async def scenario() -> None:
        receive = bodies.timely(client_that_sends(chunk(b"", more=False)))
        await receive()
        with pytest.raises(TimeoutError):  # ours, not the one that is tested
            await asyncio.wait_for(receive(), 2 * PATIENCE)

    asyncio.run(scenario())


async def stuck() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.Event().wait()


@pytest.mark.parametrize("path", ["/api/models/m/promotions", "/api/models/m/feedback"])
def test_the_control_plane_answers_408_to_a_body_that_does_not_end(tmp_path: Path, path: str) -> None:
    @contextlib.asynccontextmanager
    async def nothing(_: FastAPI) -> AsyncIterator[None]:
        yield

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=build_api(control_of(configured(tmp_path, "m")), nothing))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=stuck(), headers={"content-type": "application/json"})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["title"]) == (408, "body too slow")
    assert answer.json()["detail"].startswith("1 bytes of the body arrived")


def test_a_replica_answers_408_to_a_body_that_does_not_end(tmp_path: Path) -> None:
    settings = ModelSettings.model_validate(
        {"name": "m", "task": "classification", "base_model": "none", "data": {"train": "nowhere.jsonl"}}
    )

    async def ask() -> httpx.Response:
        control_of(configured(tmp_path, "m"))
        async with served(settings, f"sqlite:///{tmp_path}/baton.db", Storage(str(tmp_path / "storage"))) as (_, client):
            return await client.post("", content=stuck(), headers={"content-type": "application/json"})

    answer = asyncio.run(ask())
    assert answer.status_code == 408
    assert answer.json()["error"].startswith("1 bytes of the body arrived")
