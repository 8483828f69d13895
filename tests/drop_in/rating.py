"""A complete task in one file, for the tests and as an example: how many stars a review gives.

Nothing else in Baton mentions it. Copied into `baton/tasks/`, it can be configured, trained, evaluated and served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from baton.errors import DataError, InvalidInput
from baton.tasks.base import CHARACTERS_PER_TOKEN, Score, Target, Task
from baton.tasks.checks import check_text
from baton.tasks.f1 import RatioF1
from baton.tasks.windows import Windows

MAX_STARS = 5


class Review(BaseModel):
    """The input: the text of a review."""

    model_config = ConfigDict(frozen=True)

    review: str


class RatedReview(Review):
    """A data row: a review with its stars."""

    stars: int = Field(ge=1, le=MAX_STARS)


class Stars(BaseModel):
    """The output: the expected number of stars, and the most probable one."""

    expected: float
    likeliest: int


class NoOptions(BaseModel):
    """The ``parameters`` of a request: none."""

    model_config = ConfigDict(extra="forbid")


class Rating(Task[Review, Stars, RatedReview, NoOptions]):
    """Rates a review. A model has one output for each number of stars."""

    name: ClassVar[str] = "rating"
    auto_model: ClassVar[str] = "AutoModelForSequenceClassification"
    target: ClassVar[Target] = "class"
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("review", "stars"),)
    long_texts: ClassVar[tuple[Any, ...]] = ("truncate",)
    Input, Output, Example, Options = Review, Stars, RatedReview, NoOptions

    @classmethod
    def labels_of(cls, examples: Iterable[RatedReview]) -> tuple[str, ...]:
        if not list(examples):
            raise DataError("rating needs at least one review in the training data; it has none")
        return tuple(f"{stars} stars" for stars in range(1, MAX_STARS + 1))

    @classmethod
    def strata(cls, examples: Sequence[RatedReview]) -> list[str]:
        return [str(example.stars) for example in examples]

    @classmethod
    def content(cls, example: RatedReview) -> str:
        return example.review

    def check(self, examples: Sequence[RatedReview]) -> None:
        """Accept any reviews: all of them can be scored."""

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        return tokenizer

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[Review], options: Sequence[NoOptions]) -> Windows:
        encodings = tokenizer.encode_batch([item.review for item in inputs])
        return Windows(
            inputs=inputs,
            ids=[encoding.ids for encoding in encodings],
            type_ids=[encoding.type_ids for encoding in encodings],
            owner=range(len(inputs)),
        )

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[NoOptions]
    ) -> list[Stars]:
        outputs = []
        for row in logits["logits"]:
            weights = np.exp(row - row.max())  # softmax without its division
            expected = float(weights @ np.arange(1, MAX_STARS + 1) / weights.sum())
            outputs.append(Stars(expected=expected, likeliest=int(row.argmax()) + 1))
        return outputs

    def difference(self, expected: Stars, actual: Stars) -> float:
        return abs(expected.expected - actual.expected)

    def estimate_tokens(self, item: Review) -> int:
        return min(self.max_length, 2 + len(item.review) // CHARACTERS_PER_TOKEN)

    def summary(self, output: Stars, options: NoOptions) -> tuple[str | None, float | None]:
        return str(output.likeliest), None

    @classmethod
    def from_wire(cls, value: object) -> Review:
        try:
            return Review(review=check_text(str(value), "review"))
        except ValueError as error:
            raise InvalidInput(f"inputs: {error}") from None

    @classmethod
    def to_wire(cls, output: Stars) -> dict[str, Any]:
        return output.model_dump()

    def input_of(self, example: RatedReview) -> Review:
        return Review(review=example.review)

    def targets(self, examples: Sequence[RatedReview], windows: Windows) -> list[int]:
        return [examples[owner].stars - 1 for owner in windows.owner]

    def score(self, outputs: Sequence[Stars], examples: Sequence[RatedReview]) -> Score:
        right = np.array([[output.likeliest == example.stars] for output, example in zip(outputs, examples, strict=True)])
        return Score(metrics={"f1": float(right.mean()), "examples": len(examples)}, statistics=right.astype(np.int32))

    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> RatioF1:
        """Return the share of reviews whose likeliest number of stars is right, under the name that the gate knows: F1."""
        right = statistics[:, 0].astype(np.float64)
        return RatioF1(numerators=right, denominators=np.ones(len(right)))

    def samples(self) -> list[Review]:
        return [Review(review="Lovely, would buy again."), Review(review="It broke on the second day. " * 8)]
