"""The model that a worker trains: the base model with a fresh head, or the champion with the labels of the run's data."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from baton.artifacts.storage import Storage
from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.engines.torch_engine import load_model
from baton.predict.predictor import load_tokenizer
from baton.tasks import AnyTask
from training.fit.start import Start


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model that training starts from, on the local disk."""

    directory: Path
    """A Hugging Face directory: the base model, or the parent version."""
    labels: Sequence[str] | None
    """The labels of the parent's head, in the order of its outputs. None: a base model; its head, if any, is replaced unless it
    fits."""

    def load(self, task_cls: type[AnyTask], labels: Sequence[str]) -> Any:
        """Load the model to train, with one output for each of ``labels``. New weights use torch's global RNG."""
        if self.labels is None:
            # a model that writes has no head to replace: all of its weights must be there
            return load_model(task_cls.auto_model, self.directory, None if task_cls.target == "text" else labels)
        return relabel(load_model(task_cls.auto_model, self.directory), self.labels, labels)


def fetch(start: Start, settings: ModelSettings, storage: Storage, cache: Path) -> Origin:
    """Fetch the model that ``start`` names: one that an earlier step made, the parent (its files are verified), or the base.

    Raises:
        BaseModelNotFound: the base model is not available on this machine.
        CorruptVersion: the parent's files are not those that the driver saw.
        StorageError: the storage does not answer.
    """
    if start.prepared:
        return Origin(directory=storage.fetch_run(start.prepared, cache), labels=None)
    if start.parent is None:
        return Origin(directory=find_base_model(settings.base_model), labels=None)
    directory, manifest = storage.fetch_pinned(settings.name, start.parent, start.manifest_sha256, cache)
    return Origin(directory=directory, labels=manifest.labels)


def save_tokenizer(wrapper: Any, model: Path, directory: Path) -> tuple[Tokenizer, int]:
    """Save ``wrapper``, transformers' tokenizer of the model in ``model``, to ``directory``.

    Return the fast tokenizer that it wraps, and the padding id. Saving writes ``tokenizer.json``, which some base models lack.
    A copy of the model's ``config.json`` gives the padding id or, if it has none, the tokenizer: decoders often have it there.
    """
    wrapper.save_pretrained(str(directory))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config.get("pad_token_id") is None:
        config["pad_token_id"] = wrapper.pad_token_id
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_tokenizer(directory)


def relabel(model: Any, old_labels: Sequence[str], new_labels: Sequence[str]) -> Any:
    """Return ``model``, whose outputs are ``old_labels``, with one output for each of ``new_labels``, in their order.

    Example: ["bug", "cancel"] → ["account", "bug"]. The row of "bug" moves to output 1 and keeps its weights, and so its logit;
    "account" gets a fresh row; "cancel" is gone. Everything else stays. If anything changes, torch's global RNG is used.
    """
    if tuple(old_labels) == tuple(new_labels):
        return model
    fresh = type(model)(_config_with_labels(model.config, new_labels))
    label_parameters = _label_parameters(type(model), model.config, new_labels)
    old_row_of = {label: row for row, label in enumerate(old_labels)}
    kept_rows = [row for row, label in enumerate(new_labels) if label in old_row_of]
    old_rows = [old_row_of[new_labels[row]] for row in kept_rows]
    old_state = model.state_dict()
    for name, tensor in fresh.state_dict().items():  # shares its memory with the parameters
        if name in label_parameters:
            tensor[kept_rows] = old_state[name][old_rows]
        else:
            tensor.copy_(old_state[name])
    return fresh


def _label_parameters(model_cls: type[Any], config: Any, labels: Sequence[str]) -> set[str]:
    """Return the names of the parameters that have one row per label.

    They are found by comparing a model for ``labels`` with one that has a label more: the shapes of these parameters differ. On
    the meta device neither takes memory.
    """
    with torch.device("meta"):
        state = model_cls(_config_with_labels(config, labels)).state_dict()
        state_with_one_more = model_cls(_config_with_labels(config, [*labels, ""])).state_dict()
    return {name for name in state if state[name].shape != state_with_one_more[name].shape}


def _config_with_labels(config: Any, labels: Sequence[str]) -> Any:
    changed = copy.deepcopy(config)
    changed.id2label = dict(enumerate(labels))
    changed.label2id = {label: index for index, label in enumerate(labels)}
    return changed
