"""The loop, readable as ten lines (`run`): freeze the data, train, publish, evaluate the champion, decide.

Ends with a stored Decision. The service rolls out what was promoted.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from baton.artifacts.frozen import HOLDOUT, read_corrections
from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.base_models import check_length, find_base_model
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.quality.audit import is_drawn
from baton.store.records import Champion, DatasetVersion, Decision, Evaluation, ModelVersion, RunStage, RunState
from baton.store.registry import Registry
from baton.tasks import AnyTask, task_type
from baton.tasks.base import Score
from training.data import datasets
from training.data.splits import split_rows
from training.fit import start as starts
from training.fit.priority import scoring_threads
from training.fit.request import Trained, TrainingRequest
from training.judge.decision import Contender, decide_match
from training.judge.evaluate import evaluate
from training.judge.holdout import describe_holdout
from training.methods.adaptation import adapt
from training.methods.choose import choose_method

Report = Callable[[RunStage, dict[str, Any]], None]
"""Stores a run's stage and progress. Raises ``Conflict`` if the run has ended."""

VERSION_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that a version takes from a checkpoint: no optimiser state, no pickles."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every step of a run needs."""

    settings: ModelSettings
    """Of the run, with its overrides."""
    declared: ModelSettings
    """Of the model in `baton.yaml`. Its data and its gate judge, whatever a run overrides."""
    registry: Registry
    storage: Storage
    clock: Clock


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
        decision = decide(context, version, candidate, Judge(version=dataset.version, examples=dataset.holdout))
        registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    finally:
        storage.remove_run(run_id)
    return decision


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A frozen holdout on which versions are compared."""

    version: DatasetVersion
    examples: Sequence[Any]


def judge(settings: ModelSettings, number: int, registry: Registry, storage: Storage, *, overtaken: bool = False) -> Decision:
    """Compare a published version with the champion on the newest holdout of the declared data, and store the decision.

    Args:
        settings: of the model, as the service that asks has them. They have the policy.
        overtaken: the version won a match, but another one took over first. The decision replaces that of its run.
    """
    clock = Clock(lambda stage, progress: None)
    context = Context(settings=settings, declared=settings, registry=registry, storage=storage, clock=clock)
    version = registry.versions.get(settings.name, number)
    newest = registry.datasets.latest(settings.name, holdout_source=settings.data.holdout_source)
    # a version from before the registry recorded data sets: its lineage has its own
    dataset = DatasetVersion(**version.lineage["dataset"]) if newest is None else newest
    holdout = datasets.load_split(task_type(settings.task), storage, dataset.uri, HOLDOUT)
    candidate = evaluate_version(context, version, holdout, dataset.holdout_hash)
    return decide(context, version, candidate, Judge(version=dataset, examples=holdout), of_run=overtaken)


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
    metrics, lineage = scored.score.metrics, _lineage(context, run_id, dataset, trained, scored)
    version = registry.versions.publish(model, number, uri=uri, manifest_sha256=sha256, metrics=metrics, lineage=lineage)
    evaluation = registry.evaluations.add(model, number, dataset.version.holdout_hash, metrics, scored.score.statistics)
    return version, evaluation


def evaluate_version(context: Context, version: ModelVersion, examples: Sequence[Any], holdout_hash: str) -> Evaluation:
    """Return a published version's evaluation on frozen rows with this hash. Evaluate it now unless the registry has one."""
    settings = context.settings
    known = context.registry.evaluations.get(settings.name, version.number, holdout_hash)
    if known is not None:
        return known
    context.clock.enter(RunStage.EVALUATING, evaluated_version=version.number)
    with tempfile.TemporaryDirectory(prefix="baton-fetch-") as cache:
        directory, manifest = context.storage.fetch(version, Path(cache))
        predictor = Predictor.load(directory, manifest, settings.serving, threads=scoring_threads(settings.training))

        def count(done: int, total: int) -> None:  # each report replaces the progress of the one before
            context.clock.note(done=done, total=total, evaluated_version=version.number)

        score = evaluate(predictor, examples, count)
    return context.registry.evaluations.add(settings.name, version.number, holdout_hash, score.metrics, score.statistics)


