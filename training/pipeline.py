"""The loop, readable as ten lines (`run`): freeze the data, train, publish, evaluate the champion, decide.

Ends with a stored Decision. The service rolls out what was promoted.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.artifacts.frozen import HOLDOUT
from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.base_models import check_length, find_base_model
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.quality.audit import is_drawn
from baton.store.records import DatasetVersion, Decision, Evaluation, ModelVersion, RunStage, RunState
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.text.masks import masker
from training.context import Clock, Context
from training.data import datasets
from training.data.splits import split_rows
from training.fit import start as starts
from training.fit.priority import scoring_threads
from training.fit.request import Trained, TrainingRequest
from training.judge.evaluate import cost, evaluate
from training.matches import Judge, decide
from training.methods.choose import choose_method
from training.reports import keep_answers

VERSION_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that a version takes from a checkpoint: no optimiser state, no pickles."""


def run(run_id: str, registry: Registry, storage: Storage, *, database: str) -> Decision:
    """Carry out a started run, from its frozen settings to a stored Decision and a finished record."""
    record = registry.runs.get(run_id)
    settings = ModelSettings.model_validate(record.spec)
    declared = ModelSettings.model_validate(registry.settings(record.model))
    clock = Clock(lambda stage, progress: registry.runs.report(run_id, stage, progress))
    context = Context(settings=settings, declared=declared, registry=registry, storage=storage, clock=clock)
    try:
        dataset, request = prepare(context, run_id, database)
        request, adaptation = adapt_base_model(context, dataset, request)
        with train(context, request) as best:
            trained = replace(best, details={**adaptation, **best.details})
            version, candidate = publish(context, run_id, dataset, trained)
        judge = Judge(version=dataset.version, examples=dataset.holdout, marks=dataset.marks)
        decision = decide(context, version, candidate, judge)
        registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    finally:
        storage.remove_run(run_id)
    return decision


# --- the steps -----------------------------------------------------------------------------------------------------------


def prepare(context: Context, run_id: str, database: str) -> tuple[datasets.Dataset, TrainingRequest]:
    """Check the base model, freeze the data and choose what training starts from."""
    settings, storage = context.settings, context.storage
    context.clock.enter(RunStage.PREPARING)
    check_length(find_base_model(settings.base_model), settings.base_model, settings.max_length)
    dataset = freeze(context)
    request = TrainingRequest(
        run_id=run_id,
        settings=settings,
        dataset=dataset.version,
        start=starts.find_start(settings, context.registry, storage, dataset),
        storage=storage.url,
        runs_path=storage.runs_path,
        database=database,
        progress=context.clock.note,
    )
    return dataset, request


def freeze(context: Context) -> datasets.Dataset:
    """Freeze the base data and all feedback so far, and record version and splits in the registry before training starts."""
    settings, registry, feedback = context.settings, context.registry, context.declared.feedback
    newest = registry.datasets.latest(settings.name)
    secret = registry.audit.secret()
    history = datasets.History(
        ledger=registry.datasets.ledger(settings.name),
        previous=newest.number if newest else None,
        feedback=registry.feedback.all(settings.name),
        audited=registry.audit.items(settings.name),
        classes=_classes(context, newest),
        is_drawn=lambda group: is_drawn(secret, settings.name, group, feedback.audit),
    )
    dataset = datasets.freeze(  # the declared settings decide who judges, whatever the run overrides
        settings.name,
        task_type(settings.task),
        settings.data,
        context.storage,
        history,
        redact=feedback.redact,
        declared=context.declared.data,
    )
    return replace(dataset, version=registry.datasets.add(settings.name, dataset.version, dataset.splits))


def _classes(context: Context, newest: DatasetVersion | None) -> set[str]:
    """Return the labels that ever were classes, in the form of `Task.labels_in`."""
    if newest is None:
        return set()
    task_cls = task_type(context.settings.task)
    return {*newest.classes, *task_cls(newest.labels, max_length=8).answer_labels}  # Baton 0.1 recorded the labels alone


def adapt_base_model(
    context: Context, dataset: datasets.Dataset, request: TrainingRequest
) -> tuple[TrainingRequest, dict[str, Any]]:
    """With ``training.adapt``, adapt the base model to texts without labels.

    Return the request to train with, and facts for the lineage.
    """
    if context.settings.training.adapt is None:
        return request, {}
    from training.methods.adaptation import adapt  # its libraries take seconds to load, and most runs do not need them

    context.clock.enter(RunStage.ADAPTING, dataset=asdict(dataset.version))
    ledger = context.registry.datasets.ledger(context.settings.name)
    return adapt(request, dataset, {fingerprint for fingerprint, split in ledger.items() if split == HOLDOUT})


def train(context: Context, request: TrainingRequest) -> AbstractContextManager[Trained]:
    """Train with the method that the settings choose. The checkpoint is readable inside the ``with`` block."""
    context.clock.enter(RunStage.TRAINING, dataset=asdict(request.dataset), start=request.start.facts())
    method = choose_method(context.settings.training)
    _import_early("baton.engines.torch_engine")
    return method(request)


