"""Text classification: one label for a text or a pair of texts. Softmax over labels, judged by macro-F1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from tokenizers import Encoding, Tokenizer

from baton.errors import DataError, InvalidInput
from baton.tasks.base import (
    CHARACTERS_PER_TOKEN,
    PAIRED,
    LongText,
    Score,
    Target,
    Task,
    Windows,
    check_text,
    first_problem,
    first_tokens,
    short_repr,
    split_into_windows,
    without_truncation,
)


class TextInput(BaseModel):
    """A text to classify, or two texts (a question and an answer, say) to classify together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    text_pair: str | None = None

    @field_validator("text")
    @classmethod
    def _text(cls, value: str) -> str:
        return check_text(value, "text")

    @field_validator("text_pair")
    @classmethod
    def _text_pair(cls, value: str | None) -> str | None:
        return None if value is None else check_text(value, "text_pair")


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
        return cls.model_fields["function_to_apply"].default if value is None else value


TextExampleT = TypeVar("TextExampleT", bound=TextInput)
ScoresT = TypeVar("ScoresT", bound=LabelScores)
ChoiceT = TypeVar("ChoiceT", bound=ClassificationOptions)

LOGGED_LABELS = 3
"""Labels of an answer that the prediction log keeps, the best first."""


class TextTask(Task[TextInput, ScoresT, TextExampleT, ChoiceT]):
    """What every classifier of texts shares: its inputs, and one row of logits [labels] for each of them."""

    auto_model: ClassVar[str] = "AutoModelForSequenceClassification"
    nest_single: ClassVar[bool] = True
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "label"),)
    optional_fields: ClassVar[tuple[str, ...]] = ("text_pair",)
    alterable: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    long_texts: ClassVar[tuple[LongText, ...]] = ("truncate", "windows")
    Input = TextInput

    @classmethod
    @abstractmethod
    def truth(cls, example: TextExampleT) -> Sequence[str]:
        """The labels of an example."""

    @abstractmethod
    def answer(self, logits: NDArray[np.float64], options: ChoiceT) -> ScoresT:
        """The output for one row of logits [labels]."""

    @classmethod
    def content(cls, example: TextExampleT) -> str:
        return example.text if example.text_pair is None else f"{example.text}{PAIRED}{example.text_pair}"

    @classmethod
    def labels_in(cls, example: TextExampleT) -> tuple[str, ...]:
        return tuple(cls.truth(example))

    def check(self, examples: Sequence[TextExampleT]) -> None:
        unknown = sorted({label for example in examples for label in self.truth(example)} - set(self.labels))
        if unknown:
            raise DataError(
                f"the holdout has {len(unknown)} label(s) that the training data lacks: {', '.join(map(repr, unknown[:5]))}; "
                f"training has {', '.join(map(repr, self.labels[:10]))}{' …' if len(self.labels) > 10 else ''}"
            )

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[TextInput], options: Sequence[ChoiceT]) -> Windows:
        texts = [text for item in inputs for text in (item.text, item.text_pair) if text is not None]
        encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        windows = [
            self._windows(tokenizer, next(encodings), None if item.text_pair is None else next(encodings)) for item in inputs
        ]
        flat = [window for mine in windows for window in mine]
        return Windows(
            inputs=inputs,
            ids=[window.ids for window in flat],
            type_ids=[window.type_ids for window in flat],
            owner=[owner for owner, mine in enumerate(windows) for _ in mine],
        )

    def _windows(self, tokenizer: Tokenizer, first: Encoding, second: Encoding | None) -> list[Encoding]:
        """The windows of an input whose texts have no special tokens yet: over the only text, or over the second of a pair.

        The first of a pair stands in each window, whole or cut to what the second leaves free, at least half the room; an odd
        token goes to the longer text. For one window this is the tokenizers' own ``longest_first`` truncation.
        """
        room = self.max_length - tokenizer.num_special_tokens_to_add(second is not None)
        if second is None:
            return [tokenizer.post_process(window) for window in self._cut(first, room)]
        half = (room + (len(first) > len(second))) // 2
        start = first_tokens(first, max(half, room - len(second)))
        return [tokenizer.post_process(start, window) for window in self._cut(second, room - len(start))]

    def _cut(self, encoding: Encoding, limit: int) -> list[Encoding]:
        """The text in windows of at most ``limit`` tokens, or its first window alone."""
        return (
            [first_tokens(encoding, limit)]
            if self.long_text == "truncate"
            else split_into_windows(encoding, limit, self.stride)
        )

    def merged(self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]]) -> list[NDArray[np.float64]]:
        """For each input the mean of its windows' logits [labels]."""
        rows = logits["logits"]
        if len(windows) == len(windows.inputs):
            return [row.astype(np.float64) for row in rows]
        return [np.mean([rows[window] for window in mine], axis=0, dtype=np.float64) for mine in windows.of_input()]

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[ChoiceT]
    ) -> list[ScoresT]:
        return [self.answer(row, choice) for row, choice in zip(self.merged(windows, logits), options, strict=True)]

    def difference(self, expected: ScoresT, actual: ScoresT) -> float:
        before, after = (dict(zip(item.labels, item.scores, strict=True)) for item in (expected, actual))
        return (
            max((abs(before[label] - after[label]) for label in before), default=0.0)
            if before.keys() == after.keys()
            else np.inf
        )

    def tokens(self, item: TextInput) -> int:
        estimate = 2 + (len(item.text) + len(item.text_pair or "")) // CHARACTERS_PER_TOKEN
        return estimate if self.long_text == "windows" else min(self.max_length, estimate)

    def summary(self, output: ScoresT, options: ChoiceT) -> tuple[str | None, float | None]:
        """The best label and its score, if that is a probability of this task."""
        usual = options.function_to_apply == type(options)().function_to_apply
        return output.label, output.scores[0] if usual else None

    @classmethod
    def from_wire(cls, value: object) -> TextInput:
        if isinstance(value, str):
            try:
                return TextInput.model_construct(text=check_text(value, "text"))
            except ValueError as error:
                raise InvalidInput(f"inputs: {error}") from None
        if not isinstance(value, dict):
            raise InvalidInput(f"inputs: a text must be a string, not {type(value).__name__} ({short_repr(value)})")
        try:
            return TextInput.model_validate(value)
        except ValidationError as error:
            raise InvalidInput(f"inputs.{first_problem(error)}; allowed: text, text_pair") from None

    @classmethod
    def to_wire(cls, output: ScoresT) -> list[dict[str, Any]]:
        return [{"label": label, "score": score} for label, score in zip(output.labels, output.scores, strict=True)]

    def input_of(self, example: TextExampleT) -> TextInput:
        return TextInput.model_construct(text=example.text, text_pair=example.text_pair)

    def samples(self) -> list[TextInput]:
        sentence = "Where is my order?"
        return [TextInput(text=sentence), TextInput(text=" ".join([sentence] * 12))]


