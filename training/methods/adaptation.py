"""Domain adaptation: continued masked-language training of the base model on texts without labels, before anything else.

The outcome is a base model like any other, whose encoder has read the domain's texts. Texts of the holdout are left out.
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
from training.fit.trainer import fit
from training.methods.domain_texts import gather

FOLDER = "adapt"
"""Folder of the adaptation among the run's files."""


def adapt(request: TrainingRequest, dataset: Dataset, held: Collection[str]) -> tuple[TrainingRequest, dict[str, Any]]:
    """``request`` with an adapted base model to start from, and how that came about, for the lineage. ``held``: see `gather`.

    Of the epochs, the one with the lowest loss on the texts held back counts.

    Raises:
        DataError: the texts cannot be read.
        TrainingFailed: as `training.fit.trainer.fit` does.
    """
    settings = request.settings.training.adapt
    assert settings is not None
    texts = gather(settings, task_type(request.settings.task), dataset.holdout, held)
    request.progress(**texts.facts())
    folder = f"{request.run_id}/{FOLDER}"
    checkpoint = fit(
        request, _train, {"texts": ray.put(texts)}, storage_path=f"{request.runs_path}/{request.run_id}", name=FOLDER,
        score="loss", mode="min",
    )  # fmt: skip
    with checkpoint.as_directory() as directory:
        note = read_note(directory)
    adapted = f"{folder}/{checkpoint.path.rstrip('/').rpartition('/')[2]}/{ADAPTED_BASE}"
    facts = {"data": settings.data, **texts.facts(), **note}
    return replace(request, start=replace(request.start, adapted=adapted)), {"adaptation": facts}


def _train(config: dict[str, Any]) -> None:
    from training.methods import masked

    masked.train(config)
