"""Selects the way to make a checkpoint by a model's training settings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from baton.config.training_settings import TrainingSettings
from training.fit.request import Trained, TrainingRequest

Method = Callable[[TrainingRequest], AbstractContextManager[Trained]]
"""Makes a checkpoint, which is readable inside the ``with`` block."""


def choose_method(training: TrainingSettings) -> Method:
    """Return the method that ``training`` selects. Each is imported when it is needed: their libraries take seconds to load."""
    if training.few_shot:
        from training.methods.few_shot import few_shot

        return few_shot
    if training.search is not None:
        from training.methods.search import search

        return search
    if training.folds is not None:
        from training.methods.folds import cross_validate

        return cross_validate
    from training.fit.trainer import fine_tune

    return fine_tune
