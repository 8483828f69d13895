"""The console behind a real HTTP server, with a real replica of each task beside it, as HAProxy routes to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig
from baton.keys import Scope
from services.control.api.app import build_api
from services.replica.replica import ModelReplica
from tests.cli.test_cli import serving
from tests.control.test_api import nothing
from tests.support.dialects import LABELS, save_model
from tests.support.local_control import LocalControl, control_of
from tests.support.replica import force, publish, running

UNSURE_BELOW = {"classification": 1.0, "ner": 1.0}
"""Models whose answers are all too unsure to act on: nothing that is computed is wholly sure."""


@dataclass(frozen=True)
class Service:
    """Four models, one of each task and named like it, whose version 1 is in service."""

    url: str
    control: LocalControl

    def key(self, *scopes: Scope) -> str:
        """Make a key with some scopes, which the control plane knows at once. (Replicas read their keys when they start.)"""
        token = self.control.registry.keys.create("+".join(scopes), list(scopes))[1]
        self.control.keyring.refresh()
        return token


@contextlib.contextmanager
def console_service(base: Path, directory: Path, *scopes: frozenset[Scope]) -> Iterator[tuple[Service, list[str]]]:
    """Serve all models and the control plane at one address. ``scopes``: make such keys, and require them."""
    control = control_of(_config(base, directory, keys=bool(scopes)))
    registry, storage = control.registry, Storage(control.config.storage)
    for task in LABELS:
        publish(registry, storage, task, save_model(task, base, directory / "made" / task), LABELS[task], task)
        force(registry, task, 1)
    tokens = [registry.keys.create("+".join(sorted(wanted)), list(wanted))[1] for wanted in scopes]
    control.keyring.refresh()
    replicas = {f"/models/{settings.name}": _replica(control, settings) for settings in control.config.models}
    api = build_api(control, nothing)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(replicas.values(), receive, send)
            return
        root = "/".join(scope["path"].split("/")[:3])
        if root in replicas:
            await replicas[root]({**scope, "root_path": root}, receive, send)
        else:
            await api(scope, receive, send)

    with serving(application) as url:
        port = int(url.rpartition(":")[2])
        control.config = control.config.model_copy(update={"http": control.config.http.model_copy(update={"port": port})})
        yield Service(url, control), tokens
    registry.close()


async def _live(applications: Any, receive: Any, send: Any) -> None:
    """Start all applications when the server starts, and end them with it."""
    await receive()
    async with contextlib.AsyncExitStack() as stack:
        for application in applications:
            await stack.enter_async_context(running(application))
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _replica(control: LocalControl, settings: Any) -> Any:
    config = control.config
    required = control.keyring.required
    replica = ModelReplica(
        settings.model_dump(mode="json"), config.database, config.storage, keys_required=required, replica_id="r1"
    )
    return replica.__serve_build_asgi_app__()


def _config(base: Path, directory: Path, *, keys: bool) -> BatonConfig:
    return BatonConfig.model_validate(
        {
            "storage": str(directory / "storage"),
            "database": f"sqlite:///{directory}/baton.db",
            "auth": {"required": keys},
            "models": [
                {
                    "name": task,
                    "task": task,
                    "base_model": str(base),
                    "data": {"train": "nowhere.jsonl"},
                    "training": {"max_length": 128},
                    "serving": {"precision": "fp32", "device": "cpu", "abstain_below": UNSURE_BELOW.get(task)},
                    "feedback": {"audit": 0.0},
                }
                for task in LABELS
            ],
        }
    )
