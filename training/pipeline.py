"""The loop, readable as ten lines (`run`): freeze the data, choose a recipe, train, publish, evaluate the champion, decide.

Ends with a stored Decision. The service rolls out what was promoted.
"""

from __future__ import annotations

import importlib
import tempfile
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from baton import installation
from baton.artifacts.frozen import HOLDOUT
from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.base_models import check_architecture, check_length, find_base_model, read_config
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Decision, Evaluation, ModelVersion, RunStage, RunState
from baton.store.registry import Registry
from baton.tasks import task_type
from training import publishing
from training.context import Clock, Context
from training.data import datasets
from training.fit import start as starts
from training.fit.request import Trained, TrainingRequest
from training.freezing import freeze
from training.looking import look_at_frozen
from training.matches import Judge, decide
from training.methods.choose import choose_method
from training.publishing import Candidate, copy_version_files, keep, make_candidate, store


def run(run_id: str, registry: Registry, storage: Storage, *, database: str) -> Decision:
    """Carry out a started run, from its frozen settings to a stored Decision and a finished record."""
    record = registry.runs.get(run_id)
    settings = ModelSettings.model_validate(record.spec)
    declared = ModelSettings.model_validate(registry.settings(record.model))
    clock = Clock(lambda stage, progress: registry.runs.report(run_id, stage, progress))
    context = Context(settings=settings, declared=declared, registry=registry, storage=storage, clock=clock)
    try:
        dataset = prepare(context)
        context, start, recipe = choose_recipe(context, dataset)
        request = make_request(context, run_id, dataset, start, database)
        request, teaching = find_teacher(context, dataset, request)
        request, adaptation = adapt_base_model(context, dataset, request)
        request, pruning = prune(context, request)
        request, probing = fit_probe(context, request, recipe)
        with train(context, request, recipe) as best:
            trained = replace(best, details={**recipe, **teaching, **adaptation, **pruning, **probing, **best.details})
            version, candidate = publish(context, run_id, dataset, trained)
        judge = Judge(version=dataset.version, examples=dataset.holdout, marks=dataset.marks)
        decision = decide(context, version, candidate, judge)
        registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    finally:
        storage.remove_run(run_id)
    return decision


# --- the steps -----------------------------------------------------------------------------------------------------------


def prepare(context: Context) -> datasets.Dataset:
    """Check the base model, freeze the data, and report what they hold."""
    settings = context.settings
    context.clock.enter(RunStage.PREPARING)
    settings.check_trainable(context.declared.data)
    check_length(find_base_model(settings.base_model), settings.base_model, settings.max_length, settings.new_tokens)
    dataset = freeze(context)
    if (report := look_at_frozen(settings, dataset)) is not None:
        context.clock.note(data=report)
    return dataset


def choose_recipe(context: Context, dataset: datasets.Dataset) -> tuple[Context, starts.Start, dict[str, Any]]:
    """Choose what training starts from, and the settings that nobody set.

    Return a context whose settings leave nothing to choose, the start, and facts for the lineage.
    """
    from training.methods.recipe import choose  # imports torch, which takes seconds: bad data are told before

    settings = context.settings
    base = find_base_model(settings.base_model)
    start, missing = starts.find_start(settings, context.registry, context.storage, dataset), ""
    if start.parent is None:  # a champion from elsewhere is trained further also where its source has no safetensors
        check_architecture(base, settings.base_model, task_type(settings.task).auto_model)
        if settings.training.start_from == "champion":
            missing = f"{start.reason}: "
            settings = settings.model_copy(update={"training": settings.training.model_copy(update={"start_from": None})})
    recipe = choose(settings, dataset.train, read_config(base))
    chosen = settings.model_copy(update={"training": recipe.training})
    return replace(context, settings=chosen), start, {"recipe": f"{missing}{recipe.reason}"}


def make_request(
    context: Context, run_id: str, dataset: datasets.Dataset, start: starts.Start, database: str
) -> TrainingRequest:
    """Return the request to train from ``start``."""
    settings, storage = context.settings, context.storage
    return TrainingRequest(
        run_id=run_id,
        settings=settings,
        dataset=dataset.version,
        start=start,
        storage=storage.url,
        runs_path=storage.runs_path,
        database=database,
        progress=context.clock.note,
    )


def find_teacher(
    context: Context, dataset: datasets.Dataset, request: TrainingRequest
) -> tuple[TrainingRequest, dict[str, Any]]:
    """With ``training.distil``, find the teacher. Return the request to train with, and facts for the lineage."""
    if context.settings.training.distil is None:
        return request, {}
    from training.methods.teaching import bring_teacher

    path, facts = bring_teacher(request, context.registry, dataset.train)
    return replace(request, start=replace(request.start, teacher=path)), {"distillation": facts}


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


