"""Finds the teacher of a run (``training.distil``) and puts it among the run's files, where its workers read it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from baton.artifacts.storage import Storage
from baton.config.base_models import find_base_model, read_config
from baton.config.model_settings import ModelSettings
from baton.errors import BaseModelNotFound, ConfigError
from baton.store.registry import Registry
from baton.tasks import AnyTask
from training.data.batches import encode
from training.fit.distillation import labels_of
from training.fit.request import TrainingRequest
from training.fit.weights import save_tokenizer

FOLDER = "teacher"
"""Folder of the teacher among the run's files."""

SAMPLE = 100
"""Training rows that the teacher must read as the model does."""


def bring_teacher(request: TrainingRequest, registry: Registry, rows: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """Copy the teacher to the run's files.

    Return its path there, empty if there is none yet, and facts for the lineage. A teacher without one of the run's labels
    teaches the others.

    Raises:
        ConfigError: the teacher's directory does not exist, or it has another tokenizer, or none of the run's labels.
        CorruptVersion: the champion's files are not those that were published.
    """
    settings = request.settings
    assert settings.training.distil is not None
    storage = Storage(request.storage, patient=True)
    with tempfile.TemporaryDirectory(prefix="baton-teacher-") as scratch:
        if settings.training.distil.teacher == "champion":
            champion = registry.champion_version(settings.name)
            if champion is None:
                return "", {"teacher": "none: there is no champion yet"}
            directory, manifest = storage.fetch(champion, Path(scratch) / "version")
            if manifest.task != settings.task:
                return "", {"teacher": f"none: the champion, v{champion.number}, is for {manifest.task}"}
            name = f"v{champion.number}"
        else:
            name = settings.training.distil.teacher
            try:
                directory = find_base_model(name)
            except BaseModelNotFound as error:
                raise ConfigError(f"training.distil.teacher: {error}") from error
        check_teacher(directory, name, settings, request.dataset.labels, rows[:SAMPLE])
        files = Path(scratch) / "files"
        files.mkdir()
        for file in directory.iterdir():
            if file.name == "config.json" or file.suffix == ".safetensors":
                shutil.copyfile(file, files / file.name)
        path = f"{request.run_id}/{FOLDER}"
        storage.write_run_files(path, files)
    return path, {"teacher": name}


def check_teacher(directory: Path, name: str, settings: ModelSettings, labels: Sequence[str], rows: Sequence[Any]) -> None:
    """Raise ``ConfigError`` unless the model in ``directory`` can teach.

    It must read ``rows`` as the base model does and know some of the ``labels``, if the task has any.
    """
    task = settings.make_task(labels)
    if _ids(task, directory, rows) != _ids(task, find_base_model(settings.base_model), rows):
        raise ConfigError(
            f"training.distil.teacher: {name} splits texts into other tokens than {settings.base_model}; allowed: a model with "
            "the same tokenizer"
        )
    known = labels_of(read_config(directory))
    if labels and not set(task.labels) & set(known):
        raise ConfigError(
            f"training.distil.teacher: {name} knows {', '.join(known[:5]) or 'no labels'}, but none of the run's labels, such "
            f"as {', '.join(sorted(labels)[:5])}"
        )


def _ids(task: AnyTask, directory: Path, rows: Sequence[Any]) -> list[Any]:
    """Return the tokens of ``rows`` for the model in ``directory``."""
    wrapper = transformers.AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    with tempfile.TemporaryDirectory(prefix="baton-tokenizer-") as scratch:
        tokenizer, _ = save_tokenizer(wrapper, directory, Path(scratch))
        return list(encode(task, task.prepare_tokenizer(tokenizer), rows).ids)
