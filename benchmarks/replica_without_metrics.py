"""A replica without metrics, for `benchmarks.observability`. A separate module, because importing it imports Ray."""

from __future__ import annotations

from typing import Any

from services.replica import replica
from services.replica.replica import ModelReplica
from services.replica.telemetry import Telemetry


class NoTelemetry(Telemetry):
    """Counts and exports nothing."""

    def count_prediction(self, *_: Any) -> None: ...

    def count_error(self, *_: Any) -> None: ...

    def count_batch(self, *_: Any) -> None: ...

    def start(self, *_: Any) -> None: ...


class ReplicaWithoutMetrics(ModelReplica):
    """The product's replica, with `NoTelemetry`."""

    def __init__(self, *arguments: Any) -> None:
        replica.Telemetry = NoTelemetry  # type: ignore[attr-defined]  # in this replica's process only
        super().__init__(*arguments)
