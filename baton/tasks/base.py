"""The Task contract: what training, evaluation and serving must agree on for one kind of model.

A task turns inputs into windows of token ids, logits into outputs, and outputs into scores. It works on numpy arrays and
knows neither torch nor the registry. A new task is one file in this package.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from tokenizers import Encoding, Tokenizer

InputT = TypeVar("InputT", bound=BaseModel)
OutputT = TypeVar("OutputT", bound=BaseModel)
ExampleT = TypeVar("ExampleT", bound=BaseModel)
OptionsT = TypeVar("OptionsT", bound=BaseModel)

Target = Literal["class", "classes", "tokens", "span"]
"""What one window's loss is computed against; each has its loss in `training.fit.losses`.

- ``class``: the index of the one right label.
- ``classes``: a float for each label, 1 where it applies and 0 where it does not.
- ``tokens``: for each token the index of its label, `IGNORED` where the loss must not look.
- ``span``: the positions of the answer's first and last token in the window.
"""

LongText = Literal["truncate", "windows"]

PAIRED = "\0"
"""Stands between the texts of a `Task.content` that has two; unlike white space it survives normalising, so that "a b" with "c"
is told apart from "a" with "b c"."""

IGNORED = -100
"""Target of a token that the loss passes over."""

CHARACTERS_PER_TOKEN = 3
"""A low estimate for cutting batches before the text is tokenised; the predictor cuts again by real lengths."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Encoded inputs. One input may have become many windows.

    ``ids[w]`` and ``type_ids[w]`` are the token and segment ids of window w, special tokens included, unpadded;
    ``owner[w]`` is the index in ``inputs`` of the input it came from; the windows of one input are neighbours, in the order
    of its text. ``encodings[w]`` tells where in the text its tokens stand; empty where the task does not ask.
    """

    inputs: Sequence[Any]
    ids: Sequence[Sequence[int]]
    type_ids: Sequence[Sequence[int]]
    owner: Sequence[int]
    encodings: Sequence[Encoding] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def of_input(self) -> list[range]:
        """For each input the windows that it became."""
        owners = np.asarray(self.owner)
        edges = np.searchsorted(owners, np.arange(len(self.inputs) + 1))
        return [range(int(start), int(end)) for start, end in itertools.pairwise(edges)]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of a set of outputs, and the per-example outcomes from which `Task.resample` recomputes the main one.

    ``statistics``: int32 [n, d], one row an example.
    """

    metrics: Mapping[str, Any]
    statistics: NDArray[np.int32]


