"""The replica without its metrics, for `benchmarks.observability`. Apart, because importing it imports Ray."""

from __future__ import annotations

from typing import Any

from services.replica import replica
from services.replica.replica import ModelReplica
from services.replica.telemetry import Telemetry


class Silent(Telemetry):
    """Counts nothing and tells nobody."""

    def answered(self, *_: Any) -> None: ...

    def failed(self, *_: Any) -> None: ...

    def count_batch(self, *_: Any) -> None: ...

    def start(self, *_: Any) -> None: ...


class Quiet(ModelReplica):
    """The replica without its metrics."""

    def __init__(self, *arguments: Any) -> None:
        replica.Telemetry = Silent  # type: ignore[attr-defined]  # in this replica's process only
        super().__init__(*arguments)
