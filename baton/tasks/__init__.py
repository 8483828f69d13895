"""The tasks that Baton knows, by the name that `baton.yaml` uses: every task class of every module of this package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from baton.errors import NotFound
from baton.tasks.base import AnyTask, Task

__all__ = ["TASKS", "AnyTask", "task_type"]


def _find() -> dict[str, type[AnyTask]]:
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    task_classes = (
        task_cls
        for module in modules
        for task_cls in vars(module).values()
        if isinstance(task_cls, type) and issubclass(task_cls, Task)
    )
    return {task_cls.name: task_cls for task_cls in task_classes if not inspect.isabstract(task_cls)}


TASKS: dict[str, type[AnyTask]] = _find()


def task_type(name: str) -> type[AnyTask]:
    """The task class called ``name``. Raises ``NotFound``."""
    try:
        return TASKS[name]
    except KeyError:
        raise NotFound(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}") from None