class Task(ABC, Generic[InputT, OutputT, ExampleT, OptionsT]):
    """One kind of model, with its labels, its windows, and what a version of it learned about its own scores."""

    name: ClassVar[str]
    metric: ClassVar[str] = "f1"
    """Key of the main metric, the gate's F1, in `Score.metrics`; in [0, 1], higher is better."""
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
    """Fields of a data row: it must have all of at least one of these shapes. `Example` is validated from them as they are."""
    optional_fields: ClassVar[tuple[str, ...]] = ()
    """Further fields of a row that `Example` takes where they are present."""

    alterable: ClassVar[tuple[str, ...]] = ()
    """Text fields of a row whose words may be altered in training without making its answer wrong (`training.augment`)."""

    nest_single: ClassVar[bool] = False
    """Whether the answer to a single input still comes in a list (text-classification does that)."""
    default_max_length: ClassVar[int] = 128
    long_texts: ClassVar[tuple[LongText, ...]] = ("windows",)
    """What may become of texts longer than ``max_length`` tokens, the default first."""

    def __init__(
        self,
        labels: Sequence[str],
        max_length: int,
        *,
        stride: int | None = None,
        long_text: LongText | None = None,
        calibration: Mapping[str, float] | None = None,
    ) -> None:
        """``max_length``: longest window in tokens, special ones included. ``stride``: tokens that neighbouring windows share
        (default: a quarter of ``max_length``). ``calibration``: what `calibrate` returned for this version.
        """
        self.labels = tuple(labels)
        self.max_length = max_length
        self.stride = max_length // 4 if stride is None else stride
        self.long_text = long_text or self.long_texts[0]
        self.calibration = dict(calibration or {})

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def labels_of(cls, examples: Iterable[ExampleT]) -> tuple[str, ...]:
        """The labels of the model's outputs, in their order, for these training examples; empty where the task has none.

        Raises ``DataError`` when nothing can be learnt from them.
        """

    @classmethod
    @abstractmethod
    def strata(cls, examples: Sequence[ExampleT]) -> list[str]:
        """For each example the group within which a holdout is drawn."""

    @classmethod
    @abstractmethod
    def content(cls, example: ExampleT) -> str:
        """The input side of an example as one string: examples with the same content are duplicates."""

    @classmethod
    def group(cls, example: ExampleT) -> str:
        """Examples with the same group never stand on both sides of a split; by default those with the same content."""
        return cls.content(example)

    @classmethod
    def labels_in(cls, example: ExampleT) -> tuple[str, ...]:
        """The labels that an example's answer names, each once; to be overridden where `labels_of` collects them."""
        return ()

    @classmethod
    def answer_of(cls, example: ExampleT) -> dict[str, Any]:
        """The answer side of an example, as JSON values: two examples of one content with different answers contradict."""
        answer: dict[str, Any] = example.model_dump(mode="json", exclude={*cls.Input.model_fields, *cls.optional_fields})
        return answer

    @abstractmethod
    def check(self, examples: Sequence[ExampleT]) -> None:
        """Raise ``DataError`` when the examples cannot be scored with these labels."""

    # --- inference ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Set truncation to what `encode` expects."""

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, inputs: Sequence[InputT], options: Sequence[OptionsT]) -> Windows:
        """Token windows of the inputs, in order; ``options[i]`` belongs to input i."""

    @abstractmethod
    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[OptionsT]
    ) -> list[OutputT]:
        """Outputs of the inputs, in order.

        ``logits[name][w]`` belongs to window w, ``options[i]`` to input i. Logits of tokens are padded: [tokens or more, …].
        """

    @abstractmethod
    def difference(self, expected: OutputT, actual: OutputT) -> float:
        """Largest difference of scores between two answers to the same input; infinite where they disagree in kind."""

    @abstractmethod
    def tokens(self, item: InputT) -> int:
        """About how many tokens the windows of an input have together: a low estimate, made without a tokenizer."""

    # --- the prediction log ------------------------------------------------------------------------------------------

    @abstractmethod
    def summary(self, output: OutputT, options: OptionsT) -> tuple[str | None, float | None]:
        """What drift is measured by: the label that was predicted, and a confidence in [0, 1]; None where there is none.

        ``options`` are those of the request: scores that were asked for in another form are no confidence.
        """

    def brief(self, output: OutputT, item: InputT) -> OutputT:
        """What is kept of an answer so that it can be scored one day. Where it repeats parts of its input it is to take them
        from ``item``, in which some characters may have been masked.
        """
        return output

    def scorable(self, options: OptionsT) -> bool:
        """Whether answers that were asked for with these options say all that `score` wants to know. Those that do not are no
        part of live quality.
        """
        return True

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
        """For each window what its loss is computed against: see `Target`."""

    @classmethod
    def calibrates(cls) -> bool:
        """Whether versions learn something from `calibrate`."""
        return cls.calibrate is not Task.calibrate

    def calibrate(self, outputs: Sequence[OutputT], examples: Sequence[ExampleT]) -> dict[str, float]:
        """What a version learns about its own scores from its validation rows (thresholds, say); kept with the version."""
        return {}

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


AnyTask = Task[Any, Any, Any, Any]
"""A task whatever its rows and answers; `type[AnyTask]` is its class, called ``task_cls``."""


def without_truncation(tokenizer: Tokenizer) -> Tokenizer:
    """``tokenizer`` set to leave texts whole: for tasks that `cut` them into windows themselves."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def split_into_windows(encoding: Encoding, limit: int, stride: int) -> list[Encoding]:
    """A text's tokens, encoded without special ones, as windows of at most ``limit``; neighbours share ``stride`` of them.

    They share at most half, so that the tokens of all windows together grow linearly with the text. ``encoding`` itself is used
    up. Special tokens are then added by ``tokenizer.post_process``, which joins everything that was cut off one text with
    everything that was cut off the other, as the tokenizers' own truncation does: for two long texts that is tens of gigabytes.
    Hence no window carries the others along.
    """
    if len(encoding) <= limit:
        return [encoding]
    step = limit - min(stride, limit // 2)
    encoding.pad(len(encoding) + step, direction="left")  # a first piece to throw away: the one that carries the others
    encoding.truncate(limit, stride=limit - step)
    pieces: list[Encoding] = encoding.overflowing
    return pieces


def first_tokens(encoding: Encoding, limit: int) -> Encoding:
    """The first ``limit`` tokens of a text, which do not carry the rest along either."""
    return split_into_windows(encoding, limit, 0)[0]


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


def text_length(item: BaseModel) -> int:
    """Characters of all texts of an input."""
    return sum(len(value) for _, value in item if isinstance(value, str))


def from_cell(value: object) -> object:
    """The JSON list or object that a CSV cell holds; any other value as it is. Raises ``ValueError``."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return from_json(value)
        except ValueError:
            raise ValueError("it starts like a JSON list or object but is none") from None
    return value


def first_problem(error: ValidationError) -> str:
    """The first mistake of a pydantic error as ``field: message (got VALUE)``, without pydantic's own prefixes."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "missing":
            message = "missing"
        case "extra_forbidden":
            message = "unknown"
        case "value_error":  # a check of our own, which tells the value
            message = str(problem["msg"]).removeprefix("Value error, ")
        case _:
            message = f"{problem['msg']} (got {short_repr(problem['input'])})"
    return f"{field}: {message}" if field else message


def short_repr(value: object) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
