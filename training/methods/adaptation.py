"""Domain adaptation: masked-language training of the base model on texts without labels, before the run's own training.

The result is a base model like any other, whose encoder was trained on the domain's texts. Texts of the holdout are left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import ray

from baton.tasks import task_type
from training.data.datasets import Dataset
from training.fit.checkpoints import ADAPTED_BASE, read_note
from training.fit.request import TrainingRequest
from training.fit.trainer import run_workers
from training.methods.domain_texts import gather_texts

FOLDER = "adapt"
"""Folder of the adaptation among the run's files."""


def adapt(
    request: TrainingRequest, dataset: Dataset, holdout_fingerprints: Collection[str]
) -> tuple[TrainingRequest, dict[str, Any]]:
    """Adapt the base model. Return ``request`` with the adapted base model as its start, and the facts for the lineage.

    The epoch with the lowest loss on the texts held back is kept. For ``holdout_fingerprints`` see `gather_texts`.

    Raises:
        DataError: the texts cannot be read, or too few are left.
        TrainingFailed: see `training.fit.trainer.run_workers`.
    """
    settings = request.settings.training.adapt
    assert settings is not None
    texts = gather_texts(settings, task_type(request.settings.task), dataset.holdout, holdout_fingerprints)
    request.progress(**texts.facts())
    checkpoint = run_workers(
        request,
        _run_worker,
        {"texts": ray.put(texts)},
        storage_path=f"{request.runs_path}/{request.run_id}",
        name=FOLDER,
        score="loss",
        mode="min",
    )
    with checkpoint.as_directory() as directory:
        note = read_note(directory)
    checkpoint_name = checkpoint.path.rstrip("/").rpartition("/")[2]
    prepared = f"{request.run_id}/{FOLDER}/{checkpoint_name}/{ADAPTED_BASE}"
    facts = {"data": settings.data, **texts.facts(), **note}
    return replace(request, start=replace(request.start, prepared=prepared)), {"adaptation": facts}


def _run_worker(config: dict[str, Any]) -> None:
    # Imported in the worker: its libraries take seconds to load, and the driver does not need them.
    from training.methods import masked

    masked.train(config)
