"""A match from its start to its stored decision: evaluate both versions on one holdout, count the match, let the gate decide.

`training.judge` decides, and knows neither the registry nor the storage; this module brings it what they have. A run ends with
`decide`; `judge` is the same for a version that was published before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from baton.artifacts.frozen import read_corrections, read_holdout
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, DataError
from baton.predict.predictor import Predictor
from baton.store.records import Champion, DatasetVersion, Decision, Evaluation, ModelVersion, RunStage
from baton.store.registry import Registry
from baton.tasks import AnyTask, task_type
from baton.text.masks import masker
from baton.text.normal_form import fingerprint
from training.context import Clock, Context
from training.fit.priority import scoring_threads
from training.freezing import freeze
from training.judge.decision import Contender, decide_match
from training.judge.evaluate import cost, evaluate
from training.judge.gate import over_budget
from training.judge.holdout import describe_holdout
from training.judge.reasons import Reason, reasons
from training.reports import keep_answers, kept_answers, store_report


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A frozen holdout on which versions are compared."""

    version: DatasetVersion
    examples: Sequence[Any]
    marks: Sequence[Mapping[str, Any]] = ()
    """As `baton.artifacts.frozen.read_holdout` returns them."""


def judge(settings: ModelSettings, number: int, registry: Registry, storage: Storage, *, overtaken: bool = False) -> Decision:
    """Compare a published version with the champion on the newest holdout of the declared data, and store the decision.

    Args:
        settings: of the model, as the service that asks has them. They have the policy.
        overtaken: the version won a match, but another one took over first. The decision replaces that of its run.
    """
    context = _without_run(settings, registry, storage)
    version = registry.versions.get(settings.name, number)
    newest = _newest_judge(context, version)
    holdout_hash, examples = newest.version.holdout_hash, newest.examples
    known = registry.evaluations.get(settings.name, number, holdout_hash)
    candidate = known or evaluate_version(context, version, examples, holdout_hash)
    budgeted = (settings.gate.max_megabytes, settings.gate.max_latency_ms) != (None, None)
    if known and budgeted:  # measured anew: what is stored may be of a busier machine, or of other serving settings
        candidate = replace(candidate, metrics={**candidate.metrics, **_measure_cost(context, version, examples)})
    return decide(context, version, candidate, newest, of_run=overtaken)


def evaluate_newest(settings: ModelSettings, number: int, registry: Registry, storage: Storage) -> Evaluation:
    """Return the evaluation of a published version on the newest holdout of the declared data. Nothing is decided."""
    context = _without_run(settings, registry, storage)
    version = registry.versions.get(settings.name, number)
    newest = _newest_judge(context, version)
    return evaluate_version(context, version, newest.examples, newest.version.holdout_hash)


def _without_run(settings: ModelSettings, registry: Registry, storage: Storage) -> Context:
    clock = Clock(lambda stage, progress: None)
    return Context(settings=settings, declared=settings, registry=registry, storage=storage, clock=clock)


def _newest_judge(context: Context, version: ModelVersion) -> Judge:
    """Return the newest holdout of the declared data. The data are frozen if they never were.

    Raises:
        Conflict: ``version`` has another task than the declared one.
        DataError: no holdout is declared.
    """
    settings = context.settings
    if not comparable(context, version):
        raise Conflict(f"v{version.number} has another task than {settings.task}, which {settings.name} is declared with")
    newest = context.registry.datasets.latest(settings.name, holdout_source=settings.data.holdout_source)
    recorded = version.lineage.get("dataset", {})
    if newest is None and "uri" in recorded:  # a version from before the registry recorded data sets: its lineage has its own
        newest = DatasetVersion(**recorded)
    if newest is None:
        dataset = freeze(context)
        return Judge(version=dataset.version, examples=dataset.holdout, marks=dataset.marks)
    examples, marks = read_holdout(task_type(settings.task), context.storage, newest.uri)
    return Judge(version=newest, examples=examples, marks=marks)


def decide(context: Context, version: ModelVersion, candidate: Evaluation, judge: Judge, *, of_run: bool = False) -> Decision:
    """Evaluate the champion, let the gate decide whether ``version`` may replace it, and store the decision.

    The match is recorded before it is played, so that it counts whatever happens afterwards. A version that is over its budget
    plays none.
    """
    registry, model, task_cls = context.registry, context.settings.name, task_type(context.settings.task)
    pointer, policy = registry.champion(model), context.declared.gate
    champion = _opponent(context, pointer)
    rival = None if champion is None else evaluate_version(context, champion, judge.examples, judge.version.holdout_hash)
    corrections = _on_corrections(context, judge.version, [version] if champion is None else [version, champion])
    context.clock.enter(RunStage.DECIDING)
    rows = judge.version.holdout_rows - judge.version.holdout_feedback  # feedback that Baton 0.1 held out does not judge
    holdout = describe_holdout(
        task_cls,
        judge.examples[:rows],
        judge.version.holdout_hash,
        audited=judge.version.holdout_audited,
        marks=judge.marks[:rows],
    )
    ours = _contender(task_cls, version, candidate, rows)
    theirs = None if champion is None or rival is None else _contender(task_cls, champion, rival, rows)
    if over_budget(ours.cost, policy):
        number = registry.matches.played(model, pointer.version) + 1
    else:
        number = registry.matches.open(
            model,
            champion=pointer.version,
            candidate=version.number,
            holdout_hash=holdout.hash,
            groups=holdout.fingerprints,
        )
    task = context.settings.make_task(())
    judged = decide_match(
        task,
        holdout,
        ours,
        theirs,
        pointer=pointer,
        number=number,
        policy=policy,
        corrections=corrections,
        lost=_lost_share(context, judge.version, holdout.fingerprints),
    )
    answers = [None if one is None else kept_answers(context, one.evaluation) for one in (ours, theirs)]
    facts = {
        "marks_hash": judge.version.marks_hash,
        "dataset": {"number": judge.version.number, "hash": judge.version.hash, "audited": judge.version.holdout_audited},
        "manifests": [None if one is None else one.manifest_sha256 for one in (version, champion)],
        "report": store_report(
            context,
            task,
            judged,
            ours,
            theirs,
            examples=judge.examples[:rows],
            answers=answers,
            explain=partial(_explain, context, [one for one in (version, champion) if one is not None]),
        ),
    }
    return registry.add_decision(replace(judged.decision, numbers={**judged.decision.numbers, **facts}), of_run=of_run)


