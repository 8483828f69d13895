"""A run that registers a version from elsewhere: import, evaluate, publish, decide. It trains nothing.

Ends with a stored Decision, like a run that trains, if the declared data have a holdout. Without one nothing can be judged: the
version is published without scores, and a user may force it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baton import installation
from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import LARGEST_INTEGER, ModelVersion, Run, RunStage, RunState
from baton.store.registry import Registry
from training import elsewhere
from training.context import Clock, Context
from training.data.datasets import Dataset
from training.elsewhere import Found
from training.freezing import freeze
from training.matches import Judge, decide
from training.publishing import Candidate, calibrate, copy_version_files, keep, make_candidate, size_of, store


def register(run_id: str, registry: Registry, storage: Storage) -> str:
    """Carry out a started run that has a source. Return what came of it, in a sentence.

    Raises:
        UnusableModel: the source cannot become a version of the model.
    """
    record = registry.runs.get(run_id)
    settings = ModelSettings.model_validate(record.spec)
    clock = Clock(lambda stage, progress: registry.runs.report(run_id, stage, progress))
    context = Context(settings=settings, declared=settings, registry=registry, storage=storage, clock=clock)
    assert record.source is not None
    with tempfile.TemporaryDirectory(prefix="baton-import-") as scratch:
        clock.enter(RunStage.IMPORTING, source=record.source.location)
        (downloaded := Path(scratch) / "source").mkdir()
        found = elsewhere.find(record.source, settings, downloaded)
        twin = _same_files(context, found)
        if twin is not None:
            return _end(context, run_id, twin, f"these files are v{twin} of {settings.name} already")
        (converted := Path(scratch) / "converted").mkdir()
        elsewhere.convert(found, converted)
        (directory := Path(scratch) / "version").mkdir()
        copy_version_files(converted, directory)
        return _publish(context, record, found, directory)


def _publish(context: Context, record: Run, found: Found, directory: Path) -> str:
    """Publish the version in ``directory`` and let the gate decide on it, if anything can judge it."""
    settings, registry, clock = context.settings, context.registry, context.clock
    dataset = freeze(context) if settings.data.judges else None
    manifest = Manifest(
        model=settings.name,
        task=settings.task,
        labels=found.labels,
        base_model=found.location,
        dataset=_judged_on(dataset),
        training={},
        metrics={},
        code_version=installation.version(),
        **_windows(settings),
    )

    def calibration(predictor: Predictor) -> Mapping[str, float]:
        return calibrate(predictor, settings, dataset.train) if dataset is not None and settings.data.train is not None else {}

    if dataset is not None:
        clock.enter(RunStage.EVALUATING)
    train, holdout = ((), None) if dataset is None else (dataset.train, dataset.holdout)
    candidate = make_candidate(context, directory, manifest, train=train, holdout=holdout, calibration=calibration)
    scores = candidate.scores
    metrics = {"megabytes": size_of(directory) / 1e6} if scores is None else scores.metrics
    stored = store(context, record.id, directory, candidate)
    lineage = _lineage(context, record, found, candidate, dataset)
    version = registry.versions.publish(settings.name, **asdict(stored), metrics=metrics, lineage=lineage)
    if dataset is None or scores is None:
        return _end(context, record.id, version.number, f"v{version.number} was not judged: {_why_not(settings, version)}")
    evaluation = keep(context, version.number, dataset.version.holdout_hash, scores)
    judge = Judge(version=dataset.version, examples=dataset.holdout, marks=dataset.marks)
    decision = decide(context, version, evaluation, judge)
    registry.runs.finish(record.id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    return decision.sentence


def _end(context: Context, run_id: str, number: int, reason: str) -> str:
    """End the run without a decision. Return the reason."""
    context.registry.runs.finish(run_id, RunState.SUCCEEDED, version=number, reason=reason)
    return reason


def _why_not(settings: ModelSettings, version: ModelVersion) -> str:
    return (
        f"{settings.name} declares no data, so that there is no holdout. `baton promote {settings.name} {version.number} "
        "--force --reason …` puts it into service; with data.holdout it would be evaluated"
    )


def _same_files(context: Context, found: Found) -> int | None:
    """Return the number of the version that was registered from the same files, with the same labels and settings."""
    settings = context.settings
    for version in context.registry.versions.list(settings.name, limit=LARGEST_INTEGER):
        lineage = version.lineage
        known = (lineage.get("source", {}).get("files"), lineage.get("task"), lineage.get("labels"), lineage.get("windows"))
        if known == (dict(found.files), settings.task, list(found.labels), _windows(settings)):
            return version.number
    return None


def _windows(settings: ModelSettings) -> dict[str, Any]:
    """Return how the version reads long texts and writes its own, as its manifest names it."""
    training = settings.training
    generation = {} if training.generation is None else {"generation": training.generation.model_dump()}
    return {"max_length": settings.max_length, "stride": training.stride, "long_text": training.long_text, **generation}


def _judged_on(dataset: Dataset | None) -> dict[str, Any]:
    """Return what judged the version, in the fields of a data set. Those of train are missing: it was not trained on them."""
    if dataset is None:
        return {}
    return {name: getattr(dataset.version, name) for name in ("number", "holdout_hash", "holdout_rows", "holdout_audited")}


def _lineage(context: Context, record: Run, found: Found, candidate: Candidate, dataset: Dataset | None) -> Mapping[str, Any]:
    """Return where the version came from: its source with the SHA-256 of every file, who asked for it, and what judged it."""
    settings = context.settings
    newest = context.registry.versions.list(settings.name, limit=1)
    # corrections that no version was trained on stay new for automatic retraining
    seen = newest[0].lineage.get("dataset", {}).get("feedback_until", 0) if newest else 0
    assert record.source is not None
    return {
        "run_id": record.id,
        "task": settings.task,
        "base_model": found.location,
        "parent": None,
        "labels": list(found.labels),
        "source": {**asdict(record.source), "files": dict(found.files)},
        "windows": _windows(settings),
        "dataset": {**_judged_on(dataset), "feedback_until": seen},
        "training": {},
        **candidate.engine_facts,
        "seconds": context.clock.seconds(),
    }
