"""The Task contract: what training, evaluation and serving must agree on for one kind of model.

A task turns inputs into windows of token ids, logits into outputs, and outputs into scores. It works on numpy arrays and
knows neither torch nor the registry. A new task is one file in this package.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from tokenizers import Tokenizer

from baton.generation import Generation
from baton.tasks.f1 import Metric
from baton.tasks.windows import Windows

InputT = TypeVar("InputT", bound=BaseModel)
OutputT = TypeVar("OutputT", bound=BaseModel)
ExampleT = TypeVar("ExampleT", bound=BaseModel)
OptionsT = TypeVar("OptionsT", bound=BaseModel)

Target = Literal["class", "classes", "tokens", "span", "text"]
"""What the loss of one window is computed against. `training.fit.losses` has a loss for each.

- ``class``: the index of the one right label.
- ``classes``: a float for each label: 1 if it applies, else 0.
- ``tokens``: for each token the index of its label, or `IGNORED`.
- ``span``: the positions of the answer's first and last token in the window.
- ``text``: the token ids of the answer, which the model writes.
"""

LongText = Literal["truncate", "windows"]
"""How to read a text of more than ``max_length`` tokens: only its beginning, or all of it in windows."""

PAIR_SEPARATOR = "\0"
"""Separates the two texts of a pair in `Task.content`. Unlike white space it survives normalisation, so that the pairs
"a b", "c" and "a", "b c" stay different."""

SCHEMA_REFERENCE = "#/components/schemas/{model}"
"""Where an OpenAPI document has the schemas that others refer to."""

IGNORED = -100
"""Target of a token that does not count in the loss."""


CHARACTERS_PER_TOKEN = 3
"""A low estimate, to form batches before the texts are tokenised. The predictor forms them again by the real lengths."""


class Mark(NamedTuple):
    """A part of an input that is, or is in, an answer. Positions count code points of `Task.content`."""

    start: int
    end: int
    """The position after its last character."""
    label: str = ""
    """What it is called; empty where answers have no labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What the part ``text[start:end]`` adds to the score of an answer; negative if it speaks against it."""

    start: int
    end: int
    score: float


EXPLANATION_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "Why the answer has its score: `baseline`, its score without any word, and what each word adds sum to it.",
    "properties": {
        "baseline": {"type": "number"},
        "parts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"start": {"type": "integer"}, "end": {"type": "integer"}, "score": {"type": "number"}},
                "required": ["start", "end", "score"],
            },
        },
    },
    "required": ["baseline", "parts"],
}
"""JSON Schema of an `Explanation` as answers have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why an answer has its score: ``baseline`` and the scores of the parts sum to it."""

    baseline: float
    """The score of the same answer when no word of the text is seen."""
    parts: tuple[Attribution, ...]
    """In the order of the text."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of a set of outputs, with what `Task.measure` needs to recompute the main metric."""

    metrics: Mapping[str, Any]
    statistics: NDArray[np.int32]
    """[n, d]: one row of d numbers for each example."""