def _lost_share(context: Context, dataset: DatasetVersion, texts: Sequence[str]) -> float:
    """Return the share of the texts that judged in the data set before and do not any more.

    ``texts``: fingerprints of the texts that judge today.
    """
    if dataset.previous is None:
        return 0.0
    task_cls = task_type(context.settings.task)
    before = context.registry.datasets.get(context.settings.name, dataset.previous)
    if before.holdout_hash == dataset.holdout_hash:
        return 0.0
    try:
        examples, _ = read_holdout(task_cls, context.storage, before.uri)
    except DataError:  # it was frozen for another task
        return 0.0
    judged = {fingerprint(task_cls.group(one)) for one in examples[: before.holdout_rows - before.holdout_feedback]}
    return len(judged.difference(texts)) / max(len(judged), 1)


def _on_corrections(context: Context, dataset: DatasetVersion, versions: Sequence[ModelVersion]) -> list[Evaluation]:
    """Return the evaluations of versions on the held-out corrections of a data set, which decide nothing; [] without any."""
    if not dataset.corrections:
        return []
    examples = read_corrections(task_type(context.settings.task), context.storage, dataset.uri, dataset.corrections_hash)
    return [
        evaluate_version(context, version, examples, dataset.corrections_hash, judging=False)
        for version in versions
        if examples
    ]


def _opponent(context: Context, pointer: Champion) -> ModelVersion | None:
    """Return the champion, or None if there is none that can be compared with: it has another task."""
    if pointer.version is None:
        return None
    champion = context.registry.versions.get(context.settings.name, pointer.version)
    return champion if comparable(context, champion) else None


def comparable(context: Context, version: ModelVersion) -> bool:
    """Return whether a version has the task of the settings, so that it can be evaluated, and compared with others."""
    return context.storage.task_of(version) == context.settings.task


def _contender(task_cls: type[AnyTask], version: ModelVersion, evaluation: Evaluation, rows: int) -> Contender:
    """Return a version with the first ``rows`` rows of its evaluation."""
    labels = task_cls(version.lineage.get("labels", ()), max_length=8).answer_labels
    return Contender(evaluation=replace(evaluation, statistics=evaluation.statistics[:rows]), labels=labels)


def evaluate_version(
    context: Context, version: ModelVersion, examples: Sequence[Any], holdout_hash: str, *, judging: bool = True
) -> Evaluation:
    """Return a published version's evaluation on frozen rows with this hash. Evaluate it now unless the registry has one.

    ``judging``: whether the rows judge. Only then the answers are kept for reports, and the cost is measured.
    """
    settings = context.settings
    known = context.registry.evaluations.get(settings.name, version.number, holdout_hash)
    if known is not None:
        return known
    context.clock.enter(RunStage.EVALUATING, evaluated_version=version.number)

    def count(done: int, total: int) -> None:  # each report replaces the progress of the one before
        context.clock.note(done=done, total=total, evaluated_version=version.number)

    costs: Mapping[str, float] = {}
    with _loaded(context, version) as (predictor, size):
        evaluated = evaluate(predictor, examples, count, mask=masker(context.declared.feedback.redact))
        if judging:
            costs = cost(predictor, examples, size=size, threads=settings.serving.threads)
    if judging:
        keep_answers(context, version.number, holdout_hash, evaluated.answers)
    metrics = {**evaluated.score.metrics, **costs}
    return context.registry.evaluations.add(settings.name, version.number, holdout_hash, metrics, evaluated.score.statistics)


def _explain(context: Context, versions: Sequence[ModelVersion], inputs: Sequence[Any]) -> list[list[list[Reason]]]:
    """Return for each version and each input which words speak for the answer."""
    if not inputs or context.settings.make_task(()).explaining() is None:
        return [[[] for _ in inputs] for _ in versions]
    found = []
    for version in versions:
        with _loaded(context, version) as (predictor, _):
            found.append(reasons(predictor, inputs, masker(context.declared.feedback.redact)))
    return found


def _measure_cost(context: Context, version: ModelVersion, examples: Sequence[Any]) -> dict[str, float]:
    with _loaded(context, version) as (predictor, size):
        return cost(predictor, examples, size=size, threads=context.settings.serving.threads)


@contextmanager
def _loaded(context: Context, version: ModelVersion) -> Iterator[tuple[Predictor, int]]:
    """Load a published version as it is served, and yield it with the size of its files in bytes."""
    settings = context.settings
    with tempfile.TemporaryDirectory(prefix="baton-fetch-") as cache:
        directory, manifest = context.storage.fetch(version, Path(cache))
        predictor = Predictor.load(directory, manifest, settings.serving, threads=scoring_threads(settings.training))
        yield predictor, sum(entry.size for entry in manifest.files.values())
