"""A match from its start to its stored decision: evaluate both versions on one holdout, count the match, let the gate decide.

`training.judge` decides, and knows neither the registry nor the storage; this module brings it what they have. A run ends with
`decide`; `judge` is the same for a version that was published before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baton.artifacts.frozen import HOLDOUT, read_corrections
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Champion, DatasetVersion, Decision, Evaluation, ModelVersion, RunStage
from baton.store.registry import Registry
from baton.tasks import AnyTask, task_type
from training.context import Clock, Context
from training.data import datasets
from training.fit.priority import scoring_threads
from training.judge.decision import Contender, decide_match
from training.judge.evaluate import evaluate
from training.judge.holdout import describe_holdout


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
