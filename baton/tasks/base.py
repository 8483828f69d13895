"""The Task contract: what training, evaluation and serving must agree on for one kind of model.

A task turns inputs into windows of token ids, logits into outputs, and outputs into scores. It works on numpy arrays and
knows neither torch nor the registry. A new task is one file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from tokenizers import Tokenizer

InputT = TypeVar("InputT", bound=BaseModel)
OutputT = TypeVar("OutputT", bound=BaseModel)
ExampleT = TypeVar("ExampleT", bound=BaseModel)
OptionsT = TypeVar("OptionsT", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Encoded inputs. One input may have become many windows.

    ``ids[w]`` and ``type_ids[w]`` are the token and segment ids of window w, special tokens included, unpadded;
    ``owner[w]`` is the index of the input it came from.
    """

    ids: Sequence[Sequence[int]]
    type_ids: Sequence[Sequence[int]]
    owner: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of a set of outputs, and the per-example outcomes from which `Task.resample` recomputes the main one.

    ``statistics``: int32 [n, d], one row an example.
    """

    metrics: Mapping[str, Any]
    statistics: NDArray[np.int32]


class Task(ABC, Generic[InputT, OutputT, ExampleT, OptionsT]):
    """One kind of model, with its labels and its longest input in tokens."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """Key of the main metric, the gate's F1, in `Score.metrics`; in [0, 1], higher is better."""
    auto_model: ClassVar[str]
    """Name of the transformers class that loads this task's models."""

    Input: type[InputT]
    Output: type[OutputT]
    Example: type[ExampleT]
    Options: type[OptionsT]

    nest_single: ClassVar[bool]
    """Whether the answer to a single input still comes in a list (text-classification does that)."""

    def __init__(self, labels: Sequence[str], max_length: int) -> None:
        self.labels = tuple(labels)
        self.max_length = max_length

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def labels_of(cls, examples: Iterable[ExampleT]) -> tuple[str, ...]:
        """The label set of training examples, in the order of the model's outputs. Raises ``DataError``."""

    @classmethod
    @abstractmethod
    def strata(cls, examples: Sequence[ExampleT]) -> list[str]:
        """For each example the group within which a holdout is drawn."""

    @classmethod
    @abstractmethod
    def content(cls, example: ExampleT) -> str:
        """The input side of an example as one string: examples with the same content are duplicates."""

    @abstractmethod
    def check(self, examples: Sequence[ExampleT]) -> None:
        """Raise ``DataError`` when the examples cannot be scored with these labels."""

    # --- inference ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Set truncation to what `encode` expects."""

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, inputs: Sequence[InputT]) -> Windows:
        """Token windows of the inputs, in order."""

    @abstractmethod
    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[OptionsT]
    ) -> list[OutputT]:
        """Outputs of the inputs, in order. ``logits[name][w]`` belongs to window w; ``options[i]`` to input i."""

    @abstractmethod
    def difference(self, expected: OutputT, actual: OutputT) -> float:
        """Largest difference of scores between two answers to the same input; infinite where they disagree in kind."""

    # --- wire (the Hugging Face shapes; other dialects build on them) ----------------------------------------------------

    @classmethod
    @abstractmethod
    def from_wire(cls, value: object) -> InputT:
        """One element of a request's ``inputs``. Raises ``InvalidInput`` with what is allowed."""

    @classmethod
    @abstractmethod
    def to_wire(cls, output: OutputT) -> Any:
        """The answer to one input, as JSON values."""

    # --- training and judging ----------------------------------------------------------------------------------------

    @abstractmethod
    def input_of(self, example: ExampleT) -> InputT:
        """The question without its answer."""

    @abstractmethod
    def targets(self, examples: Sequence[ExampleT], windows: Windows) -> list[Any]:
        """For each window what its loss is computed against: an int, or a list of ints."""

    @abstractmethod
    def score(self, outputs: Sequence[OutputT], examples: Sequence[ExampleT]) -> Score:
        """Score outputs against their examples."""

    @abstractmethod
    def resample(self, statistics: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """The main metric of weighted resamples.

        Args:
            statistics: [n, d], as `score` returned it.
            weights: [b, n], how often each example is drawn in each of b resamples.

        Returns: [b].
        """

    @abstractmethod
    def samples(self) -> list[InputT]:
        """A few inputs for warm-up, short and long."""


def check_text(value: str, what: str) -> str:
    """``value`` if a tokenizer can take it. Raises ``ValueError``, so that pydantic validators may call it."""
    if not value.strip():
        raise ValueError(f"{what} is empty; send at least one character that is not white space")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} holds a lone surrogate at character {error.start}; send valid Unicode") from None
    return value


def first_problem(error: ValidationError) -> str:
    """The first mistake of a pydantic error as ``field: message``, without pydantic's own prefixes."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