def prune(context: Context, request: TrainingRequest) -> tuple[TrainingRequest, dict[str, Any]]:
    """With ``training.prune``, make what training starts from smaller. Return the request, and facts for the lineage."""
    if context.settings.training.prune is None:
        return request, {}
    from training.methods import pruning

    context.clock.enter(RunStage.PRUNING, dataset=asdict(request.dataset))
    with pruning.prune(request) as (directory, facts):
        path = f"{request.run_id}/pruned"
        context.storage.write_run_files(path, directory)
    return replace(request, start=replace(request.start, prepared=path)), {"pruning": facts}


def fit_probe(context: Context, request: TrainingRequest, recipe: Mapping[str, Any]) -> tuple[TrainingRequest, dict[str, Any]]:
    """With ``training.start_from: probe``, fit a probe. Return the request to train from it, and facts for the lineage."""
    settings, storage = context.settings, context.storage
    if settings.training.start_from != "probe":
        return request, {}
    from training.methods.probe import probe

    context.clock.enter(RunStage.PROBING, dataset=asdict(request.dataset), **recipe)
    with probe(request) as (directory, facts):
        path = f"{request.run_id}/probe"
        storage.write_run_files(path, directory)
    reason = f"a probe of it has a cross-validated {task_type(settings.task).metric} of {facts['f1']:.4f}"
    return replace(request, start=replace(request.start, prepared=path, reason=reason)), {"probe": facts}


def train(context: Context, request: TrainingRequest, recipe: Mapping[str, Any]) -> AbstractContextManager[Trained]:
    """Train with the method that the settings choose. The checkpoint is readable inside the ``with`` block."""
    context.clock.enter(RunStage.TRAINING, dataset=asdict(request.dataset), start=request.start.facts(), **recipe)
    method = choose_method(context.settings.training)
    _import_early("baton.engines.torch_engine")
    return method(request)


def publish(context: Context, run_id: str, dataset: datasets.Dataset, trained: Trained) -> tuple[ModelVersion, Evaluation]:
    """Evaluate the checkpoint exactly as it will be served, publish it with its scores, and register it."""
    if trained.training is not None:
        settings = context.settings.model_copy(update={"training": trained.training})
        context = replace(context, settings=settings)
    with tempfile.TemporaryDirectory(prefix="baton-version-") as scratch:
        directory = Path(scratch)
        copy_version_files(trained.directory, directory)
        context.clock.enter(RunStage.EVALUATING, validation_f1=trained.f1, best_epoch=trained.epoch)
        candidate = make_candidate(
            context,
            directory,
            _manifest(context, dataset),
            train=dataset.train,
            holdout=dataset.holdout,
            calibration=lambda predictor: calibrate(predictor, context.settings, dataset, trained),
        )
        assert candidate.scores is not None
        stored = store(context, run_id, directory, candidate)
    lineage = _lineage(context, run_id, dataset, trained, candidate)
    scores = candidate.scores
    version = context.registry.versions.publish(
        context.settings.name, **asdict(stored), metrics=scores.metrics, lineage=lineage
    )
    return version, keep(context, version.number, dataset.version.holdout_hash, scores)


# --- the parts of publish ------------------------------------------------------------------------------------------------


def calibrate(
    predictor: Predictor, settings: ModelSettings, dataset: datasets.Dataset, trained: Trained
) -> Mapping[str, float]:
    """Set the calibration of the predictor's task and return it. It is never computed from the holdout.

    It is the one that training computed, if any. Otherwise it is computed from the validation rows, which also chose the
    checkpoint.
    """
    if trained.calibration is None:
        return publishing.calibrate(predictor, settings, dataset.train)
    predictor.task.calibration = dict(trained.calibration)
    return predictor.task.calibration


def _manifest(context: Context, dataset: datasets.Dataset) -> Manifest:
    """Return the manifest of the version, still without calibration, scores and probes."""
    settings = context.settings
    return Manifest(
        model=settings.name,
        task=settings.task,
        labels=dataset.version.labels,
        max_length=settings.max_length,
        stride=settings.training.stride,
        long_text=settings.training.long_text,
        generation=settings.training.generation,
        base_model=settings.base_model,
        metrics={},
        code_version=installation.version(),
        **_origin(settings, dataset),
    )


def _lineage(
    context: Context, run_id: str, dataset: datasets.Dataset, trained: Trained, candidate: Candidate
) -> dict[str, Any]:
    """Return how the version came to be: its data, settings, start, best epoch, engines, and the seconds of each stage."""
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
        **candidate.engine_facts,
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
