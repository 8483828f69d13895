"""Single-label text classification: softmax over labels, judged by macro-F1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy import sparse
from tokenizers import Tokenizer

from baton.errors import DataError, InvalidInput
from baton.tasks.base import Score, Task, Windows, check_text


class TextInput(BaseModel):
    """A text to classify."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str

    @field_validator("text")
    @classmethod
    def _text(cls, value: str) -> str:
        return check_text(value, "text")


class TextExample(TextInput):
    """A text with its one right label."""

    label: str = Field(min_length=1)


class LabelScores(BaseModel):
    """Scores of all labels, best first."""

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.labels[0]


class ClassificationOptions(BaseModel):
    """The ``parameters`` of the Hugging Face text-classification request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int | None = Field(None, ge=1, description="How many labels to answer; all by default.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] = "softmax"

    @field_validator("function_to_apply", mode="before")
    @classmethod
    def _default(cls, value: object) -> object:
        return "softmax" if value is None else value


class Classification(Task[TextInput, LabelScores, TextExample, ClassificationOptions]):
    """One label for each text."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "f1"
    auto_model: ClassVar[str] = "AutoModelForSequenceClassification"
    nest_single: ClassVar[bool] = True
    Input = TextInput
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
    def strata(cls, examples: Sequence[TextExample]) -> list[str]:
        return [example.label for example in examples]

    @classmethod
    def content(cls, example: TextExample) -> str:
        return example.text

    def check(self, examples: Sequence[TextExample]) -> None:
        known = set(self.labels)
        unknown = sorted({example.label for example in examples} - known)
        if unknown:
            raise DataError(
                f"the holdout has {len(unknown)} label(s) that the training data lacks: {', '.join(map(repr, unknown[:5]))}; "
                f"training has {', '.join(map(repr, self.labels[:10]))}{' …' if len(self.labels) > 10 else ''}"
            )

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        return tokenizer

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[TextInput]) -> Windows:
        encodings = tokenizer.encode_batch_fast([item.text for item in inputs])
        return Windows(
            ids=[encoding.ids for encoding in encodings],
            type_ids=[encoding.type_ids for encoding in encodings],
            owner=range(len(encodings)),
        )

    def decode(
        self,
        windows: Windows,
        logits: Mapping[str, Sequence[NDArray[np.float32]]],
        options: Sequence[ClassificationOptions],
    ) -> list[LabelScores]:
        return [self._decode(row, choice) for row, choice in zip(logits["logits"], options, strict=True)]

    def _decode(self, logits: NDArray[np.float32], options: ClassificationOptions) -> LabelScores:
        scores = _activate(options.function_to_apply, logits.astype(np.float64))
        order = np.argsort(-scores, kind="stable")[: options.top_k]
        return LabelScores.model_construct(
            labels=tuple(self.labels[index] for index in order), scores=tuple(scores[order].tolist())
        )

    def difference(self, expected: LabelScores, actual: LabelScores) -> float:
        before, after = (dict(zip(item.labels, item.scores, strict=True)) for item in (expected, actual))
        return (
            max((abs(before[label] - after[label]) for label in before), default=0.0)
            if before.keys() == after.keys()
            else np.inf
        )

    @classmethod
    def from_wire(cls, value: object) -> TextInput:
        if not isinstance(value, str):
            raise InvalidInput(f"inputs: a text must be a string, not {type(value).__name__} ({_short(value)})")
        try:
            return TextInput.model_construct(text=check_text(value, "text"))
        except ValueError as error:
            raise InvalidInput(f"inputs: {error}") from None

    @classmethod
    def to_wire(cls, output: LabelScores) -> list[dict[str, Any]]:
        return [{"label": label, "score": score} for label, score in zip(output.labels, output.scores, strict=True)]

    def input_of(self, example: TextExample) -> TextInput:
        return TextInput.model_construct(text=example.text)

    def targets(self, examples: Sequence[TextExample], windows: Windows) -> list[int]:
        index = {label: position for position, label in enumerate(self.labels)}
        return [index[examples[owner].label] for owner in windows.owner]

    def score(self, outputs: Sequence[LabelScores], examples: Sequence[TextExample]) -> Score:
        """Macro-F1 over the labels that occur as truth or prediction (scikit-learn's `zero_division=0`), accuracy,
        per-class precision, recall, F1 and support, the confusion matrix (rows truth, columns prediction), and ROC-AUC
        one-vs-rest, macro, where every label has both positives and negatives (else None).
        """
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # a second to import; serving needs none

        strange = sorted({example.label for example in examples} - set(self.labels))  # a version older than the label
        names = [*self.labels, *strange]
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
            "f1": float(self.resample(statistics, np.ones((1, len(truth)), dtype=np.float32))[0]),
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

    def resample(self, statistics: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Macro-F1 = mean over occurring labels of 2·TP / (truths + predictions), all counts weighted."""
        truth, predicted = statistics[:, 0], statistics[:, 1]
        hits = np.where(truth == predicted, truth, -1)
        size = int(max(len(self.labels), statistics.max(initial=0) + 1))
        both = 2 * _count(hits, weights, size)
        either = _count(truth, weights, size) + _count(predicted, weights, size)
        f1 = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
        occurring = np.maximum((either > 0).sum(axis=1), 1)
        result: NDArray[np.float64] = f1.sum(axis=1) / occurring
        return result

    def samples(self) -> list[TextInput]:
        short = "Where is my order?"
        return [TextInput(text=short), TextInput(text=" ".join([short] * 12))]


def _count(classes: NDArray[np.int32], weights: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Weighted class counts [b, size]; class -1 counts nowhere."""
    rows = np.flatnonzero(classes >= 0)
    one_hot = sparse.csr_matrix((np.ones(len(rows)), (rows, classes[rows])), shape=(len(classes), size))
    counts: NDArray[np.float64] = (one_hot.T @ weights.T.astype(np.float64)).T
    return counts


def _roc_auc(truth: NDArray[np.int32], probabilities: NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    present = np.unique(truth)
    if len(present) != probabilities.shape[1]:
        return None
    if len(present) == 2:
        return float(roc_auc_score(truth, probabilities[:, 1]))
    totals = probabilities.sum(axis=1, keepdims=True)
    return float(roc_auc_score(truth, probabilities / totals, multi_class="ovr", average="macro"))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _activate(function: str, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of one row of logits [labels]; softmax shifted by its maximum so that it cannot overflow."""
    if function == "softmax":
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())
    if function == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)))
    return logits
