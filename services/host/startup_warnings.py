"""What a configuration opens to others, and what whoever starts it should know. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from baton.config.file import AuthSettings, BatonConfig
from baton.keys import Scope
from baton.store.urls import public

if TYPE_CHECKING:
    from baton.store.registry import Registry

WARNING, NOTE = "WARNING: ", "NOTE: "
"""How the sentences begin: what must be looked at, and what is so on every machine."""


def closed(config: BatonConfig) -> BatonConfig:
    """``config`` for a cluster that somebody else runs: nobody knows where that listens, so that `auto` asks for keys."""
    if config.auth.required != "auto":
        return config
    return config.model_copy(update={"auth": AuthSettings(required=True)})


def remarks(config: BatonConfig, registry: Registry, ports: Mapping[str, int]) -> list[str]:
    """What to tell before it starts; ``ports`` are those of Baton's own Ray. Raises ``RegistryError``."""
    found = []
    if not ports and public(config.database) != config.database:
        found.append(
            f"{WARNING}the database's password goes into what this cluster keeps and logs of its applications; `baton render` "
            "leaves it to the environment of the nodes"
        )
    host, port = config.http.host, config.http.port
    if not config.keys_required and not config.http.loopback:
        found.append(
            f"{WARNING}{host}:{port} and the replicas' own ports (30000 and up) can be reached from outside, and no API key is "
            "asked for (auth.required: false): anybody there can predict, correct, train and promote. Set auth.required: auto, "
            "and see docs/security.md"
        )
    listed = ", ".join(str(ports[name]) for name in ("haproxy_stats", "haproxy_metrics") if name in ports) or "8404, 9101"
    found.append(
        f"{NOTE if config.http.loopback else WARNING}HAProxy's statistics and metrics ({listed}) and Serve's gRPC "
        "(random ports) listen on all addresses and know no API keys: keep a firewall in front"
    )
    now = datetime.now(UTC)
    valid = [key for key in registry.keys.live() if not key.expired(now)] if config.keys_required else []
    if config.keys_required and not any(Scope.OPERATE in key.scopes for key in valid):
        which = "none of them may operate" if valid else "there is none"
        found.append(f"{WARNING}API keys are asked for, and {which}: make one with `baton keys create NAME --scope operate`")
    return found
