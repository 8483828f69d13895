"""The loop, readable as ten lines: freeze the data, train, evaluate, publish, evaluate the champion, decide.

Ends with a stored Decision. Rolling out what passed is the service's work.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from baton.artifacts.frozen import HOLDOUT
from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.base_models import check_length, find_base_model
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Decision, Evaluation, ModelVersion, RunState
from baton.store.registry import Registry
from baton.tasks import task_type
from training.data import datasets
from training.data.splits import split_rows
from training.fit import start as starts
from training.fit.priority import threads_here
from training.fit.request import Trained, TrainingRequest
from training.judge import gate
from training.judge.evaluate import evaluate
from training.methods.adaptation import adapt
from training.methods.choose import method

Report = Callable[[str, dict[str, Any]], None]
"""Stage and progress → the run's record. Raises ``Conflict`` when the run is over."""

VERSION_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What a version takes from a checkpoint: no optimiser state, no pickles."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every step of one run needs."""

    settings: ModelSettings
    registry: Registry
    storage: Storage
    clock: Clock


def run(run_id: str, registry: Registry, storage: Storage, *, database: str) -> Decision:
    """Carry out a started run: from its frozen settings to a stored Decision and a finished record."""
    settings = ModelSettings.model_validate(registry.runs.get(run_id).spec)
    clock = Clock(lambda stage, progress: registry.runs.report(run_id, stage, progress))
    context = Context(settings=settings, registry=registry, storage=storage, clock=clock)
    try:
        clock("preparing")
        check_length(find_base_model(settings.base_model), settings.base_model, settings.max_length)
        dataset = freeze(context)
        start = starts.find(settings, registry, storage, dataset)
        request = TrainingRequest(
            run_id=run_id,
            settings=settings,
            dataset=dataset.version,
            start=start,
            storage=storage.url,
            runs_path=storage.runs_path,
            database=database,
            progress=clock.note,
        )
        adaptation: dict[str, Any] = {}
        if settings.training.adapt is not None:
            clock("adapting", dataset=asdict(dataset.version))
            ledger = registry.datasets.ledger(settings.name)
            request, adaptation = adapt(request, dataset, {text for text, split in ledger.items() if split == HOLDOUT})
        clock("training", dataset=asdict(dataset.version), start=start.facts())
        make = method(settings.training)
        _import_early("baton.engines.torch_engine")
        with make(request) as best:
            version, candidate = publish(context, run_id, dataset, replace(best, details={**adaptation, **best.details}))
        champion = evaluate_champion(context, dataset.version.uri, dataset.version.holdout_hash)
        clock("deciding")
        decision = decide(context, candidate, champion)
        registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)
    finally:
        storage.remove_run(run_id)
    return decision


def _import_early(module: str) -> None:
    """Load what scoring needs in the background, while the workers start. What this process imports itself comes before:
    transformers does not bear being imported by two threads at once.
    """
    threading.Thread(target=importlib.import_module, args=[module], daemon=True).start()


def freeze(context: Context) -> datasets.Dataset:
    """The base data with all feedback, as a version that the registry knows, splits and all, before anything trains on it."""
    settings, registry = context.settings, context.registry
    newest = registry.datasets.latest(settings.name)
    history = datasets.History(
        ledger=registry.datasets.ledger(settings.name),
        previous=newest.number if newest else None,
        feedback=registry.feedback.all(settings.name),
    )
    task_cls, redact = task_type(settings.task), settings.feedback.redact
    dataset = datasets.freeze(settings.name, task_cls, settings.data, context.storage, history, redact=redact)
    return replace(dataset, version=registry.datasets.add(settings.name, dataset.version, dataset.splits))


def judge(model: str, number: int, registry: Registry, storage: Storage) -> Decision:
    """Play the match of a published version against today's champion, on the model's newest holdout, and store it."""
    settings = ModelSettings.model_validate(registry.settings(model))
    context = Context(settings=settings, registry=registry, storage=storage, clock=Clock(lambda stage, progress: None))
    version = registry.version(model, number)
    newest = registry.datasets.latest(model)
    # versions of before there were numbered data sets have none but their own
    dataset = version.lineage["dataset"] if newest is None else asdict(newest)
    candidate = evaluate_version(context, version, dataset["uri"], dataset["holdout_hash"])
    return decide(context, candidate, evaluate_champion(context, dataset["uri"], dataset["holdout_hash"]))


