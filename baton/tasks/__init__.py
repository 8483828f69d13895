"""The tasks that Baton knows, by the name that `baton.yaml` uses: every task class of every module of this package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from baton.errors import NotFound
from baton.tasks.base import Task

AnyTask = Task[Any, Any, Any, Any]


def _find() -> dict[str, type[AnyTask]]:
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    kinds = (kind for module in modules for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Task))
    return {kind.name: kind for kind in kinds if not inspect.isabstract(kind)}


TASKS: dict[str, type[AnyTask]] = _find()


def task_type(name: str) -> type[AnyTask]:
    """The task class called ``name``. Raises ``NotFound``."""
    try:
        return TASKS[name]
    except KeyError:
        raise NotFound(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}") from None
