"""The tasks that Baton knows, by the name that `baton.yaml` uses."""

from __future__ import annotations

from typing import Any

from baton.errors import NotFound
from baton.tasks.base import Task
from baton.tasks.classification import Classification

TASKS: dict[str, type[Task[Any, Any, Any, Any]]] = {task.name: task for task in (Classification,)}


def task_type(name: str) -> type[Task[Any, Any, Any, Any]]:
    """The task class called ``name``. Raises ``NotFound``."""
    try:
        return TASKS[name]
    except KeyError:
        raise NotFound(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}") from None
