"""A service that a Serve config started: nobody has migrated its database, or the database is not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.registry import Registry
from services.control import loops
from tests.support.local_control import LocalControl, configured
from tests.support.replica import force, publish, served, until
from tests.support.tiny import save_classifier

LABELS = ("billing", "bug")


@asynccontextmanager
async def running(control: LocalControl) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the control plane, whose loops run."""
    application = control.__serve_build_asgi_app__()
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with (
        application.router.lifespan_context(application),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        yield client


def test_the_control_plane_migrates_an_empty_database_and_declares_its_models(tmp_path: Path) -> None:
    control = LocalControl(configured(tmp_path, "first", "second"))

    async def scenario() -> None:
        async with running(control) as client:

            async def answers() -> bool:
                return (await client.get("/api/models/second")).status_code == 200

            await until(answers, "the second model")

    asyncio.run(scenario())
    assert set(control.registry.declared()) == {"first", "second"}
    control.registry.close()


def test_it_tries_again_until_the_database_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "WATCH_SECONDS", 0.01)
    (tmp_path / "baton.db").mkdir()  # SQLite cannot open a directory
    control = LocalControl(configured(tmp_path, "first"))

    async def scenario() -> None:
        async with running(control) as client:

            async def unready() -> bool:
                return (await client.get("/readyz")).status_code == 503

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(unready, "a service without a database is not ready")
            (tmp_path / "baton.db").rmdir()
            await until(ready, "the database that came late")

    asyncio.run(scenario())
    assert set(control.registry.declared()) == {"first"}
    control.registry.close()


@pytest.mark.usefixtures("one_thread")
def test_a_replica_that_was_there_before_the_tables_serves_once_there_is_a_champion(tiny_base: Path, tmp_path: Path) -> None:
    settings = ModelSettings.model_validate(
        {
            "name": "m",
            "task": "classification",
            "data": {"train": "t.jsonl"},
            "serving": {"poll_seconds": 0.05, "precision": "fp32", "device": "cpu"},
        }
    )
    url, storage = f"sqlite:///{tmp_path}/baton.db", Storage(str(tmp_path / "storage"))

    async def scenario() -> None:
        async with served(settings, url, storage) as (_, client):
            assert (await client.post("", json={"inputs": "hello"})).status_code == 503
            registry = Registry(url)
            registry.migrate()
            registry.declare_model("m")
            version = publish(registry, storage, "m", save_classifier(tiny_base, LABELS, tmp_path / "model"), LABELS)
            force(registry, "m", version.number)
            registry.close()

            async def answers() -> bool:
                return (await client.post("", json={"inputs": "hello"})).headers.get("x-model-version") == "1"

            await until(answers, "the champion")

    asyncio.run(scenario())
