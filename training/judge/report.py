"""The report of a match, for people who decide about a version: F1 by part, slice and label, confusions, changed answers.

Plain JSON values; `baton report` draws them. Knows neither the registry nor the storage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from baton.config.model_settings import GateSettings
from baton.store.records import Evaluation
from baton.tasks import AnyTask
from training.judge.comparison import quantile
from training.judge.decision import Contender, Judged
from training.judge.evaluate import Told
from training.judge.excerpts import excerpt, shorten
from training.judge.gate import Outcome
from training.judge.guards import Change, Single
from training.judge.pairs import MacroPair, Pair
from training.judge.reasons import Reason

CHANGED = 10
"""Number of texts with changed answers that a report shows."""

CONFUSIONS = 10
"""Number of confusions that a report shows: those whose count changed most."""

SHOWN_SLICE = 5
"""Number of groups from which a report shows a slice. No smaller one could be lost."""

ANSWERS = ("answer", "champion_answer")
"""Names of the two versions' answers in a report."""

Explain = Callable[[Sequence[Any]], Sequence[Sequence[Sequence[Reason]]]]
"""Returns for the candidate and for the champion, and for each of the inputs, the words that speak for the answer."""


WHOLE = "the whole holdout"
"""Name of the line with the whole holdout."""


def unexplained(inputs: Sequence[Any]) -> Sequence[Sequence[Sequence[Reason]]]:
    """Return no words for any answer."""
    return [[[] for _ in inputs] for _ in ANSWERS]


def make_report(
    task: AnyTask,
    judged: Judged,
    candidate: Contender,
    champion: Contender | None,
    *,
    policy: GateSettings,
    examples: Sequence[Any],
    answers: Sequence[Sequence[Told] | None],
    mask: Callable[[Any], Any],
    explain: Explain = unexplained,
) -> dict[str, Any]:
    """Return the report of a decision as JSON values.

    Args:
        examples: the rows that judge, in the order of the evaluations.
        answers: of the candidate and of the champion; None where they were not kept.
        mask: masks personal data in an input.
        explain: says which words speak for the answers to the inputs that are shown.
    """
    evaluations = [one.evaluation for one in (candidate, champion) if one is not None]
    report = {
        "unit": judged.decision.numbers["unit"],
        "candidate": evaluations[0].version,
        "champion": evaluations[1].version if champion is not None else None,
        "rows": [],
        "labels": _labels_of_task(evaluations),
        "confusions": [],
        "changed": [],
        "cost": [None if one is None or one.cost is None else _cost(one) for one in (candidate, champion)],
        "optimism": 0.0,
    }
    if judged.pair is None or not isinstance(judged.outcome, Outcome):
        return report
    outcome, pair = judged.outcome, judged.pair
    comparison = outcome.comparison
    whole = Change(
        name=WHOLE,
        candidate_f1=comparison.candidate_f1,
        champion_f1=comparison.champion_f1,
        standard_error=comparison.standard_error,
        groups=comparison.groups,
    )
    return {
        **report,
        "rows": _changes([whole, *outcome.parts, *(one for one in outcome.slices if one.groups >= SHOWN_SLICE)], policy),
        "labels": _changes(outcome.labels, policy) or report["labels"],
        "confusions": _confusions(pair),
        "changed": _changed(task, pair, examples, answers, mask=mask, explain=explain),
        "optimism": outcome.optimism,
    }


def _changes(changes: Iterable[Change], policy: GateSettings) -> list[dict[str, Any]]:
    """Return each change with the central interval of its gain that holds ``gate.confidence``.

    A label or a slice also tells whether it is lost.
    """
    z = quantile((1 + policy.confidence) / 2)
    return [
        {
            "name": change.name,
            "texts": change.groups,
            "f1": change.candidate_f1,
            "champion_f1": change.champion_f1,
            "gain": change.gain,
            "low": change.gain - z * change.standard_error,
            "high": change.gain + z * change.standard_error,
            **({"lost": change.lost} if isinstance(change, Single) else {}),
        }
        for change in changes
    ]


def _labels_of_task(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return the F1 of each label that the holdout has, as the task scored it; [] for tasks without labels."""
    by_label = [evaluation.metrics.get("per_class", {}) for evaluation in evaluations]
    return [
        {
            "name": label,
            "texts": scores["support"],
            "f1": scores["f1"],
            "champion_f1": by_label[1].get(label, {}).get("f1") if len(by_label) > 1 else None,
        }
        for label, scores in by_label[0].items()
        if scores["support"]
    ]


def _confusions(pair: Pair) -> list[dict[str, Any]]:
    """Return how often a truth was answered with another label, where the two versions differ most; [] unless macro-F1."""
    if not isinstance(pair, MacroPair):
        return []
    labels = pair.candidate.labels
    ours, theirs = (
        Counter(zip(metric.truth.tolist(), metric.predicted.tolist(), strict=True))
        for metric in (pair.candidate, pair.champion)
    )
    changed = [cell for cell in sorted(ours.keys() | theirs.keys()) if cell[0] != cell[1] and ours[cell] != theirs[cell]]
    changed.sort(key=lambda cell: -abs(ours[cell] - theirs[cell]))
    return [
        {
            "truth": labels[truth],
            "answer": labels[answer],
            "count": ours[truth, answer],
            "champion_count": theirs[truth, answer],
        }
        for truth, answer in changed[:CONFUSIONS]
    ]


def _changed(
    task: AnyTask,
    pair: Pair,
    examples: Sequence[Any],
    answers: Sequence[Sequence[Told] | None],
    *,
    mask: Callable[[Any], Any],
    explain: Explain,
) -> list[dict[str, Any]]:
    """Return the texts whose changed answers moved the gain most: as many that got worse as got better, if there are."""
    influence = np.where(pair.differing(), pair.influence, 0.0)
    order = np.argsort(influence, kind="stable")
    worse = [int(row) for row in order if influence[row] < 0]
    better = [int(row) for row in order[::-1] if influence[row] > 0]
    half = CHANGED // 2
    shares = (worse[: max(half, CHANGED - len(better))], better[: max(half, CHANGED - len(worse))])
    found = []
    rows = [row for share in shares for row in share]
    of_versions = explain([task.input_of(examples[row]) for row in rows])
    for number, row in enumerate(rows):
        example = examples[row]
        item = mask(task.input_of(example))
        told = [None if kept is None else kept[row] for kept in answers]
        marks = [task.truth_marks(example), *(() if one is None else one.marks for one in told)]
        text, moved = excerpt(task.content(example.model_copy(update=dict(item))), marks)
        words = [None if one is None else shorten(one.words) for one in told]
        truth = task.truth_in_words(example, item)
        if task.target == "text":  # it is no part of the masked input
            truth = mask(truth)
        entry = {
            "text": text,
            "truth": shorten(truth),
            **dict(zip(ANSWERS, words, strict=True)),
            "marks": dict(zip(("truth", *ANSWERS), moved, strict=True)),
            "influence": float(influence[row]),
            "reasons": {name: explained[number] for name, explained in zip(ANSWERS, of_versions, strict=True)},
        }
        found.append(entry)
    return found


def _cost(contender: Contender) -> dict[str, float]:
    assert contender.cost is not None
    return {"megabytes": contender.cost.megabytes, "latency_ms": contender.cost.latency_ms}
