"""What every step of a run needs: its settings, where it reads and writes, and a clock that reports its stages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.records import RunStage
from baton.store.registry import Registry

Report = Callable[[RunStage, dict[str, Any]], None]
"""Stores a run's stage and progress. Raises ``Conflict`` if the run has ended."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every step of a run needs."""

    settings: ModelSettings
    """Of the run, with its overrides."""
    declared: ModelSettings
    """Of the model in `baton.yaml`. Its data and its gate judge, whatever a run overrides."""
    registry: Registry
    storage: Storage
    clock: Clock


class Clock:
    """Reports the stages of a run and measures how long each takes."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stage: RunStage | None = None
        self._since = time.monotonic()
        self._seconds: dict[RunStage, float] = {}

    def enter(self, stage: RunStage, **progress: Any) -> None:
        """Begin ``stage`` and report it with its first ``progress``."""
        self._close()
        self._stage = stage
        self._report(stage, progress)

    def note(self, **progress: Any) -> None:
        """Report progress within the current stage."""
        assert self._stage is not None, "no stage has begun"
        self._report(self._stage, progress)

    def count(self, done: int, total: int) -> None:
        """Report progress within the current stage, in rows."""
        self.note(done=done, total=total)

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each stage has taken until now."""
        self._close()
        return {stage.value: round(seconds, 2) for stage, seconds in self._seconds.items()}

    def _close(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
