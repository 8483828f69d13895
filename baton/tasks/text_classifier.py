"""What classification and multi-label classification share: a text or a pair of texts in, one row of logits over labels out.

`TextClassifier` reads the texts, in one window or several, and leaves it to its subclasses what the logits mean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from tokenizers import Encoding, Tokenizer

from baton.errors import DataError, InvalidInput
from baton.tasks.base import CHARACTERS_PER_TOKEN, EXPLANATION_SCHEMA, PAIR_SEPARATOR, Explanation, LongText, Mark, Task
from baton.tasks.checks import check_text
from baton.tasks.text_input import read_text_input
from baton.tasks.windows import Windows, encode_beginnings, first_tokens, split_into_windows, without_truncation
from baton.text.words import word_spans
from baton.wording import counted


class TextInput(BaseModel):
    """A text to classify, or a pair of texts to classify together, for example a question and an answer."""

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


class LabelScores(BaseModel):
    """The labels with their scores, best first: all of them, or those that the request or the log keeps."""

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    explanation: Explanation | None = None
    """Why the best label has its score, if the request wants to know."""

    @property
    def label(self) -> str:
        return self.labels[0]


class ClassificationOptions(BaseModel):
    """The ``parameters`` of the Hugging Face text-classification request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int | None = Field(None, ge=1, description="How many labels to return, best first; all by default.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] = "softmax"
    explain: bool = Field(
        False, description="Whether to say what each word adds to the score of the best label. It takes many forward passes."
    )

    @field_validator("function_to_apply", "explain", mode="before")
    @classmethod
    def _default(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[str(info.field_name)].default if value is None else value

    @model_validator(mode="after")
    def _explains_probabilities(self) -> Self:
        default = type(self).model_fields["function_to_apply"].default
        if self.explain and self.function_to_apply != default:
            raise ValueError(f"explain is not for function_to_apply {self.function_to_apply!r}; allowed: {default}")
        return self


TextExampleT = TypeVar("TextExampleT", bound=TextInput)
ScoresT = TypeVar("ScoresT", bound=LabelScores)
ChoiceT = TypeVar("ChoiceT", bound=ClassificationOptions)


class TextClassifier(Task[TextInput, ScoresT, TextExampleT, ChoiceT]):
    """A task whose model gives one row of logits [labels] for a text or a pair of texts."""

    auto_model: ClassVar[str] = "AutoModelForSequenceClassification"
    nest_single: ClassVar[bool] = True
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "label"),)
    optional_fields: ClassVar[tuple[str, ...]] = ("text_pair",)
    augmentable: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    long_texts: ClassVar[tuple[LongText, ...]] = ("truncate", "windows")
    Input = TextInput

    @classmethod
    @abstractmethod
    def truth(cls, example: TextExampleT) -> Sequence[str]:
        """Return the right labels of an example."""

    @abstractmethod
    def answer(self, logits: NDArray[np.float64], options: ChoiceT) -> ScoresT:
        """Return the output for one row of logits [labels]."""

    @classmethod
    def content(cls, example: TextExampleT) -> str:
        return example.text if example.text_pair is None else f"{example.text}{PAIR_SEPARATOR}{example.text_pair}"

    @classmethod
    def labels_in(cls, example: TextExampleT) -> tuple[str, ...]:
        return tuple(cls.truth(example))

    def check(self, examples: Sequence[TextExampleT]) -> None:
        unknown = sorted({label for example in examples for label in self.truth(example)} - set(self.labels))
        if unknown:
            raise DataError(
                f"the holdout has {counted(len(unknown), 'label')} that the training data lacks: "
                f"{', '.join(map(repr, unknown[:5]))}; "
                f"training has {', '.join(map(repr, self.labels[:10]))}{' …' if len(self.labels) > 10 else ''}"
            )

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[TextInput], options: Sequence[ChoiceT]) -> Windows:
        texts = [text for item in inputs for text in (item.text, item.text_pair) if text is not None]
        located = any(choice.explain for choice in options)  # explanations say where words are
        encode = tokenizer.encode_batch if located else tokenizer.encode_batch_fast
        if self.long_text == "truncate" and len(texts) == len(inputs):  # the lengths of pairs decide how each is cut
            encodings = iter(encode_beginnings(encode, texts, self.max_length))
        else:
            encodings = iter(encode(texts, add_special_tokens=False))
        windows = [
            self._windows(tokenizer, next(encodings), None if item.text_pair is None else next(encodings)) for item in inputs
        ]
        flat = [window for windows_of_input in windows for window in windows_of_input]
        return Windows(
            inputs=inputs,
            ids=[window.ids for window in flat],
            type_ids=[window.type_ids for window in flat],
            owner=[owner for owner, windows_of_input in enumerate(windows) for _ in windows_of_input],
            encodings=flat,
        )

    def _windows(self, tokenizer: Tokenizer, first: Encoding, second: Encoding | None) -> list[Encoding]:
        """Return the windows of an input, from texts that have no special tokens yet.

        A single text is split into windows. Of a pair, the second text is split, and each window begins with the first text.
        The first text is cut if needed, to the room that the second leaves but at least half of the room; an odd token goes
        to the longer text. If there is one window, it is the same as with the tokenizers' ``longest_first`` truncation.
        With room for 8 tokens, texts of 6 and 6 tokens become, with stride 0, the windows [4 + 4] and [4 + 2].
        """
        room = self.max_length - tokenizer.num_special_tokens_to_add(second is not None)
        if second is None:
            return [tokenizer.post_process(window) for window in self._split(first, room)]
        half = (room + (len(first) > len(second))) // 2
        start = first_tokens(first, max(half, room - len(second)))
        return [tokenizer.post_process(start, window) for window in self._split(second, room - len(start))]

    def _split(self, encoding: Encoding, limit: int) -> list[Encoding]:
        """Return the text's windows of at most ``limit`` tokens, or only the first if `long_text` is ``truncate``."""
        return (
            [first_tokens(encoding, limit)]
            if self.long_text == "truncate"
            else split_into_windows(encoding, limit, self.stride)
        )

    def mean_logits(self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]]) -> list[NDArray[np.float64]]:
        """Return for each input the mean of its windows' logits [labels]."""
        rows = logits["logits"]
        if len(windows) == len(windows.inputs):
            return [row.astype(np.float64) for row in rows]
        return [
            np.mean([rows[window] for window in indices], axis=0, dtype=np.float64) for indices in windows.ranges_by_input()
        ]

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[ChoiceT]
    ) -> list[ScoresT]:
        return [self.answer(row, choice) for row, choice in zip(self.mean_logits(windows, logits), options, strict=True)]

    def wants_explanation(self, options: ChoiceT) -> bool:
        return options.explain

    def explaining(self) -> ChoiceT:
        return self.Options(explain=True)

    def explanations_of(self, output: ScoresT) -> Sequence[tuple[Mark | None, Explanation]]:
        return [] if output.explanation is None else [(None, output.explanation)]

    def words(self, item: TextInput) -> list[tuple[int, int]]:
        if item.text_pair is not None:
            raise InvalidInput("parameters.explain: answers to pairs of texts are not explained; allowed with one text")
        return word_spans(item.text)

    def values(self, windows: Windows, output: ScoresT, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        best = self.labels.index(output.label)
        function = self.Options().function_to_apply
        return np.array([[activate(function, row.astype(np.float64), self.temperature)[best]] for row in logits])

    def explained(self, output: ScoresT, explanations: Sequence[Explanation]) -> ScoresT:
        return output.model_copy(update={"explanation": explanations[0]})

    def difference(self, expected: ScoresT, actual: ScoresT) -> float:
        before, after = (dict(zip(item.labels, item.scores, strict=True)) for item in (expected, actual))
        return (
            max((abs(before[label] - after[label]) for label in before), default=0.0)
            if before.keys() == after.keys()
            else np.inf
        )

    def estimate_tokens(self, item: TextInput) -> int:
        estimate = 2 + (len(item.text) + len(item.text_pair or "")) // CHARACTERS_PER_TOKEN
        return estimate if self.long_text == "windows" else min(self.max_length, estimate)

    def summary(self, output: ScoresT, options: ChoiceT) -> tuple[str | None, float | None]:
        """Return the best label, and its score if the request kept the function that makes it a probability."""
        return output.label, output.scores[0] if self._has_probabilities(options) else None

    def _has_probabilities(self, options: ChoiceT) -> bool:
        return options.function_to_apply == type(options)().function_to_apply

    @classmethod
    def from_wire(cls, value: object) -> TextInput:
        return read_text_input(TextInput, "text", value)

    @classmethod
    def input_schema(cls) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, super().input_schema()]}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        scores = {"label": {"type": "string"}, "score": {"type": "number"}}
        properties = {**scores, "explanation": EXPLANATION_SCHEMA}
        return {"type": "array", "items": {"type": "object", "properties": properties, "required": list(scores)}}

    @classmethod
    def to_wire(cls, output: ScoresT) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"label": label, "score": score} for label, score in zip(output.labels, output.scores, strict=True)
        ]
        if output.explanation is not None:
            rows[0]["explanation"] = asdict(output.explanation)
        return rows

    def input_of(self, example: TextExampleT) -> TextInput:
        return TextInput.model_construct(text=example.text, text_pair=example.text_pair)

    def samples(self) -> list[TextInput]:
        sentence = "Where is my order?"
        return [TextInput(text=sentence), TextInput(text=" ".join([sentence] * 12))]


def activate(function: str, logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the scores of one row of logits [labels], divided by ``temperature`` unless logits are asked for.

    Softmax is shifted by its maximum so that it cannot overflow.
    """
    if function == "softmax":
        shifted = np.exp((logits - logits.max()) / temperature)
        return np.asarray(shifted / shifted.sum())
    if function == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(logits / (2 * temperature))))
    return logits


def ranking(logits: NDArray[np.float64], options: ClassificationOptions) -> NDArray[np.intp]:
    """Return the positions of the labels to return, best first; equal ones keep the order of the labels.

    Logits decide and not scores, of which several may be rounded to 1.
    """
    return np.argsort(-logits, kind="stable")[: options.top_k]
