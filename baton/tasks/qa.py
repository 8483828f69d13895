"""Extractive question answering: the span of a context that answers a question, or no answer. The main metric is SQuAD's F1.

A long context is read in overlapping windows, and spans of all windows compete to be the answer. `qa_rows` has the data rows,
`qa_tokens` the tokens over all windows, `baton.text.answers` the search for spans and the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Encoding, Tokenizer

from baton.errors import DataError, InvalidInput
from baton.tasks.base import CHARACTERS_PER_TOKEN, PAIR_SEPARATOR, LongText, Mark, Score, Target, Task
from baton.tasks.f1 import RatioF1
from baton.tasks.qa_rows import QaExample, QaInput
from baton.tasks.qa_tokens import ContextTokens
from baton.tasks.windows import Windows, first_tokens, split_into_windows, without_truncation
from baton.text.answers import best_spans, best_threshold, exact_match, f1
from baton.validation import first_problem, short_repr

NO_ANSWER = [0, 0]
"""Target of a window that does not contain the answer: the position of [CLS] (Devlin et al. 2019, «BERT», section 4.3)."""

NO_TEXT = "no answer"
"""An empty answer in words."""

SPECIAL_TOKENS = 3
"""How many special tokens a window has: [CLS], and [SEP] after question and context. For estimates without a tokenizer."""


class Answer(BaseModel):
    """The text ``context[start:end]`` and its probability. An empty text at 0 means that the context has no answer."""

    model_config = ConfigDict(frozen=True)

    answer: str
    score: float
    start: int
    end: int


class Answers(BaseModel):
    """The answers to one question, best first; at least one."""

    model_config = ConfigDict(frozen=True)

    answers: tuple[Answer, ...]
    many: bool = False
    """Whether the request wants a list: ``top_k`` is above 1."""
    best: Answer | None = None
    """The best answer that is not empty, whether it is in ``answers`` or not. None if the context has no tokens."""
    margin: float | None = None
    """How much the logits prefer the empty answer to `best`. None if `best` is None."""

    @property
    def top(self) -> Answer:
        """Return the best answer."""
        return self.answers[0]


class QaOptions(BaseModel):
    """The ``parameters`` of the Hugging Face question-answering request. null means the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int = Field(1, ge=1, le=1000, description="Maximum number of answers. Above 1, the answer is a list.")
    doc_stride: int | None = Field(
        None,
        ge=0,
        description="Tokens that neighbouring windows share, at most half of a window's context. Default: the model's own.",
    )
    max_answer_len: int = Field(15, ge=1, description="Maximum tokens of an answer.")
    max_seq_len: int | None = Field(None, ge=8, description="Maximum tokens of a window. Default and limit: the model's.")
    max_question_len: int = Field(
        64, ge=1, description="Tokens of the question to read, from its beginning; at most half of a window."
    )
    handle_impossible_answer: bool | None = Field(
        None, description="Whether the answer may be empty. Default: true if the model was trained on questions without answer."
    )
    align_to_words: bool = Field(True, description="Extend answers to whole words, in scripts with spaces between words.")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class QuestionAnswering(Task[QaInput, Answers, QaExample, QaOptions]):
    """Answers a question with a span of its context."""

    name: ClassVar[str] = "qa"
    auto_model: ClassVar[str] = "AutoModelForQuestionAnswering"
    heads: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    target: ClassVar[Target] = "span"
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "context", "answers"),)
    optional_fields: ClassVar[tuple[str, ...]] = ("id", "is_impossible")
    default_max_length: ClassVar[int] = 384
    long_texts: ClassVar[tuple[LongText, ...]] = ("windows",)
    Input = QaInput
    Output = Answers
    Example = QaExample
    Options = QaOptions

    def __init__(
        self,
        labels: Sequence[str],
        max_length: int,
        *,
        stride: int | None = None,
        long_text: LongText | None = None,
        calibration: Mapping[str, float] | None = None,
    ) -> None:
        """See `Task`. The default stride is a third of ``max_length``: 128 of 384 tokens, as in BERT's own run on SQuAD."""
        stride = max_length // 3 if stride is None else stride
        super().__init__(labels, max_length, stride=stride, long_text=long_text, calibration=calibration)

    @classmethod
    def labels_of(cls, examples: Iterable[QaExample]) -> tuple[str, ...]:
        if not any(example.answers.text for example in examples):
            raise DataError("qa needs at least one answer in the training data; it has none")
        return ()

    @classmethod
    def strata(cls, examples: Sequence[QaExample]) -> list[str]:
        return [""] * len(examples)

    @classmethod
    def content(cls, example: QaExample) -> str:
        return f"{example.question}{PAIR_SEPARATOR}{example.context}"

    @classmethod
    def group(cls, example: QaExample) -> str:
        return example.context

    def check(self, examples: Sequence[QaExample]) -> None:
        """Accept any examples: there are no labels, and rows without an answer can be scored, too."""

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[QaInput], options: Sequence[QaOptions]) -> Windows:
        questions = tokenizer.encode_batch([item.question for item in inputs], add_special_tokens=False)
        contexts = tokenizer.encode_batch([item.context for item in inputs], add_special_tokens=False)
        windows = [
            self._windows(tokenizer, question, context, choice)
            for question, context, choice in zip(questions, contexts, options, strict=True)
        ]
        flat = [window for windows_of_input in windows for window in windows_of_input]
        return Windows(
            inputs=inputs,
            ids=[window.ids for window in flat],
            type_ids=[window.type_ids for window in flat],
            owner=[owner for owner, windows_of_input in enumerate(windows) for _ in windows_of_input],
            encodings=flat,
        )

    def _windows(self, tokenizer: Tokenizer, question: Encoding, context: Encoding, options: QaOptions) -> list[Encoding]:
        """Return the windows of the context. Each begins with the question, cut to at most half of the room.

        With room for 8 tokens, a question of 3 tokens and a context of 8 become, with stride 1, the windows [0 1 2 3 4] and
        [4 5 6 7] of the context, each after the question.
        """
        room = min(options.max_seq_len or self.max_length, self.max_length) - tokenizer.num_special_tokens_to_add(True)
        start = first_tokens(question, min(options.max_question_len, room // 2))
        stride = self.stride if options.doc_stride is None else options.doc_stride
        return [tokenizer.post_process(start, window) for window in split_into_windows(context, room - len(start), stride)]

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[QaOptions]
    ) -> list[Answers]:
        start_logits, end_logits = (logits[head] for head in self.heads)
        return [
            self._answer(item.context, windows.encodings[indices], start_logits[indices], end_logits[indices], choice)
            for item, indices, choice in zip(windows.inputs, map(_slice, windows.ranges_by_input()), options, strict=True)
        ]

    def _answer(
        self,
        context: str,
        encodings: Sequence[Encoding],
        start_logits: Sequence[NDArray[np.float32]],
        end_logits: Sequence[NDArray[np.float32]],
        options: QaOptions,
    ) -> Answers:
        """Return the answers to one input from all its windows.

        The score of a span is p_start · p_end, each a softmax over the context's positions in all windows, at the version's
        temperature. If the answer may be empty, one more position takes part: the [CLS] of the window with the smallest
        start + end there, since a context lacks the answer only if each window lacks it (Devlin et al. 2019, section 4.3). Half
        of the threshold is subtracted from each of its two logits, so that the empty answer has the best score exactly if the
        margin exceeds the threshold.
        """
        tokens = ContextTokens.of(context, encodings, align=options.align_to_words)
        both = [tokens.pick(start_logits), tokens.pick(end_logits)]
        spans, sums = best_spans(
            tokens.begins, tokens.finishes, tokens.limits, *both, longest=options.max_answer_len, count=options.top_k
        )
        null = min(((float(start[0]), float(end[0])) for start, end in zip(start_logits, end_logits, strict=True)), key=sum)
        threshold = self.calibration.get("null_threshold")
        may_abstain = threshold is not None if options.handle_impossible_answer is None else options.handle_impossible_answer
        empty = sum(null) - (threshold or 0.0)
        if may_abstain:
            both = [np.append(values, logit - (threshold or 0.0) / 2) for values, logit in zip(both, null, strict=True)]
        total = sum(_log_sum_exp(values / self.temperature) for values in both)

        def probability(logit: float) -> float:
            return math.exp(min(0.0, logit / self.temperature - total))  # rounding must not make it exceed 1

        answers = [
            Answer.model_construct(answer=context[start:end], score=probability(value), start=start, end=end)
            for (start, end), value in zip(spans.tolist(), sums.tolist(), strict=True)
        ]
        best = answers[0] if answers else None
        if may_abstain or best is None:
            nothing = Answer.model_construct(answer="", score=probability(empty) if may_abstain else 0.0, start=0, end=0)
            answers.insert(int(np.count_nonzero(sums >= empty)), nothing)
        return Answers.model_construct(
            answers=tuple(answers[: options.top_k]),
            many=options.top_k > 1,
            best=best,
            margin=None if best is None else sum(null) - float(sums[0]),
        )

    def difference(self, expected: Answers, actual: Answers) -> float:
        """Return the smallest difference of scores that explains these two answers, rank by rank.

        If both have the same span at a rank, it is the difference of the span's scores p and q. If they have different spans,
        rounding may have flipped a tie: the span that lost may have any score up to the winner's, but no more than the winner
        leaves, since the scores of an input sum to at most 1. So the first span lost at least p - min(q, 1 - q), and the other
        gained at least q - min(p, 1 - p): the maximum of |p - q| and p + q - 1.
        """
        if expected.many != actual.many or len(expected.answers) != len(actual.answers):
            return np.inf
        return max(_least_change(before, after) for before, after in zip(expected.answers, actual.answers, strict=True))

    def agree(self, first: Answers, second: Answers) -> bool:
        return (first.top.start, first.top.end) == (second.top.start, second.top.end)

    def estimate_tokens(self, item: QaInput) -> int:
        room = self.max_length - SPECIAL_TOKENS
        question = min(self.Options().max_question_len, len(item.question) // CHARACTERS_PER_TOKEN, room // 2)
        context = len(item.context) // CHARACTERS_PER_TOKEN
        limit = room - question
        stride = min(self.stride, limit // 2)
        more = max(0, -((limit - context) // (limit - stride)))
        return context + more * stride + (1 + more) * (question + SPECIAL_TOKENS)

    def summary(self, output: Answers, options: QaOptions) -> tuple[str | None, float | None]:
        """Return whether there is an answer, and the score of the best one."""
        return "answer" if output.top.answer else "no answer", output.top.score

    def confidences(self, output: Answers, options: QaOptions) -> Sequence[float]:
        return (output.top.score,)

    def correct(self, output: Answers, example: QaExample) -> Sequence[bool]:
        """Return whether the best answer is one of the right ones, by SQuAD's exact match."""
        return (exact_match(output.top.answer, example.answers.text),)

    def brief(self, output: Answers, item: QaInput) -> Answers:
        best = output.top
        masked = best.model_copy(update={"answer": item.context[best.start : best.end]})
        return Answers(answers=(masked,), many=output.many)

    def in_words(self, output: Answers) -> str:
        return f"{output.top.answer or NO_TEXT} ({output.top.score:.2f})"

    def truth_in_words(self, example: QaExample, item: QaInput) -> str:
        starts = zip(example.answers.text, example.answers.answer_start, strict=True)
        return " / ".join(dict.fromkeys(item.context[start : start + len(text)] for text, start in starts)) or NO_TEXT

    def marks_of(self, output: Answers, item: QaInput) -> tuple[Mark, ...]:
        context = len(item.question) + len(PAIR_SEPARATOR)  # where it begins in `content`
        best = output.top
        return (Mark(context + best.start, context + best.end),) if best.end > best.start else ()

    def truth_marks(self, example: QaExample) -> tuple[Mark, ...]:
        context = len(example.question) + len(PAIR_SEPARATOR)
        starts = zip(example.answers.text, example.answers.answer_start, strict=True)
        return tuple(dict.fromkeys(Mark(context + start, context + start + len(text)) for text, start in starts))

    @classmethod
    def from_wire(cls, value: object) -> QaInput:
        if not isinstance(value, dict):
            raise InvalidInput(
                f'inputs: expected an object {{"question", "context"}}, not {type(value).__name__} ({short_repr(value)})'
            )
        try:
            return QaInput.model_validate(value)
        except ValidationError as error:
            raise InvalidInput(f"inputs.{first_problem(error)}; allowed: question, context") from None

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        answer = Answer.model_json_schema()
        return {"anyOf": [answer, {"type": "array", "items": answer}]}

    @classmethod
    def to_wire(cls, output: Answers) -> dict[str, Any] | list[dict[str, Any]]:
        answers = [answer.model_dump() for answer in output.answers]
        return answers if output.many else answers[0]

    def input_of(self, example: QaExample) -> QaInput:
        return QaInput.model_construct(question=example.question, context=example.context)

    def targets(self, examples: Sequence[QaExample], windows: Windows) -> list[list[int]]:
        """Return for each window the positions of the first and last token of the first right answer, or `NO_ANSWER`.

        A window that has only a part of the answer gets `NO_ANSWER`.
        """
        return [
            target
            for example, indices in zip(examples, map(_slice, windows.ranges_by_input()), strict=True)
            for target in _targets(example, windows.encodings[indices])
        ]

    def calibrate(self, outputs: Sequence[Answers], examples: Sequence[QaExample]) -> dict[str, float]:
        """Return the margin above which the answer is empty: the one with the highest mean F1 over these rows.

        Empty if every row has an answer. Rows whose context has no tokens do not count: they always get the empty answer.
        """
        if all(example.answers.text for example in examples):
            return {}
        rows = [
            (output.margin, f1(output.best.answer, example.answers.text), f1("", example.answers.text))
            for output, example in zip(outputs, examples, strict=True)
            if output.best is not None and output.margin is not None
        ]
        if not rows:
            return {"null_threshold": 0.0}
        margins, answered, abstained = zip(*rows, strict=True)
        return {"null_threshold": best_threshold(margins, _ratios(answered), _ratios(abstained))}

    def score(self, outputs: Sequence[Answers], examples: Sequence[QaExample]) -> Score:
        """Return SQuAD's exact match and F1 in [0, 1]; also F1 of rows with and without an answer, if there are both."""
        given = [(output.top.answer, example.answers.text) for output, example in zip(outputs, examples, strict=True)]
        statistics = np.array([f1(answer, references) for answer, references in given], dtype=np.int32)
        ratios = _ratios(statistics)
        answerable = np.array([bool(references) for _, references in given])
        metrics: dict[str, Any] = {
            "f1": self.measure({}, statistics).value(),
            "exact_match": float(np.mean([exact_match(answer, references) for answer, references in given])),
        }
        if answerable.any() and not answerable.all():
            metrics["has_answer_f1"] = float(ratios[answerable].mean())
            metrics["no_answer_f1"] = float(ratios[~answerable].mean())
        return Score(metrics={**metrics, "examples": len(given)}, statistics=statistics)

    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> RatioF1:
        """Return the mean of the examples' F1. ``statistics`` [n, 2] has numerator and denominator of each."""
        return RatioF1(numerators=_ratios(statistics), denominators=np.ones(len(statistics)))

    def samples(self) -> list[QaInput]:
        days = range(1, self.max_length // 8 + 2)  # more than eight tokens a day
        return [
            QaInput(question="Where is my order?", context="Your order left Lisbon on Monday and is now in Porto."),
            QaInput(
                question="Which parcel was carried on the third day?",
                context=" ".join(f"On day {day} the courier carried parcel {7 * day} to house {day + 30}." for day in days),
            ),
        ]


def _targets(example: QaExample, encodings: Sequence[Encoding]) -> list[list[int]]:
    """Return the targets of the windows of one example.

    A window has the whole answer if its tokens cover as much of the answer, to both sides, as those of any window.
    """
    if not example.answers.text:
        return [NO_ANSWER] * len(encodings)
    start = example.answers.answer_start[0]
    tokens = ContextTokens.of(example.context, encodings)
    touching = (tokens.begins < start + len(example.answers.text[0])) & (tokens.finishes > start)
    begin, finish = tokens.begins[touching].min(initial=len(example.context)), tokens.finishes[touching].max(initial=0)
    targets = []
    for positions, (first, after) in zip(tokens.positions, itertools.pairwise(tokens.edges), strict=True):
        inside = np.flatnonzero(touching[first:after])
        if len(inside) and tokens.begins[first + inside[0]] == begin and tokens.finishes[first + inside[-1]] == finish:
            targets.append([positions.start + int(inside[0]), positions.start + int(inside[-1])])
        else:
            targets.append(NO_ANSWER)
    return targets


def _least_change(before: Answer, after: Answer) -> float:
    p, q = before.score, after.score
    if (before.start, before.end) == (after.start, after.end):
        return abs(p - q)
    return max(abs(p - q), p + q - 1)


def _ratios(fractions: ArrayLike) -> NDArray[np.float64]:
    """Return the values [n] of fractions [n, 2]."""
    pairs = np.asarray(fractions)
    return np.asarray(pairs[:, 0] / pairs[:, 1])


def _slice(numbers: range) -> slice:
    return slice(numbers.start, numbers.stop)


def _log_sum_exp(values: NDArray[np.float64]) -> float:
    """Return log Σ exp(values), shifted by the maximum so that it cannot overflow; -inf if there are no values."""
    peak = values.max(initial=-np.inf)
    return float(peak + np.log(np.exp(values - peak).sum())) if len(values) else -np.inf
