"""Text classification: the one right label of a text or a pair of texts. Softmax over labels; the main metric is macro-F1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from baton.errors import DataError, UnusableModel
from baton.tasks.base import Score, Target
from baton.tasks.checks import check_label
from baton.tasks.f1 import MacroF1
from baton.tasks.text_classifier import ClassificationOptions, LabelScores, TextClassifier, TextInput, activate, ranking
from baton.tasks.windows import Windows

LOGGED_LABELS = 3
"""How many labels of an answer the prediction log keeps, best first."""


class TextExample(TextInput):
    """A text or a pair of texts with its one right label."""

    label: Annotated[str, AfterValidator(check_label)]


class Classification(TextClassifier[LabelScores, TextExample, ClassificationOptions]):
    """Gives each input one label."""

    name: ClassVar[str] = "classification"
    target: ClassVar[Target] = "class"
    Output = LabelScores
    Example = TextExample
    Options = ClassificationOptions

    @classmethod
    def labels_of(cls, examples: Iterable[TextExample]) -> tuple[str, ...]:
        labels = tuple(sorted({example.label for example in examples}))
        if len(labels) < 2:
            only = f"only {labels[0]!r}" if labels else "none"
            raise DataError(f"classification needs at least two labels in the training data; it has {only}")
        return labels

    @classmethod
    def check_labels(cls, labels: Sequence[str]) -> None:
        if len(labels) < 2:
            raise UnusableModel(f"classification needs at least two labels; the model has {len(labels)}: it is a regression")

    @classmethod
    def strata(cls, examples: Sequence[TextExample]) -> list[str]:
        return [example.label for example in examples]

    @classmethod
    def truth(cls, example: TextExample) -> tuple[str]:
        return (example.label,)

    def answer(self, logits: NDArray[np.float64], options: ClassificationOptions) -> LabelScores:
        scores = activate(options.function_to_apply, logits, self.temperature)
        order = ranking(logits, options)
        return LabelScores.model_construct(
            labels=tuple(self.labels[index] for index in order), scores=tuple(scores[order].tolist())
        )

    def confidences(self, output: LabelScores, options: ClassificationOptions) -> Sequence[float]:
        return output.scores[:1] if self._has_probabilities(options) else ()

    def correct(self, output: LabelScores, example: TextExample) -> Sequence[bool]:
        return (output.label == example.label,)

    def brief(self, output: LabelScores, item: TextInput) -> LabelScores:
        return LabelScores(labels=output.labels[:LOGGED_LABELS], scores=output.scores[:LOGGED_LABELS])

    def in_words(self, output: LabelScores) -> str:
        return f"{output.label} ({output.scores[0]:.2f})"

    def truth_in_words(self, example: TextExample, item: TextInput) -> str:
        return example.label

    def targets(self, examples: Sequence[TextExample], windows: Windows) -> list[int]:
        index = {label: position for position, label in enumerate(self.labels)}
        return [index[examples[owner].label] for owner in windows.owner]

    def score(self, outputs: Sequence[LabelScores], examples: Sequence[TextExample]) -> Score:
        """Return macro-F1 over the labels that are the truth of an example, with the details behind it.

        These are accuracy, precision, recall, F1 and support of each label, the confusion matrix (rows truth, columns
        prediction), and macro one-vs-rest ROC-AUC, which is None unless every label has positives and negatives. 0/0 counts
        as 0, as with scikit-learn's ``zero_division=0``.
        """
        from sklearn.metrics import (  # slow to import; serving does not need it
            confusion_matrix,
            precision_recall_fscore_support,
        )

        unseen = sorted({example.label for example in examples} - set(self.labels))  # the version may be older than the label
        names = [*self.labels, *unseen]
        index = {label: position for position, label in enumerate(names)}
        truth = np.array([index[example.label] for example in examples], dtype=np.int32)
        predicted = np.array([index[output.label] for output in outputs], dtype=np.int32)
        statistics = np.stack([truth, predicted], axis=1)
        classes = np.arange(len(names))
        precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
        probabilities = np.zeros((len(outputs), len(names)))
        for row, output in enumerate(outputs):
            for label, value in zip(output.labels, output.scores, strict=True):
                probabilities[row, index[label]] = value
        metrics: dict[str, Any] = {
            "f1": _macro_f1(names, statistics).value(),
            "accuracy": float(np.mean(truth == predicted)),
            "roc_auc": _roc_auc(truth, probabilities),
            "per_class": {
                label: {
                    "precision": float(precision[position]),
                    "recall": float(recall[position]),
                    "f1": float(f1[position]),
                    "support": int(support[position]),
                }
                for label, position in index.items()
            },
            "confusion": confusion_matrix(truth, predicted, labels=classes).tolist(),
            "labels": names,
            "examples": len(truth),
        }
        return Score(metrics=metrics, statistics=statistics)

    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> MacroF1:
        """Return macro-F1. ``statistics`` [n, 2] has the truth and the answer of each example, as indices into its labels."""
        return _macro_f1(metrics["labels"], statistics)


def _macro_f1(names: Sequence[str], statistics: NDArray[np.int32]) -> MacroF1:
    return MacroF1(truth=statistics[:, 0], predicted=statistics[:, 1], labels=tuple(names))


def _roc_auc(truth: NDArray[np.int32], probabilities: NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    present = np.unique(truth)
    if len(present) != probabilities.shape[1]:
        return None
    if len(present) == 2:
        return float(roc_auc_score(truth, probabilities[:, 1]))
    totals = probabilities.sum(axis=1, keepdims=True)
    return float(roc_auc_score(truth, probabilities / totals, multi_class="ovr", average="macro"))
