"""The files of a version → a published version: calibrated, scored as it will be served, and stored with its manifest.

Used for versions that were trained here and for those from elsewhere; knows no difference.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.artifacts.manifest import Manifest
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Evaluation, RunStage
from baton.text.masks import masker
from training.context import Context
from training.data.splits import split_rows
from training.judge.evaluate import cost, evaluate
from training.reports import keep_answers

VERSION_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that a version takes from a checkpoint: no optimiser state, no pickles."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation of a model on a holdout gave."""

    metrics: Mapping[str, Any]
    """Scores and costs."""
    statistics: NDArray[np.int32]
    """As in `Evaluation`."""
    answers: Sequence[str]
    """In words."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a version is in the storage. The fields are parameters of `VersionStore.publish`."""

    number: int
    uri: str
    manifest_sha256: str


def copy_version_files(checkpoint: Path, directory: Path) -> None:
    """Copy the files of a version, and nothing else, from a checkpoint to ``directory``."""
    for name in VERSION_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, directory / name)


def calibrate(predictor: Predictor, settings: ModelSettings, train: Sequence[Any]) -> Mapping[str, float]:
    """Set the calibration of the predictor's task from the validation rows among ``train``, and return it."""
    task = predictor.task
    if task.calibrates():
        _, validation = split_rows(type(task), train, settings.training.validation_share(len(train)))
        task.calibration = task.calibrate(predictor.predict([task.input_of(row) for row in validation]), validation)
    return task.calibration


def score(context: Context, predictor: Predictor, examples: Sequence[Any], directory: Path) -> Scores:
    """Evaluate a model on a holdout, and measure what it costs to serve the version in ``directory``."""
    settings = context.settings
    evaluated = evaluate(predictor, examples, context.clock.count, mask=masker(context.declared.feedback.redact))
    size = sum(file.stat().st_size for file in directory.iterdir())
    costs = cost(predictor, examples, size=size, threads=settings.serving.threads)
    return Scores(
        metrics={**evaluated.score.metrics, **costs},
        statistics=evaluated.score.statistics,
        answers=evaluated.answers,
    )


def store(
    context: Context,
    run_id: str,
    directory: Path,
    predictor: Predictor,
    manifest: Manifest,
    *,
    metrics: Mapping[str, Any],
) -> Stored:
    """Write a version to the storage under the number of its run, with its metrics and probes in the manifest."""
    main = predictor.task.metric
    context.clock.enter(RunStage.PUBLISHING, **({main: metrics[main]} if main in metrics else {}))
    model = context.settings.name
    number = context.registry.versions.reserve(model, run_id, above=context.storage.newest(model))
    complete = manifest.model_copy(update={"metrics": metrics, "probes": predictor.probe()})
    uri, sha256 = context.storage.publish(number, directory, complete)
    return Stored(number=number, uri=uri, manifest_sha256=sha256)


def keep(context: Context, number: int, holdout_hash: str, scores: Scores) -> Evaluation:
    """Store the evaluation of a version, and its answers for reports."""
    keep_answers(context, number, holdout_hash, scores.answers)
    return context.registry.evaluations.add(context.settings.name, number, holdout_hash, scores.metrics, scores.statistics)