class Classification(TextTask[LabelScores, TextExample, ClassificationOptions]):
    """One label for each input."""

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
    def strata(cls, examples: Sequence[TextExample]) -> list[str]:
        return [example.label for example in examples]

    @classmethod
    def truth(cls, example: TextExample) -> tuple[str]:
        return (example.label,)

    def answer(self, logits: NDArray[np.float64], options: ClassificationOptions) -> LabelScores:
        scores = activate(options.function_to_apply, logits)
        order = ranking(scores, options)
        return LabelScores.model_construct(
            labels=tuple(self.labels[index] for index in order), scores=tuple(scores[order].tolist())
        )

    def brief(self, output: LabelScores, item: TextInput) -> LabelScores:
        return LabelScores(labels=output.labels[:LOGGED_LABELS], scores=output.scores[:LOGGED_LABELS])

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


def _count(classes: NDArray[np.int32], weights: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Weighted class counts [b, size]; class -1 counts nowhere."""
    from scipy import sparse  # serving needs none

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


def activate(function: str, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of one row of logits [labels]; softmax shifted by its maximum so that it cannot overflow."""
    if function == "softmax":
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())
    if function == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)))
    return logits


def ranking(scores: NDArray[np.float64], options: ClassificationOptions) -> NDArray[np.intp]:
    """Positions of the labels to answer, best first; equal scores keep the order of the labels."""
    return np.argsort(-scores, kind="stable")[: options.top_k]
