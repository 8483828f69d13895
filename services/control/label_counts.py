"""How many corrections name each label. Counted once and then kept up: rows are JSON, whose labels only their task knows."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from pydantic import ValidationError

from baton.config.model_settings import ModelSettings
from baton.store.feedback import CHUNK
from baton.store.registry import Registry
from baton.tasks import task_type


@dataclass
class _Tally:
    """What was counted: ``rows`` corrections up to the id ``until``."""

    until: int = 0
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)


class LabelCounts:
    """Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._known: dict[str, _Tally] = {}

    def labels(self, settings: ModelSettings) -> dict[str, int]:
        """For each label the corrections that name it, the most frequent first; empty for a task without labels.

        Corrections that the model's task does not take (it is another one by now) are left out. The first call reads all of
        them, later ones what has come since, unless somebody deleted some.
        """
        store, model, task_cls = self._registry.feedback, settings.name, task_type(settings.task)
        with self._lock:
            tally = self._known.setdefault(model, _Tally())
            if store.count_up_to(model, tally.until) != tally.rows:
                tally = self._known[model] = _Tally()
            while chunk := store.after(model, tally.until, CHUNK):
                for told in chunk:
                    try:
                        tally.labels.update(task_cls.labels_in(task_cls.Example.model_validate(told.example)))
                    except ValidationError:
                        continue
                tally.until, tally.rows = chunk[-1].id, tally.rows + len(chunk)
            return dict(tally.labels.most_common())