def publish(context: Context, run_id: str, dataset: datasets.Dataset, trained: Trained) -> tuple[ModelVersion, Evaluation]:
    """Evaluate the checkpoint exactly as it will be served, publish it with its scores, and register it."""
    if trained.training is not None:
        settings = context.settings.model_copy(update={"training": trained.training})
        context = replace(context, settings=settings)
    model, registry = context.settings.name, context.registry
    with tempfile.TemporaryDirectory(prefix="baton-version-") as scratch:
        directory = Path(scratch)
        _copy_version_files(trained.directory, directory)
        scored = _score(context, directory, dataset, trained)
        number, uri, sha256 = _store(context, run_id, directory, scored)
    metrics, lineage = scored.metrics, _lineage(context, run_id, dataset, trained, scored)
    version = registry.versions.publish(model, number, uri=uri, manifest_sha256=sha256, metrics=metrics, lineage=lineage)
    keep_answers(context, number, dataset.version.holdout_hash, scored.answers)
    evaluation = registry.evaluations.add(model, number, dataset.version.holdout_hash, metrics, scored.statistics)
    return version, evaluation


# --- the parts of publish ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A model as it will be served, with its score on the holdout."""

    predictor: Predictor
    manifest: Manifest
    """With the calibration; without scores and probes."""
    metrics: Mapping[str, Any]
    """Scores and costs."""
    statistics: NDArray[np.int32]
    """As in `Evaluation`."""
    answers: Sequence[str]
    """In words."""


def calibrate(
    predictor: Predictor, settings: ModelSettings, dataset: datasets.Dataset, trained: Trained
) -> Mapping[str, float]:
    """Set the calibration of the predictor's task and return it. It is never computed from the holdout.

    It is the one that training computed, if any. Otherwise it is computed from the validation rows, which also chose the
    checkpoint.
    """
    task = predictor.task
    if trained.calibration is not None:
        task.calibration = dict(trained.calibration)
    elif task.calibrates():
        _, validation = split_rows(type(task), dataset.train, settings.training.validation_share(len(dataset.train)))
        task.calibration = task.calibrate(predictor.predict([task.input_of(row) for row in validation]), validation)
    return task.calibration


def _copy_version_files(checkpoint: Path, directory: Path) -> None:
    for name in VERSION_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, directory / name)


def _score(context: Context, directory: Path, dataset: datasets.Dataset, trained: Trained) -> _Scored:
    """Load the files of a version with the engine that will serve them, calibrate the model and evaluate it on the holdout."""
    settings, clock = context.settings, context.clock
    manifest = Manifest(
        model=settings.name,
        task=settings.task,
        labels=dataset.version.labels,
        max_length=settings.max_length,
        stride=settings.training.stride,
        long_text=settings.training.long_text,
        base_model=settings.base_model,
        metrics={},
        code_version=metadata.version("baton"),
        **_origin(settings, dataset),
    )
    predictor = Predictor.load(directory, manifest, settings.serving, threads=scoring_threads(settings.training))
    clock.enter(RunStage.EVALUATING, validation_f1=trained.f1, best_epoch=trained.epoch)
    manifest = manifest.model_copy(update={"calibration": calibrate(predictor, settings, dataset, trained)})
    evaluated = evaluate(predictor, dataset.holdout, clock.count, mask=masker(context.declared.feedback.redact))
    size = sum(file.stat().st_size for file in directory.iterdir())
    costs = cost(predictor, dataset.holdout, size=size, threads=settings.serving.threads)
    return _Scored(
        predictor=predictor,
        manifest=manifest,
        metrics={**evaluated.score.metrics, **costs},
        statistics=evaluated.score.statistics,
        answers=evaluated.answers,
    )


def _store(context: Context, run_id: str, directory: Path, scored: _Scored) -> tuple[int, str, str]:
    """Write the version to the storage. Return its number, its URI and the SHA-256 of its manifest."""
    metric = scored.predictor.task.metric
    context.clock.enter(RunStage.PUBLISHING, **{metric: scored.metrics[metric]})
    model = context.settings.name
    number = context.registry.versions.reserve(model, run_id, above=context.storage.newest(model))
    facts = {"metrics": scored.metrics, "probes": scored.predictor.probe()}
    uri, sha256 = context.storage.publish(number, directory, scored.manifest.model_copy(update=facts))
    return number, uri, sha256


def _lineage(context: Context, run_id: str, dataset: datasets.Dataset, trained: Trained, scored: _Scored) -> dict[str, Any]:
    """Return how the version came to be: its data, settings, start, best epoch, engine, and the seconds of each stage."""
    return {
        **_origin(context.settings, dataset),
        "run_id": run_id,
        "task": context.settings.task,
        "base_model": context.settings.base_model,
        "parent": trained.start.parent,
        "start": trained.start.facts(),
        "labels": list(dataset.version.labels),
        "best_epoch": trained.epoch,
        "validation_f1": trained.f1,
        "engine": scored.predictor.engine.description,
        "seconds": context.clock.seconds(),
        **trained.details,
    }


def _origin(settings: ModelSettings, dataset: datasets.Dataset) -> dict[str, Any]:
    """Return what both the manifest and the lineage record: the data set and the training settings."""
    return {"dataset": asdict(dataset.version), "training": settings.training.model_dump(mode="json")}


def _import_early(module: str) -> None:
    """Import a module that evaluation needs in a background thread, while the workers start.

    Call it after the imports of the main thread: two threads cannot import transformers at the same time.
    """
    threading.Thread(target=importlib.import_module, args=[module], daemon=True).start()
