"""Text to text: the model writes its answer, such as a translation or a summary. The main metric is chrF.

One source is one window, and the answer to it is whatever `baton.engines` lets the model write: there are no labels, no scores
of answers and no explanations. `seq2seq_rows` has the data rows, `baton.text.chrf` the metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from baton.errors import DataError
from baton.generation import MOST_BEAMS, MOST_NEW_TOKENS, Generation
from baton.tasks.base import CHARACTERS_PER_TOKEN, LongText, Score, Target, Task
from baton.tasks.f1 import RatioF1
from baton.tasks.seq2seq_rows import Seq2SeqExample, SourceInput
from baton.tasks.text_input import read_text_input
from baton.tasks.windows import Windows, encode_beginnings, first_tokens, without_truncation
from baton.text.chrf import chrf

UNIT = 1_000_000
"""A chrF of 1 in the statistics, which are whole numbers."""

KEYS = ("generated_text", "summary_text", "translation_text")
"""The names of the answer in Hugging Face's tasks text2text-generation, summarization and translation. Each of its clients
reads its own and leaves the others alone, so that all of them can ask a model of this task."""

NOTHING = "no text"
"""An empty answer in words."""


class WrittenText(BaseModel):
    """What the model wrote."""

    model_config = ConfigDict(frozen=True)

    text: str


class Bounds(BaseModel):
    """Bounds that a request may set. null means the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int | None = Field(
        None, ge=1, le=MOST_NEW_TOKENS, description="Maximum tokens of an answer. Default and limit: the model's."
    )
    num_beams: int | None = Field(
        None, ge=1, le=MOST_BEAMS, description="Beams of the search; 1: greedy. Default: the model's."
    )


class Seq2SeqOptions(Bounds):
    """The ``parameters`` of the Hugging Face requests for summaries and translations."""

    generate_parameters: Bounds | None = Field(
        None, description="The same bounds, where `InferenceClient.summarization` and `translation` put them."
    )