def decide(context: Context, version: ModelVersion, candidate: Evaluation, judge: Judge, *, of_run: bool = False) -> Decision:
    """Evaluate the champion, let the gate decide whether ``version`` may replace it, and store the decision.

    The match is recorded before it is played, so that it counts whatever happens afterwards.
    """
    registry, model, task_cls = context.registry, context.settings.name, task_type(context.settings.task)
    pointer = registry.champion(model)
    champion = _opponent(context, pointer)
    rival = None if champion is None else evaluate_version(context, champion, judge.examples, judge.version.holdout_hash)
    corrections = _on_corrections(context, judge.version, [version] if champion is None else [version, champion])
    context.clock.enter(RunStage.DECIDING)
    rows = judge.version.holdout_rows - judge.version.holdout_feedback  # feedback that Baton 0.1 held out does not judge
    holdout = describe_holdout(
        task_cls, judge.examples[:rows], judge.version.holdout_hash, audited=judge.version.holdout_audited
    )
    number = registry.matches.open(
        model,
        champion=pointer.version,
        candidate=version.number,
        holdout_hash=holdout.hash,
        groups=holdout.fingerprints,
    )
    decision = decide_match(
        context.settings.make_task(()),
        holdout,
        _contender(task_cls, version, candidate, rows),
        None if champion is None or rival is None else _contender(task_cls, champion, rival, rows),
        pointer=pointer,
        number=number,
        policy=context.declared.gate,
        corrections=corrections,
    )
    return registry.add_decision(decision, of_run=of_run)


def _on_corrections(context: Context, dataset: DatasetVersion, versions: Sequence[ModelVersion]) -> list[Evaluation]:
    """Return the evaluations of versions on the held-out corrections of a data set, which decide nothing; [] without any."""
    if not dataset.corrections:
        return []
    examples = read_corrections(task_type(context.settings.task), context.storage, dataset.uri, dataset.corrections_hash)
    return [evaluate_version(context, version, examples, dataset.corrections_hash) for version in versions if examples]


def _opponent(context: Context, pointer: Champion) -> ModelVersion | None:
    """Return the champion, or None if there is none that can be compared with: it has another task."""
    if pointer.version is None:
        return None
    champion = context.registry.versions.get(context.settings.name, pointer.version)
    return champion if comparable(context, champion) else None


def comparable(context: Context, champion: ModelVersion) -> bool:
    """Return whether a champion has the task of the settings, so that a version can be compared with it."""
    task = champion.lineage.get("task")
    if task is None:  # Baton 0.1 published it
        with tempfile.TemporaryDirectory(prefix="baton-fetch-") as cache:
            task = context.storage.fetch(champion, Path(cache))[1].task
    return bool(task == context.settings.task)


def _contender(task_cls: type[AnyTask], version: ModelVersion, evaluation: Evaluation, rows: int) -> Contender:
    """Return a version with the first ``rows`` rows of its evaluation."""
    labels = task_cls(version.lineage.get("labels", ()), max_length=8).answer_labels
    return Contender(evaluation=replace(evaluation, statistics=evaluation.statistics[:rows]), labels=labels)


# --- the parts of publish ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A model as it will be served, with its score on the holdout."""

    predictor: Predictor
    manifest: Manifest
    """With the calibration; without scores and probes."""
    score: Score


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
    return _Scored(predictor=predictor, manifest=manifest, score=evaluate(predictor, dataset.holdout, clock.count))


def _store(context: Context, run_id: str, directory: Path, scored: _Scored) -> tuple[int, str, str]:
    """Write the version to the storage. Return its number, its URI and the SHA-256 of its manifest."""
    metric = scored.predictor.task.metric
    context.clock.enter(RunStage.PUBLISHING, **{metric: scored.score.metrics[metric]})
    model = context.settings.name
    number = context.registry.versions.reserve(model, run_id, above=context.storage.newest(model))
    facts = {"metrics": scored.score.metrics, "probes": scored.predictor.probe()}
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


class Clock:
    """Reports the stages of a run and measures how long each takes."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stage: RunStage | None = None
        self._since = time.monotonic()
        self._seconds: dict[RunStage, float] = {}

    def enter(self, stage: RunStage, **progress: Any) -> None:
        """Begin ``stage`` and report it with its first ``progress``."""
        self._close()
        self._stage = stage
        self._report(stage, progress)

    def note(self, **progress: Any) -> None:
        """Report progress within the current stage."""
        assert self._stage is not None, "no stage has begun"
        self._report(self._stage, progress)

    def count(self, done: int, total: int) -> None:
        """Report progress within the current stage, in rows."""
        self.note(done=done, total=total)

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each stage has taken until now."""
        self._close()
        return {stage.value: round(seconds, 2) for stage, seconds in self._seconds.items()}

    def _close(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
