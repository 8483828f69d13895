"""The paths of one replica: for each, its method, its dialect, whether it is open to everybody, and what it does.

Knows neither how requests are read nor how they are answered: `services.replica.http` does both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from services.names import HEALTH
from services.replica.protocols import huggingface, inference_v2, kserve_v1, tei
from services.replica.protocols.dialect import Dialect


class Action(Enum):
    """What a path does."""

    PREDICT = auto()
    HEALTH = auto()
    """Baton's health check, whose error says why a replica is not ready."""
    INFO = auto()
    LIVE = auto()
    READY = auto()
    """Readiness of the server or of a model in the Open Inference Protocol, whose answer says no reason."""
    SERVER = auto()
    MODEL = auto()
    INDEX = auto()


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One path."""

    action: Action
    method: str = "GET"
    """POST, or GET, with which HEAD is allowed, too."""
    dialect: Dialect = huggingface.DIALECT
    open: bool = False
    """Whether it needs no API key."""

    @property
    def counted(self) -> bool:
        """Whether its errors are the model's: those of health checks and descriptions are not."""
        return self.action is Action.PREDICT

    @property
    def methods(self) -> tuple[str, ...]:
        """Allowed HTTP methods."""
        return ("GET", "HEAD", "OPTIONS") if self.method == "GET" else (self.method, "OPTIONS")


_VERSION = re.compile(r"(?P<model>/v2/models/[^/]+)/versions/(?P<version>[^/]+)(?P<rest>/.*)?")


class Endpoints:
    """All paths below the URL of the model ``name``."""

    def __init__(self, name: str) -> None:
        v1, v2 = kserve_v1.DIALECT, inference_v2.DIALECT
        self._paths: Mapping[str, Endpoint] = {
            "": Endpoint(action=Action.PREDICT, method="POST"),
            HEALTH: Endpoint(action=Action.HEALTH, open=True),
            "/info": Endpoint(action=Action.INFO),
            "/predict": Endpoint(action=Action.PREDICT, method="POST", dialect=tei.DIALECT),
            "/v2": Endpoint(action=Action.SERVER, dialect=v2),
            "/v2/health/live": Endpoint(action=Action.LIVE, dialect=v2, open=True),
            "/v2/health/ready": Endpoint(action=Action.READY, dialect=v2, open=True),
            "/v2/repository/index": Endpoint(action=Action.INDEX, method="POST", dialect=v2),
            f"/v2/models/{name}": Endpoint(action=Action.MODEL, dialect=v2),
            f"/v2/models/{name}/ready": Endpoint(action=Action.READY, dialect=v2, open=True),
            f"/v2/models/{name}/infer": Endpoint(action=Action.PREDICT, method="POST", dialect=v2),
            f"/v1/models/{name}:predict": Endpoint(action=Action.PREDICT, method="POST", dialect=v1),
        }

    def find(self, path: str) -> tuple[Endpoint | None, str]:
        """Return the endpoint of a path below the model's URL, and the version that the path names; empty if it names none."""
        endpoint = self._paths.get(path)
        if endpoint is not None:
            return endpoint, ""
        named = _VERSION.fullmatch(path)
        if named is None:
            return None, ""
        return self._paths.get(f"{named['model']}{named['rest'] or ''}"), named["version"]