class Seq2Seq(Task[SourceInput, WrittenText, Seq2SeqExample, Seq2SeqOptions]):
    """Writes a text that answers a source."""

    name: ClassVar[str] = "seq2seq"
    auto_model: ClassVar[str] = "AutoModelForSeq2SeqLM"
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    target: ClassVar[Target] = "text"
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("source", "target"),)
    nest_single: ClassVar[bool] = True
    default_max_length: ClassVar[int] = 512
    long_texts: ClassVar[tuple[LongText, ...]] = ("truncate",)
    Input = SourceInput
    Output = WrittenText
    Example = Seq2SeqExample
    Options = Seq2SeqOptions

    @classmethod
    def labels_of(cls, examples: Iterable[Seq2SeqExample]) -> tuple[str, ...]:
        if not any(True for _ in examples):
            raise DataError("seq2seq needs at least one row in the training data; it has none")
        return ()

    @classmethod
    def strata(cls, examples: Sequence[Seq2SeqExample]) -> list[str]:
        return [""] * len(examples)

    @classmethod
    def content(cls, example: Seq2SeqExample) -> str:
        return example.source

    def check(self, examples: Sequence[Seq2SeqExample]) -> None:
        """Accept any examples: there are no labels."""

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[SourceInput], options: Sequence[Seq2SeqOptions]) -> Windows:
        """Return one window for each source: its first tokens, with the special ones that the tokenizer adds."""
        room = self.max_length - tokenizer.num_special_tokens_to_add(False)
        encodings = encode_beginnings(tokenizer.encode_batch_fast, [item.source for item in inputs], self.max_length)
        ids = [tokenizer.post_process(first_tokens(encoding, room)).ids for encoding in encodings]
        return Windows(
            inputs=inputs,
            ids=ids,
            type_ids=[[0] * len(window) for window in ids],
            owner=range(len(inputs)),
            tokenizer=tokenizer,
            generations=[self._bounded(choice) for choice in options],
        )

    def _bounded(self, options: Seq2SeqOptions) -> Generation:
        """Return how an answer with these options is written: within the bounds of the model where it is about length."""
        asked: dict[str, int] = {}
        for part in (options.generate_parameters, options):
            asked |= {} if part is None else part.model_dump(include={*Bounds.model_fields}, exclude_none=True)
        return Generation(
            max_new_tokens=min(asked.get("max_new_tokens", MOST_NEW_TOKENS), self.generation.max_new_tokens),
            num_beams=asked.get("num_beams", self.generation.num_beams),
        )

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[Seq2SeqOptions]
    ) -> list[WrittenText]:
        assert windows.tokenizer is not None
        [head] = self.heads
        written = [row[row >= 0].astype(int).tolist() for row in map(np.asarray, logits[head])]
        texts = windows.tokenizer.decode_batch(written, skip_special_tokens=True)
        return [WrittenText(text=text) for text in texts]

    def difference(self, expected: WrittenText, actual: WrittenText) -> float:
        """Return 0 for the same text, else how unlike the texts are."""
        return 0.0 if expected == actual else 1 - chrf(actual.text, [expected.text])

    def agree(self, first: WrittenText, second: WrittenText) -> bool:
        return first == second

    def estimate_tokens(self, item: SourceInput) -> int:
        return min(self.max_length, 1 + len(item.source) // CHARACTERS_PER_TOKEN) + self.generation.max_new_tokens

    def copies(self, options: Seq2SeqOptions) -> int:
        return self._bounded(options).num_beams

    def summary(self, output: WrittenText, options: Seq2SeqOptions) -> tuple[str | None, float | None]:
        """Return whether there is an answer. It has no confidence: what a model writes has no score that claims to be one."""
        return "text" if output.text.strip() else NOTHING, None

    def in_words(self, output: WrittenText) -> str:
        return output.text.strip() or NOTHING

    def truth_in_words(self, example: Seq2SeqExample, item: SourceInput) -> str:
        return " / ".join(example.target)

    @classmethod
    def from_wire(cls, value: object) -> SourceInput:
        return read_text_input(SourceInput, "source", value)

    @classmethod
    def input_schema(cls) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, super().input_schema()]}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        return {"type": "object", "properties": {key: {"type": "string"} for key in KEYS}, "required": list(KEYS)}

    @classmethod
    def to_wire(cls, output: WrittenText) -> dict[str, str]:
        return dict.fromkeys(KEYS, output.text)

    def input_of(self, example: Seq2SeqExample) -> SourceInput:
        return SourceInput.model_construct(source=example.source)

    def targets(self, examples: Sequence[Seq2SeqExample], windows: Windows) -> list[list[int]]:
        """Return the token ids of the first right answer, with the special ones that end it, at most as many as are written.

        A longer one has no end: what the model is to write within its bounds is the beginning.
        """
        assert windows.tokenizer is not None
        encodings = windows.tokenizer.encode_batch_fast([example.target[0] for example in examples])
        return [encoding.ids[: self.generation.max_new_tokens] for encoding in encodings]

    def score(self, outputs: Sequence[WrittenText], examples: Sequence[Seq2SeqExample]) -> Score:
        """Return the mean chrF in [0, 1], under the name that the gate knows: F1, and the share of exact matches.

        An exact match is one of the right answers, but for white space.
        """
        pairs = [(output.text, example.target) for output, example in zip(outputs, examples, strict=True)]
        statistics = np.array([[round(UNIT * chrf(text, targets))] for text, targets in pairs], dtype=np.int32)
        exact = [_spaced(text) in map(_spaced, targets) for text, targets in pairs]
        metrics = {
            "f1": self.measure({}, statistics).value(),
            "exact_match": float(np.mean(exact)),
            "examples": len(pairs),
        }
        return Score(metrics=metrics, statistics=statistics)

    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> RatioF1:
        """Return the mean of the rows' chrF. ``statistics`` [n, 1] has that of each row, in millionths."""
        values = statistics.reshape(-1).astype(np.float64) / UNIT
        return RatioF1(numerators=values, denominators=np.ones(len(values)))

    def samples(self) -> list[SourceInput]:
        sentence = "Your order left Lisbon on Monday and is now in Porto."
        return [SourceInput(source="Where is my order?"), SourceInput(source=" ".join([sentence] * 4))]


def _spaced(text: str) -> str:
    return " ".join(text.split())
