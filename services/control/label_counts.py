"""Counts of corrections by label, updated incrementally in memory: the database stores rows as JSON and knows no labels."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from pydantic import ValidationError

from baton.config.model_settings import ModelSettings
from baton.store.feedback.store import CHUNK
from baton.store.registry import Registry
from baton.tasks import task_type


@dataclass
class _Counted:
    """The corrections of one model that were counted so far."""

    until: int = 0
    """The highest id."""
    rows: int = 0
    """Number of corrections up to ``until``. A different number in the database means that some were deleted."""
    labels: Counter[str] = field(default_factory=Counter)


class LabelCounts:
    """Counts the corrections of every model by label. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._by_model: dict[str, _Counted] = {}

    def labels(self, settings: ModelSettings) -> dict[str, int]:
        """Return the number of corrections by label, the most frequent first; empty for a task without labels.

        Corrections that do not fit the model's present task are left out. The first call reads all corrections; later calls
        read only new ones, unless some were deleted.
        """
        store, model, task_cls = self._registry.feedback, settings.name, task_type(settings.task)
        with self._lock:
            counted = self._by_model.setdefault(model, _Counted())
            if store.count_up_to(model, counted.until) != counted.rows:
                counted = self._by_model[model] = _Counted()
            while chunk := store.after(model, counted.until, CHUNK):
                for correction in chunk:
                    try:
                        example = task_cls.Example.model_validate(correction.example)
                    except ValidationError:
                        continue
                    counted.labels.update(task_cls.labels_in(example))
                counted.until, counted.rows = chunk[-1].id, counted.rows + len(chunk)
            return dict(counted.labels.most_common())
