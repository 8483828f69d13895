"""Multi-label classification: all labels that apply to a text or a pair of texts. The main metric is micro-F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationInfo, field_validator

from baton.errors import DataError
from baton.tasks.base import EXPLANATION_SCHEMA, Score, Target
from baton.tasks.checks import FROZEN, check_label, from_cell
from baton.tasks.f1 import RatioF1, micro_f1
from baton.tasks.text_classifier import ClassificationOptions, LabelScores, TextClassifier, TextInput, activate, ranking
from baton.tasks.windows import Windows
from baton.wording import counted

NO_LABEL = "no label"
"""An empty answer in words."""

THRESHOLD = 0.5
"""A label applies from this score on, unless `MultiLabel.calibrate` gave it another threshold."""


class MultiLabelExample(TextInput):
    """A text or a pair of texts with the labels that apply to it, sorted; there may be none."""

    label: tuple[str, ...]

    @field_validator("label", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        """Return a list unchanged. Parse a string as a JSON list, which CSV cells hold, or else take it as the only label."""
        value = from_cell(value)
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list | tuple):
            raise ValueError('expected a list of labels, like ["a", "b"] or [], or one label')
        return value

    @field_validator("label")
    @classmethod
    def _distinct(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        value = tuple(check_label(label, info) for label in value)
        if info.context == FROZEN:
            return tuple(sorted(set(value)))
        repeated = [label for label, count in Counter(value).items() if count > 1]
        if repeated:
            raise ValueError(f"the label {repeated[0]!r} is listed more than once")
        return tuple(sorted(value))


class MultiLabelScores(LabelScores):
    """The labels with their scores, best first, and for each label whether it applies."""

    assigned: tuple[bool, ...]

    @property
    def applying(self) -> tuple[str, ...]:
        """Return the labels that apply, best first."""
        return tuple(label for label, applies in zip(self.labels, self.assigned, strict=True) if applies)


class MultiLabelOptions(ClassificationOptions):
    """The ``parameters`` of the Hugging Face text-classification request. By default each label is scored independently."""

    function_to_apply: Literal["softmax", "sigmoid", "none"] = "sigmoid"


class MultiLabel(TextClassifier[MultiLabelScores, MultiLabelExample, MultiLabelOptions]):
    """Gives each input any number of labels. ``calibration`` has the threshold of each label."""

    name: ClassVar[str] = "multi_label"
    target: ClassVar[Target] = "classes"
    Output = MultiLabelScores
    Example = MultiLabelExample
    Options = MultiLabelOptions

    @classmethod
    def labels_of(cls, examples: Iterable[MultiLabelExample]) -> tuple[str, ...]:
        labels = tuple(sorted({label for example in examples for label in example.label}))
        if not labels:
            raise DataError("multi_label needs at least one row with a label in the training data; it has none")
        return labels

    @classmethod
    def strata(cls, examples: Sequence[MultiLabelExample]) -> list[str]:
        """Return the rarest label of each example. A split keeps a text of each stratum in train; a rare label beside a common
        one would otherwise often end up in the holdout only.
        """
        counts = Counter(label for example in examples for label in example.label)
        return [min(example.label, key=counts.__getitem__, default="") for example in examples]

    @classmethod
    def truth(cls, example: MultiLabelExample) -> tuple[str, ...]:
        return example.label

    def check(self, examples: Sequence[MultiLabelExample]) -> None:
        super().check(examples)
        if not any(example.label for example in examples):
            raise DataError(
                f"none of the {counted(len(examples), 'holdout row')} has a label; F1 needs at least one row with a label"
            )

    def answer(self, logits: NDArray[np.float64], options: MultiLabelOptions) -> MultiLabelScores:
        scores = activate(options.function_to_apply, logits, self.temperature)
        order = ranking(logits, options)
        thresholds = np.array([self.calibration.get(label, THRESHOLD) for label in self.labels])
        applies = activate("sigmoid", logits) >= thresholds
        return MultiLabelScores.model_construct(
            labels=tuple(self.labels[index] for index in order),
            scores=tuple(scores[order].tolist()),
            assigned=tuple(applies[order].tolist()),
        )

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        scores = {"label": {"type": "string"}, "score": {"type": "number"}, "assigned": {"type": "boolean"}}
        properties = {**scores, "explanation": EXPLANATION_SCHEMA}
        return {"type": "array", "items": {"type": "object", "properties": properties, "required": list(scores)}}

    @classmethod
    def to_wire(cls, output: MultiLabelScores) -> list[dict[str, Any]]:
        return [{**row, "assigned": applies} for row, applies in zip(super().to_wire(output), output.assigned, strict=True)]

    def targets(self, examples: Sequence[MultiLabelExample], windows: Windows) -> list[list[float]]:
        matrix = indicators(self.labels, [example.label for example in examples]).astype(float).tolist()
        return [matrix[owner] for owner in windows.owner]

    def calibrate(self, outputs: Sequence[MultiLabelScores], examples: Sequence[MultiLabelExample]) -> dict[str, float]:
        """Return for each label the threshold with the best F1 on these rows.

        ``outputs`` must have the sigmoid scores of all labels, as with the default options.
        """
        truth = indicators(self.labels, [example.label for example in examples])
        index = {label: position for position, label in enumerate(self.labels)}
        scores = np.zeros(truth.shape)
        for row, output in zip(scores, outputs, strict=True):
            row[[index[label] for label in output.labels]] = output.scores
        return {label: best_threshold(scores[:, position], truth[:, position]) for label, position in index.items()}

    def confidences(self, output: MultiLabelScores, options: MultiLabelOptions) -> Sequence[float]:
        """Return the scores of the labels that apply."""
        scores = tuple(score for score, applies in zip(output.scores, output.assigned, strict=True) if applies)
        return scores if self._has_probabilities(options) else ()

    def correct(self, output: MultiLabelScores, example: MultiLabelExample) -> Sequence[bool]:
        return tuple(label in example.label for label in output.applying)

    def agree(self, first: MultiLabelScores, second: MultiLabelScores) -> bool:
        return set(first.applying) == set(second.applying)

    def brief(self, output: MultiLabelScores, item: TextInput) -> MultiLabelScores:
        kept = [index for index, applies in enumerate(output.assigned) if applies or index == 0]
        labels, scores, assigned = (
            tuple(values[index] for index in kept) for values in (output.labels, output.scores, output.assigned)
        )
        return MultiLabelScores(labels=labels, scores=scores, assigned=assigned)

    def in_words(self, output: MultiLabelScores) -> str:
        return ", ".join(sorted(output.applying)) or NO_LABEL

    def truth_in_words(self, example: MultiLabelExample, item: TextInput) -> str:
        return ", ".join(self.truth(example)) or NO_LABEL

    def scorable(self, options: MultiLabelOptions) -> bool:
        """Return False if ``top_k`` may have cut off labels that apply."""
        return options.top_k is None or options.top_k >= len(self.labels) > 0

    def score(self, outputs: Sequence[MultiLabelScores], examples: Sequence[MultiLabelExample]) -> Score:
        """Return micro-F1, with the details behind it.

        ``f1`` (micro), ``precision`` and ``recall`` are over all labels together; ``macro_f1`` is the mean F1 of the labels
        that occur as truth or prediction. ``exact_match`` is the share of rows whose labels are all right, ``hamming_loss``
        the share of wrong decisions. ``per_class`` has precision, recall, F1 and support of each label. 0/0 counts as 0, as
        with scikit-learn's ``zero_division=0``.
        """
        unseen = sorted({label for example in examples for label in example.label} - set(self.labels))  # of an older version
        names = [*self.labels, *unseen]
        truth = indicators(names, [example.label for example in examples])
        predicted = indicators(names, [output.applying for output in outputs])
        decisions = (truth & predicted, predicted, truth)
        statistics = np.stack([matrix.sum(axis=1) for matrix in decisions], axis=1).astype(np.int32)
        correct, found, wanted = (matrix.sum(axis=0) for matrix in decisions)
        f1 = _ratio(2 * correct, found + wanted)
        classes = {"precision": _ratio(correct, found), "recall": _ratio(correct, wanted), "f1": f1}
        occurring = found + wanted > 0
        metrics: dict[str, Any] = {
            "f1": micro_f1(statistics).value(),
            "macro_f1": float(f1.sum() / max(int(occurring.sum()), 1)),
            "precision": float(_ratio(correct.sum(), found.sum())),
            "recall": float(_ratio(correct.sum(), wanted.sum())),
            "exact_match": float(np.mean((truth == predicted).all(axis=1))),
            "hamming_loss": float(np.mean(truth != predicted)),
            "per_class": {
                label: {
                    **{name: float(values[position]) for name, values in classes.items()},
                    "support": int(wanted[position]),
                }
                for position, label in enumerate(names)
            },
            "examples": len(truth),
        }
        return Score(metrics=metrics, statistics=statistics)

    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> RatioF1:
        """Return micro-F1. ``statistics`` [n, 3] has the numbers of right, predicted and true labels of each example."""
        return micro_f1(statistics)


def indicators(names: Sequence[str], labels: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return the matrix [rows, names] of whether a name is among a row's labels. All labels must be names."""
    index = {name: position for position, name in enumerate(names)}
    matrix = np.zeros((len(labels), len(names)), dtype=bool)
    for row, labels_of_row in zip(matrix, labels, strict=True):
        row[[index[label] for label in labels_of_row]] = True
    return matrix


def best_threshold(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the threshold at which ``score >= threshold`` has the best F1, of all midpoints between neighbouring scores.

    Of equally good thresholds it is the one nearest to 0.5 (of two equally near, the higher). If nothing is true, it is 0.5.

    Args:
        scores: [n], in [0, 1].
        truth: [n].
    """
    positives = int(truth.sum())
    if not positives:
        return THRESHOLD
    order = np.argsort(-scores)
    above = scores[order]
    below = np.append(above[1:], 0.0)  # the last threshold lets every row pass
    f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(scores) + 1) + positives)
    cuts = np.append(above[1:] < above[:-1], True)  # equal scores are on the same side of a threshold
    middle = (above + below) / 2
    thresholds = np.where(middle > below, middle, above)  # no float lies between neighbouring floats
    best = thresholds[cuts & (f1 == f1[cuts].max())]
    return float(best[np.argmin(np.abs(best - THRESHOLD))])


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``part`` / ``whole``, 0 where the whole is 0."""
    result: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)
    return result
