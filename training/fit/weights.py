"""The model that a worker trains: the base model with a fresh head, or the champion with the labels of the run's data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baton.artifacts.storage import Storage
from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.engines.torch_engine import load_model
from baton.tasks import AnyTask
from training.fit.start import Start


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A start on a worker's disk: the directory to load from, and the labels of its head (None: a base model has no head)."""

    directory: Path
    labels: Sequence[str] | None

    def model(self, task_cls: type[AnyTask], labels: Sequence[str]) -> Any:
        """The model to train, with an output for each of ``labels``; what is fresh in it is drawn from torch's generator."""
        if self.labels is None:
            return load_model(task_cls.auto_model, self.directory, labels)
        return relabel(load_model(task_cls.auto_model, self.directory), self.labels, labels)


def fetch(start: Start, settings: ModelSettings, storage: Storage, cache: Path) -> Origin:
    """The files that ``start`` names: those of the base model, adapted or not, or the parent's, verified.

    Raises:
        BaseModelNotFound, CorruptVersion, StorageError: with the reason.
    """
    if start.adapted:
        return Origin(directory=storage.fetch_run(start.adapted, cache), labels=None)
    if start.parent is None:
        return Origin(directory=find_base_model(settings.base_model), labels=None)
    directory, manifest = storage.fetch_pinned(settings.name, start.parent, start.manifest_sha256, cache)
    return Origin(directory=directory, labels=manifest.labels)


def relabel(model: Any, known: Sequence[str], labels: Sequence[str]) -> Any:
    """``model``, whose outputs are the labels ``known``, with one output for each of ``labels``, in their order.

    A label of both keeps its weights, wherever it stands now, and so its logit; a new one starts as in a fresh model; one that
    ``labels`` lack is gone. Everything else stays. Draws from torch's generator where anything changes.
    """
    if tuple(known) == tuple(labels):
        return model
    fresh = type(model)(_config(model.config, labels))
    by_label = _by_label(type(model), model.config, labels)
    places = {label: place for place, label in enumerate(known)}
    kept = [index for index, label in enumerate(labels) if label in places]
    before = [places[labels[index]] for index in kept]
    old = model.state_dict()
    for name, tensor in fresh.state_dict().items():  # shares its memory with the parameters
        if name in by_label:
            tensor[kept] = old[name][before]
        else:
            tensor.copy_(old[name])
    return fresh


def _by_label(task_cls: type[Any], config: Any, labels: Sequence[str]) -> set[str]:
    """Names of the parameters that have a row for each label: those whose shape follows the number of labels."""
    with torch.device("meta"):
        these, more = (task_cls(_config(config, names)).state_dict() for names in (labels, [*labels, ""]))
    return {name for name in these if these[name].shape != more[name].shape}


def _config(config: Any, labels: Sequence[str]) -> Any:
    changed = copy.deepcopy(config)
    changed.id2label = dict(enumerate(labels))
    changed.label2id = {label: index for index, label in enumerate(labels)}
    return changed
