"""Versions on real storage and in a real registry, and a replica that serves them over ASGI, without Serve or a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.serving_settings import ServingSettings
from baton.predict.predictor import Predictor
from baton.store.records import Decision, DecisionKind, ModelVersion, Promotion, Verdict
from baton.store.registry import Registry
from services.replica.replica import ModelReplica

Found = TypeVar("Found")

PATIENCE = 240.0

FP32 = ServingSettings(precision="fp32", device="cpu")


async def until(condition: Callable[[], Awaitable[Found]], what: str) -> Found:
    """Return the first true value of ``condition``. Fail the test, naming ``what``, if there is none in `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = await condition()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE:.0f} s: {what}; last seen: {found!r}")
        await asyncio.sleep(0.01)


def publish(
    registry: Registry,
    storage: Storage,
    model: str,
    directory: Path,
    labels: Sequence[str],
    task: str = "classification",
    **facts: Any,
) -> ModelVersion:
    """The model in ``directory`` as the next version of ``model``, with probes; evaluated nowhere.

    ``facts``: further fields of its manifest.
    """
    manifest = Manifest.model_validate(
        {
            "model": model,
            "task": task,
            "labels": tuple(labels),
            "max_length": 128,
            "base_model": "tiny",
            "dataset": {"hash": "d", "train_rows": 7},
            "training": {"tune": "full"},
            "metrics": {"f1": 0.5},
            "code_version": "0",
            **facts,
        }
    )
    probes = Predictor.load(directory, manifest, FP32).probe()
    number = registry.versions.reserve(model, None)
    uri, sha256 = storage.publish(number, directory, manifest.model_copy(update={"probes": probes}))
    return registry.versions.publish(
        model,
        number,
        uri=uri,
        manifest_sha256=sha256,
        metrics={"f1": 0.5, "confusion": [[1]]},
        lineage={"dataset": {}, "labels": list(labels)},
    )


def force(registry: Registry, model: str, version: int) -> Promotion:
    """Move the champion pointer, and nothing else."""
    now = registry.champion(model)
    decision = Decision(
        model=model,
        candidate=version,
        champion=now.version,
        champion_sequence=now.sequence,
        kind=DecisionKind.FORCE,
        verdict=Verdict.PROMOTE,
        sentence=f"Forced v{version}.",
        reason="a test wants it",
    )
    return registry.promote(decision, now)


@asynccontextmanager
async def served(
    settings: ModelSettings, registry_url: str, storage: Storage, *, name: str = "r1", **options: Any
) -> AsyncIterator[tuple[ModelReplica, httpx.AsyncClient]]:
    """A started replica of a model and a client of its URL, as HAProxy would reach it. ``options``: of `ModelReplica`."""
    replica = ModelReplica(settings.model_dump(mode="json"), registry_url, storage.url, replica_id=name, **options)
    application = replica.__serve_build_asgi_app__()
    root = f"/models/{settings.name}"
    transport = httpx.ASGITransport(app=application, root_path=root)
    async with (
        running(application),
        httpx.AsyncClient(transport=transport, base_url=f"http://replica{root}", timeout=60) as client,
    ):
        yield replica, client


@asynccontextmanager
async def running(application: Any) -> AsyncIterator[None]:
    """Start an ASGI application, and end it in the end, as a server does."""
    said: asyncio.Queue[Any] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(application({"type": "lifespan"}, said.get, heard.put))
    await said.put({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await said.put({"type": "lifespan.shutdown"})
        assert (await heard.get())["type"] == "lifespan.shutdown.complete"
        await lifespan