class Task(ABC, Generic[InputT, OutputT, ExampleT, OptionsT]):
    """What a model is trained to do. An object has the labels, the window sizes and the calibration of one version."""

    name: ClassVar[str]
    metric: ClassVar[str] = "f1"
    """Key in `Score.metrics` of the main metric, by which the gate decides. It is in [0, 1]; higher is better."""
    auto_model: ClassVar[str]
    """Name of the transformers class that loads this task's models."""
    heads: ClassVar[tuple[str, ...]] = ("logits",)
    """Names of the model's outputs that `decode` needs."""
    target: ClassVar[Target]

    Input: type[InputT]
    Output: type[OutputT]
    Example: type[ExampleT]
    Options: type[OptionsT]

    row_shapes: ClassVar[tuple[tuple[str, ...], ...]]
    """Alternative sets of fields: a data row must have all fields of at least one. `Example` validates their raw values."""
    optional_fields: ClassVar[tuple[str, ...]] = ()
    """Further fields of a row, which `Example` gets if the row has them."""

    augmentable: ClassVar[tuple[str, ...]] = ()
    """Text fields of a row that `training.augment` may change without making its answer wrong."""

    nest_single: ClassVar[bool] = False
    """Whether the answer to a single input is still wrapped in a list, as that of Hugging Face's text-classification is."""
    default_max_length: ClassVar[int] = 128
    long_texts: ClassVar[tuple[LongText, ...]] = ("windows",)
    """The allowed ways to read texts of more than ``max_length`` tokens, the default first."""

    def __init__(
        self,
        labels: Sequence[str],
        max_length: int,
        *,
        stride: int | None = None,
        long_text: LongText | None = None,
        calibration: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            labels: the labels of the model's outputs, in order.
            max_length: maximum tokens in a window, special ones included.
            stride: tokens that neighbouring windows share; a quarter of ``max_length`` by default.
            long_text: one of `long_texts`; the first by default.
            calibration: what `calibrate` returned for this version.
        """
        self.labels = tuple(labels)
        self.max_length = max_length
        self.stride = max_length // 4 if stride is None else stride
        self.long_text = long_text or self.long_texts[0]
        self.calibration = dict(calibration or {})
        self.temperature = 1.0
        """Divides the logits before they become scores. It changes how sure answers look, never what they say."""
        self.generation = Generation()
        """How answers are written, by models that write them."""

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def labels_of(cls, examples: Iterable[ExampleT]) -> tuple[str, ...]:
        """Return the labels that a model trained on these examples has, in the order of its outputs; () if the task has none.

        Raises ``DataError`` if a model cannot learn from these examples.
        """

    @classmethod
    def check_labels(cls, labels: Sequence[str]) -> None:
        """Raise ``UnusableModel`` unless a model from elsewhere whose outputs are these labels can do the task."""

    @classmethod
    @abstractmethod
    def strata(cls, examples: Sequence[ExampleT]) -> list[str]:
        """Return the stratum of each example: a holdout is drawn from each stratum in proportion."""

    @classmethod
    @abstractmethod
    def content(cls, example: ExampleT) -> str:
        """Return the input of an example as one string. Examples with the same content are duplicates."""

    @classmethod
    def group(cls, example: ExampleT) -> str:
        """Return the group of an example, by default its content. All examples of one group go into the same split."""
        return cls.content(example)

    @classmethod
    def labels_in(cls, example: ExampleT) -> tuple[str, ...]:
        """Return the labels in an example's answer, each once. Override it if `labels_of` collects labels from examples."""
        return ()

    @classmethod
    def answer_of(cls, example: ExampleT) -> dict[str, Any]:
        """Return the answer of an example as JSON values. Two examples with the same content must have the same answer."""
        answer: dict[str, Any] = example.model_dump(mode="json", exclude={*cls.Input.model_fields, *cls.optional_fields})
        return answer

    @classmethod
    def limits(cls, examples: Sequence[ExampleT]) -> str | None:
        """Return in words what no answer can get right in these examples, with the best possible F1; None if nothing."""
        return None

    @abstractmethod
    def check(self, examples: Sequence[ExampleT]) -> None:
        """Raise ``DataError`` unless the examples can be scored with `labels`."""

    @property
    def answer_labels(self) -> tuple[str, ...]:
        """The labels that answers may have, in the form of `labels_in`; () if the task has none."""
        return self.labels

    # --- inference ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Set the tokenizer's truncation and padding to what `encode` needs, and return the tokenizer."""

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, inputs: Sequence[InputT], options: Sequence[OptionsT]) -> Windows:
        """Return the windows of the inputs, in order. ``options[i]`` belongs to input i.

        Everything that `decode` and `targets` need to know about the tokenizer must be in the result: they do not see it.
        """

    @abstractmethod
    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[OptionsT]
    ) -> list[OutputT]:
        """Return the outputs of the inputs, in order.

        Args:
            windows: what `encode` returned for the same options.
            logits: ``logits[name][w]`` is that output of the model for window w. Logits of tokens are padded: their first
                axis may be longer than the window. Of a model that writes they are the ids of the tokens that it wrote, with
                negative numbers behind them.
            options: ``options[i]`` belongs to input i.
        """

    @abstractmethod
    def difference(self, expected: OutputT, actual: OutputT) -> float:
        """Return the largest difference between scores of two answers to one input; infinity if they cannot be compared."""

    def agree(self, first: OutputT, second: OutputT) -> bool:
        """Return whether two answers to one input say the same, whatever their scores: by default, whether the label is one."""
        return self.summary(first, self.Options())[0] == self.summary(second, self.Options())[0]

    @abstractmethod
    def estimate_tokens(self, item: InputT) -> int:
        """Estimate how many tokens the windows of an input have together, on the low side and without a tokenizer.

        Tokens that the model may write count, too.
        """

    def copies(self, options: OptionsT) -> int:
        """Return how many copies of each input are in the model at once: one, or those of a search."""
        return 1

    # --- the prediction log ------------------------------------------------------------------------------------------

    @abstractmethod
    def summary(self, output: OutputT, options: OptionsT) -> tuple[str | None, float | None]:
        """Return what drift is measured by: the predicted label, and the confidence in [0, 1]. Either may be None.

        ``options`` are those of the request. If it requested another form of scores, they are not confidences.
        """

    def brief(self, output: OutputT, item: InputT) -> OutputT:
        """Return the part of an answer that the log keeps, enough to score it later.

        Texts that the answer quotes must be taken from ``item``, where personal data may be masked. Texts that a model wrote
        are masked in ``output`` already.
        """
        return output

    def confidences(self, output: OutputT, options: OptionsT) -> Sequence[float]:
        """Return the score, in [0, 1], of each part of an answer that is right or wrong by itself, such as each entity.

        A score claims the probability that its part is right. () if the task has no such scores, or the request requested
        another form of them: then answers are neither calibrated nor withheld.
        """
        return ()

    def correct(self, output: OutputT, example: ExampleT) -> Sequence[bool]:
        """Return for each of the `confidences` of an answer with the default options whether its part is right."""
        return ()

    # --- explanations ------------------------------------------------------------------------------------------------

    def wants_explanation(self, options: OptionsT) -> bool:
        """Return whether a request with these options asks why its answers have their scores. Never, by default."""
        return False

    def explaining(self) -> OptionsT | None:
        """Return the options that ask why an answer has its score; None if the task has no such options."""
        return None

    def explanations_of(self, output: OutputT) -> Sequence[tuple[Mark | None, Explanation]]:
        """Return the explanations in an output, each with the place that it is about; None for the answer as a whole."""
        return []

    def words(self, item: InputT) -> list[tuple[int, int]]:
        """Return the start and end of each word of an input. Raises ``InvalidInput`` if its answers cannot be explained."""
        raise NotImplementedError

    def values(self, windows: Windows, output: OutputT, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the score [len(logits), answers] of each part of ``output`` that is explained, by other logits for its window.

        ``windows`` has the one window of the input. Each of ``logits`` is what the model gives for it with some words hidden.
        With no word hidden, the scores are those in ``output``.
        """
        raise NotImplementedError

    def explained(self, output: OutputT, explanations: Sequence[Explanation]) -> OutputT:
        """Return ``output`` with the explanations of its parts, in the order of `values`."""
        raise NotImplementedError

    # --- live quality ------------------------------------------------------------------------------------------------

    def scorable(self, options: OptionsT) -> bool:
        """Return whether answers with these options have everything that `score` needs. Live quality leaves out the others."""
        return True

    # --- reports for people ------------------------------------------------------------------------------------------

    def in_words(self, output: OutputT) -> str:
        """Return an answer in a few words. ``output``: as `brief` returned it."""
        return json.dumps(self.to_wire(output), ensure_ascii=False)

    def truth_in_words(self, example: ExampleT, item: InputT) -> str:
        """Return the right answer of an example in a few words: by default its labels.

        Texts that it quotes must be taken from ``item``, where personal data may be masked.
        """
        return ", ".join(self.labels_in(example))

    def marks_of(self, output: OutputT, item: InputT) -> tuple[Mark, ...]:
        """Return where an answer lies in the input, for tasks whose answers do. ``output``: as `brief` returned it."""
        return ()

    def truth_marks(self, example: ExampleT) -> tuple[Mark, ...]:
        """Return where the right answer of an example lies in its input, for tasks whose answers do."""
        return ()

    # --- wire (the Hugging Face shapes; other dialects build on them) ----------------------------------------------------

    @classmethod
    def input_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of what `from_wire` reads: by default an object with the fields of ``Input``."""
        return cls.Input.model_json_schema(ref_template=SCHEMA_REFERENCE)

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of what `to_wire` returns: by default any JSON value."""
        return {}

    @classmethod
    @abstractmethod
    def from_wire(cls, value: object) -> InputT:
        """Parse one element of a request's ``inputs``. Raises ``InvalidInput``, which says what is allowed."""

    @classmethod
    @abstractmethod
    def to_wire(cls, output: OutputT) -> Any:
        """Return the answer to one input as JSON values."""

    # --- training and evaluation -------------------------------------------------------------------------------------

    @abstractmethod
    def input_of(self, example: ExampleT) -> InputT:
        """Return the input of an example, without its answer."""

    @abstractmethod
    def targets(self, examples: Sequence[ExampleT], windows: Windows) -> list[Any]:
        """Return for each window what its loss is computed against: see `Target`."""

    @classmethod
    def calibrates(cls) -> bool:
        """Return whether the task overrides `calibrate`."""
        return cls.calibrate is not Task.calibrate

    def calibrate(self, outputs: Sequence[OutputT], examples: Sequence[ExampleT]) -> dict[str, float]:
        """Return what a version learns from its outputs for validation rows, such as thresholds; stored as ``calibration``."""
        return {}

    @abstractmethod
    def score(self, outputs: Sequence[OutputT], examples: Sequence[ExampleT]) -> Score:
        """Return the metrics of ``outputs``; ``examples[i]`` has the right answer for ``outputs[i]``."""

    @abstractmethod
    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> Metric:
        """Return the main metric of scored outputs, with the terms of each example.

        Args:
            metrics: as `score` returned them, perhaps for a version with other labels.
            statistics: [n, d], as `score` returned them.
        """

    @abstractmethod
    def samples(self) -> list[InputT]:
        """Return a few inputs, short and long, for warm-up and for the self-check of a loaded version."""


AnyTask = Task[Any, Any, Any, Any]
"""A task with any types of rows and answers. A variable for the class, `type[AnyTask]`, is called ``task_cls``."""
