"""What an operator must know before a service starts: what can be reached from outside, which API keys protect it, what of the
database the configuration contradicts.

Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from baton.config.file import AuthSettings, BatonConfig
from baton.errors import BatonError
from baton.keys import Scope
from baton.urls import without_passwords

if TYPE_CHECKING:
    from baton.store.records import ModelVersion
    from baton.store.registry import Registry

WARNING, NOTE = "WARNING: ", "NOTE: "
"""Prefixes of the messages. A warning asks for action; a note is true on every machine."""


def with_keys_by_default(config: BatonConfig) -> BatonConfig:
    """Return ``config`` with ``auth.required: auto`` resolved to true, for a cluster that someone else runs.

    The addresses on which such a cluster listens are not known here, so that API keys are required unless the file says false.
    """
    if config.auth.required != "auto":
        return config
    return config.model_copy(update={"auth": AuthSettings(required=True)})


def task_changes(config: BatonConfig, registry: Registry) -> list[str]:
    """Return a sentence for each model whose champion has another task than the declared one, so that it cannot serve.

    Raises ``RegistryError``.
    """
    found = []
    known = registry.declared()
    for settings in config.models:
        name, task = settings.name, settings.task
        champion = registry.champion_version(name) if name in known else None
        with suppress(BatonError):  # Baton 0.1 published it, and its files are away: replicas will tell
            before = task if champion is None else _task_of(champion, config)
            if champion is not None and before != task:
                found.append(
                    f"{name}: its champion v{champion.number} has the task {before}, and task: {task} is declared. No version "
                    f"answers until one of {task} takes over, which is judged as a first version: `baton train {name}`, or "
                    f"`baton register {name} DIRECTORY`. Or declare task: {before} again"
                )
    return found


def _task_of(version: ModelVersion, config: BatonConfig) -> str:
    from baton.artifacts.storage import Storage  # imports drivers, which most commands do not need

    return Storage(config.storage).task_of(version)


def messages(config: BatonConfig, registry: Registry, ports: Mapping[str, int]) -> list[str]:
    """Return the warnings and notes for a service that is about to start.

    ``ports``: those of Baton's own Ray cluster; empty for a cluster that someone else runs.

    Raises:
        RegistryError: the API keys or the champions cannot be read.
    """
    found = []
    if not ports and without_passwords(config.database) != config.database:
        found.append(
            f"{WARNING}this cluster stores and logs the arguments of its applications, and the database's URL with its "
            "password is one of them. Deploy with `baton render` instead: it leaves the URL to the environment of the nodes"
        )
    if not ports and config.notify:
        found.append(
            f"{WARNING}this cluster stores and logs the arguments of its applications, and the URLs and secrets of `notify` "
            "are among them: whoever reads Ray's dashboard reads them"
        )
    host, port = config.http.host, config.http.port
    if not config.keys_required and not config.http.loopback:
        found.append(
            f"{WARNING}{host}:{port} and the replicas' own ports (30000 and up) can be reached from outside, and no API key is "
            "required (auth.required: false): anyone who reaches them can predict, correct, train and promote. Set "
            "auth.required: auto, and see docs/security.md"
        )
    listed = ", ".join(str(ports[name]) for name in ("haproxy_stats", "haproxy_metrics") if name in ports) or "8404, 9101"
    found.append(
        f"{NOTE if config.http.loopback else WARNING}HAProxy's statistics and metrics ({listed}) and Serve's gRPC "
        "(random ports) listen on all addresses and do not check API keys: block them with a firewall"
    )
    found += [f"{WARNING}{change}" for change in task_changes(config, registry)]
    now = datetime.now(UTC)
    valid = [key for key in registry.keys.live() if not key.expired(now)] if config.keys_required else []
    if config.keys_required and not any(Scope.OPERATE in key.scopes for key in valid):
        problem = "none of the existing keys has the scope operate" if valid else "there is no valid one"
        found.append(f"{WARNING}API keys are required, and {problem}: create one with `baton keys create NAME --scope operate`")
    return found
