"""The files of a version → a published version: exported, calibrated, scored as it will be served, and stored.

Used for versions that were trained here and for those from elsewhere; knows no difference.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.artifacts.manifest import EngineChoice, Manifest
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Evaluation, RunStage
from baton.tasks import task_type
from baton.text.masks import masker
from training.context import Context
from training.data.splits import split_rows
from training.exporting import Tried, drop_unused, export, fastest, loses, scale_each_pass
from training.fit.priority import scoring_threads
from training.int8_ranges import draw_windows
from training.judge.evaluate import Told, cost, evaluate, race
from training.reports import keep_answers

VERSION_FILES = (
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
"""Files that a version takes from a checkpoint: no optimiser state, no pickles."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation of a model on a holdout gave."""

    metrics: Mapping[str, Any]
    """Scores and costs."""
    statistics: NDArray[np.int32]
    """As in `Evaluation`."""
    answers: Sequence[Told]
    """As in `Evaluated`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A version that is ready to be published."""

    predictor: Predictor
    manifest: Manifest
    scores: Scores | None
    """On the holdout; None without one."""

    @property
    def engine_facts(self) -> dict[str, Any]:
        """Return which engine serves the version, and what the others achieved, for its lineage."""
        choice = self.manifest.engine
        return {
            "engine": self.predictor.engine.description,
            "engines": {name: dict(values) for name, values in choice.measured.items()},
            "engine_reason": choice.reason,
        }


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


def make_candidate(
    context: Context,
    directory: Path,
    manifest: Manifest,
    *,
    train: Sequence[Any],
    holdout: Sequence[Any] | None,
    calibration: Callable[[Predictor], Mapping[str, float]],
) -> Candidate:
    """Export the version in ``directory``, choose the engine that serves it, and calibrate and score it with that engine.

    Args:
        train: rows whose texts show which values int8 has to cover.
        holdout: None if nothing can judge the version; it is then served with the exact engine.
        calibration: sets the calibration of a predictor's task and returns it.
    """
    windows = partial(draw_windows, directory, manifest, train)
    choices, reason = export(directory, task_type(manifest.task), manifest.max_length, context.settings.serving, windows)
    if holdout is None:
        drop_unused(directory, choices[-1])
        return _candidate(context, directory, manifest, choices[-1].model_copy(update={"reason": reason}), calibration)

    def attempt(choice: EngineChoice) -> Candidate:
        made = _candidate(context, directory, manifest, choice, calibration)
        context.clock.note(engine=made.predictor.engine.description)
        scores = score(context, made.predictor, holdout, directory)
        manifest_of_engine = made.manifest.model_copy(update={"temperature": made.predictor.task.temperature})
        return replace(made, manifest=manifest_of_engine, scores=scores)

    attempts = [attempt(choice) for choice in choices]
    tried = _tried(attempts, holdout)
    has_fixed_scales = choices[0].precision == "int8" and attempts[0].predictor.engine.max_rows is None
    if has_fixed_scales and loses(tried):
        scale_each_pass(directory)
        choices, attempts = (choices[0], *choices), [attempt(choices[0]), *attempts]
        tried = _tried(attempts, holdout)
    best, refused = fastest(tried)
    measured = {one.description: {"metric": one.metric, "latency_ms": one.latency_ms} for one in tried}
    choice = choices[best].model_copy(update={"measured": measured, "reason": reason or refused})
    drop_unused(directory, choice)
    chosen = attempts[best]
    assert chosen.scores is not None
    scores = replace(chosen.scores, metrics={**chosen.scores.metrics, "megabytes": size_of(directory) / 1e6})
    return replace(chosen, manifest=chosen.manifest.model_copy(update={"engine": choice}), scores=scores)


def _candidate(
    context: Context,
    directory: Path,
    manifest: Manifest,
    choice: EngineChoice,
    calibration: Callable[[Predictor], Mapping[str, float]],
) -> Candidate:
    """Load the version with one engine and calibrate it."""
    settings = context.settings
    manifest = manifest.model_copy(update={"engine": choice})
    predictor = Predictor.load(directory, manifest, settings.serving, threads=scoring_threads(settings.training))
    manifest = manifest.model_copy(update={"calibration": calibration(predictor)})
    return Candidate(predictor=predictor, manifest=manifest, scores=None)


def _tried(attempts: Sequence[Candidate], holdout: Sequence[Any]) -> list[Tried]:
    """Return what the engines of candidates achieved; if there are several, after a race between them on the ``holdout``."""
    if len(attempts) == 1 and attempts[0].scores is not None:  # what it costs is measured already
        times = [float(attempts[0].scores.metrics["latency_ms"])]
    else:
        times = race([attempt.predictor for attempt in attempts], holdout)
    return [_achieved(attempt, milliseconds) for attempt, milliseconds in zip(attempts, times, strict=True)]


def _achieved(attempt: Candidate, milliseconds: float) -> Tried:
    assert attempt.scores is not None
    metric = float(attempt.scores.metrics[attempt.predictor.task.metric])
    return Tried(description=attempt.predictor.engine.description, metric=metric, latency_ms=milliseconds)


def score(context: Context, predictor: Predictor, examples: Sequence[Any], directory: Path) -> Scores:
    """Evaluate a model on a holdout, set its temperature, and measure what it costs to serve the version in ``directory``."""
    evaluated = evaluate(predictor, examples, context.clock.count, mask=masker(context.declared.feedback.redact), fit=True)
    costs = cost(predictor, examples, size=size_of(directory), threads=context.settings.serving.threads)
    return Scores(
        metrics={**evaluated.score.metrics, **costs},
        statistics=evaluated.score.statistics,
        answers=evaluated.answers,
    )


def size_of(directory: Path) -> int:
    """Return the size of the files in a version's directory, in bytes."""
    return sum(file.stat().st_size for file in directory.iterdir())


def store(context: Context, run_id: str, directory: Path, candidate: Candidate) -> Stored:
    """Write a version to the storage under the number of its run, with its metrics and probes in the manifest."""
    metrics = {} if candidate.scores is None else candidate.scores.metrics
    main = candidate.predictor.task.metric
    context.clock.enter(RunStage.PUBLISHING, **({main: metrics[main]} if main in metrics else {}))
    model = context.settings.name
    number = context.registry.versions.reserve(model, run_id, above=context.storage.newest(model))
    complete = candidate.manifest.model_copy(update={"metrics": metrics, "probes": candidate.predictor.probe()})
    uri, sha256 = context.storage.publish(number, directory, complete)
    return Stored(number=number, uri=uri, manifest_sha256=sha256)


def keep(context: Context, number: int, holdout_hash: str, scores: Scores) -> Evaluation:
    """Store the evaluation of a version, and its answers for reports."""
    keep_answers(context, number, holdout_hash, scores.answers)
    return context.registry.evaluations.add(context.settings.name, number, holdout_hash, scores.metrics, scores.statistics)
