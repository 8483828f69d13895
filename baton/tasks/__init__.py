"""What a model is trained to do: the Task contract and one task a file.

`TASKS` has every concrete subclass of `Task` in the modules of this package, by the name that ``baton.yaml`` uses. Tasks
work on texts, tokens and numpy arrays. They must not import the registry, the storage, the engines or torch.

Start with `base` (the contract that training, evaluation and serving share), then `classification` on `text_classifier` as the
simplest task, then `ner` or `qa`, which read long texts in windows. `rows` turns data rows into a task's examples.
"""

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
    """Return the task class called ``name``. Raises ``NotFound``."""
    try:
        return TASKS[name]
    except KeyError:
        raise NotFound(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}") from None
