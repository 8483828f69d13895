"""The whole control API while its database is away: every call that needs it says so, and none hangs or breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from baton.tasks.classification import Classification
from services.control.api.app import build_api
from services.control.openapi.predictions import paths
from tests.support.local_control import LocalControl, configured, control_of
from tests.support.stores import Postgres

WITHOUT = {"/healthz", "/openapi.json", "/api/config", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index"}
"""What answers without a database."""

OF_REPLICAS = paths([Classification])

BODIES: dict[str, Any] = {
    "/api/models/{model}/promotions": {"version": 1},
    "/api/models/{model}/feedback": {"text": "hello", "label": "a"},
    "/api/models/{model}/retrain": {"paused": True, "reason": "x"},
}


@pytest.fixture
def control(stoppable_postgres: Postgres, tmp_path: Path) -> Iterator[LocalControl]:
    """A control plane over a database with everything in it that it needs."""
    config = configured(tmp_path, "m").model_copy(update={"database": stoppable_postgres.url(stoppable_postgres.create())})
    control = control_of(config)
    yield control
    control.registry.close()


def calls(application: FastAPI) -> list[tuple[str, str]]:
    """Every method and path of the control plane that the API describes; replicas answer the others."""
    described = application.openapi()["paths"]
    return [(method.upper(), path) for path, methods in described.items() if path not in OF_REPLICAS for method in methods]


async def ask(application: FastAPI, method: str, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    url = path.format(model="m", number="1", run_id="m-1", version="1", client_id="c1")
    assert "{" not in url
    if (method, path) == ("DELETE", "/api/models/{model}/feedback"):
        url += "?sender=nobody"  # it must be said whose corrections are withdrawn
    body = BODIES.get(path, {}) if method in ("POST", "PUT") else None
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        return await client.request(method, url, json=body)


def test_every_control_call_says_that_the_database_is_down_and_works_again_afterwards(stoppable_postgres, control):
    application = build_api(control, control._lifespan)

    async def answers() -> dict[tuple[str, str], httpx.Response]:
        return {call: await ask(application, *call) for call in calls(application) if call[1] not in WITHOUT}

    up = asyncio.run(answers())
    assert not {call: it.text for call, it in up.items() if it.status_code >= 500}
    stoppable_postgres.stop()
    try:
        down = asyncio.run(answers())
        alive = asyncio.run(ask(application, "GET", "/healthz"))
    finally:
        stoppable_postgres.start()
    assert alive.status_code == 200
    assert len(down) > 15
    for call, answer in down.items():
        if call == ("GET", "/metrics"):  # whether it answers is for those who read it
            continue
        assert answer.status_code == 503, (call, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", call
        assert "the registry's database does not answer: " in answer.json()["detail"], call
    again = asyncio.run(answers())
    assert not {call: it.text for call, it in again.items() if it.status_code >= 500}