def publish(context: Context, run_id: str, dataset: datasets.Dataset, trained: Trained) -> tuple[ModelVersion, Evaluation]:
    """Score the checkpoint exactly as it will be served, publish it with its scores, and register it."""
    settings, registry, clock = context.settings, context.registry, context.clock
    if trained.training is not None:
        settings = settings.model_copy(update={"training": trained.training})
    facts = {"dataset": asdict(dataset.version), "training": settings.training.model_dump(mode="json")}
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
        **facts,
    )
    with tempfile.TemporaryDirectory(prefix="baton-version-") as scratch:
        directory = Path(scratch)
        for name in VERSION_FILES:
            if (trained.directory / name).is_file():
                shutil.copyfile(trained.directory / name, directory / name)
        predictor = Predictor.load(directory, manifest, settings.serving, threads=threads_here(settings.training))
        clock("evaluating", validation_f1=trained.f1, best_epoch=trained.epoch)
        manifest = manifest.model_copy(update={"calibration": calibrate(predictor, settings, dataset, trained)})
        score = evaluate(predictor, dataset.holdout, clock.count)
        clock("publishing", **{predictor.task.metric: score.metrics[predictor.task.metric]})
        number = registry.reserve_version(settings.name, run_id, above=context.storage.newest(settings.name))
        complete = manifest.model_copy(update={"metrics": score.metrics, "probes": predictor.probe()})
        uri, sha256 = context.storage.publish(number, directory, complete)
    lineage = {
        **facts,
        "run_id": run_id,
        "base_model": settings.base_model,
        "parent": trained.start.parent,
        "start": trained.start.facts(),
        "labels": list(dataset.version.labels),
        "best_epoch": trained.epoch,
        "validation_f1": trained.f1,
        "engine": predictor.engine.description,
        "seconds": clock.seconds(),
        **trained.details,
    }
    version = registry.publish_version(
        settings.name, number, uri=uri, manifest_sha256=sha256, metrics=score.metrics, lineage=lineage
    )
    holdout_hash = dataset.version.holdout_hash
    return version, registry.add_evaluation(settings.name, number, holdout_hash, score.metrics, score.statistics)


def calibrate(
    predictor: Predictor, settings: ModelSettings, dataset: datasets.Dataset, trained: Trained
) -> Mapping[str, float]:
    """Let the version learn about its own scores from rows that it was not trained on; never from the holdout.

    These are the validation rows, the ones that chose it, unless its training has seen to it.
    """
    task = predictor.task
    if trained.calibration is not None:
        task.calibration = dict(trained.calibration)
    elif task.calibrates():
        _, validation = split_rows(type(task), dataset.train, settings.training.validation_share(len(dataset.train)))
        task.calibration = task.calibrate(predictor.predict([task.input_of(row) for row in validation]), validation)
    return task.calibration


def evaluate_champion(context: Context, dataset_uri: str, holdout_hash: str) -> Evaluation | None:
    """The champion's scores on a frozen holdout; None without a champion."""
    champion = context.registry.champion_version(context.settings.name)
    return None if champion is None else evaluate_version(context, champion, dataset_uri, holdout_hash)


def evaluate_version(context: Context, version: ModelVersion, dataset_uri: str, holdout_hash: str) -> Evaluation:
    """A published version's scores on a frozen holdout, computed now unless they are known."""
    settings = context.settings
    known = context.registry.evaluation(settings.name, version.number, holdout_hash)
    if known is not None:
        return known
    context.clock(f"evaluating v{version.number}")
    with tempfile.TemporaryDirectory(prefix="baton-fetch-") as cache:
        directory, manifest = context.storage.fetch(version, Path(cache))
        predictor = Predictor.load(directory, manifest, settings.serving, threads=threads_here(settings.training))
        holdout = datasets.load_split(task_type(settings.task), context.storage, dataset_uri, "holdout")
        score = evaluate(predictor, holdout, context.clock.count)
    return context.registry.add_evaluation(settings.name, version.number, holdout_hash, score.metrics, score.statistics)


def decide(context: Context, candidate: Evaluation, champion: Evaluation | None) -> Decision:
    """Ask the gate and store what it said."""
    task = context.settings.make_task(())
    return context.registry.add_decision(gate.decide(task, candidate, champion, context.settings.gate))


class Clock:
    """Reports stages and remembers how long each took."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stage = ""
        self._since = time.monotonic()
        self._seconds: dict[str, float] = {}

    def __call__(self, stage: str, **progress: Any) -> None:
        """Enter ``stage``."""
        self._close()
        self._stage = stage
        self._report(stage, progress)

    def note(self, **progress: Any) -> None:
        """Progress within the stage."""
        self._report(self._stage, progress)

    def count(self, done: int, total: int) -> None:
        """Progress within the stage, in rows."""
        self.note(done=done, total=total)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, up to now."""
        self._close()
        return {stage: round(seconds, 2) for stage, seconds in self._seconds.items()}

    def _close(self) -> None:
        now = time.monotonic()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
