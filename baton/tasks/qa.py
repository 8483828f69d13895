"""Extractive question answering: the span of a context that answers a question, or that there is none. Judged by SQuAD's F1.

A long context is read in overlapping windows, and spans of all of them compete for the answer.
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
from baton.tasks.base import (
    CHARACTERS_PER_TOKEN,
    PAIRED,
    LongText,
    Score,
    Target,
    Task,
    Windows,
    first_problem,
    first_tokens,
    short_repr,
    split_into_windows,
    without_truncation,
)
from baton.tasks.qa_rows import QaExample, QaInput
from baton.tasks.qa_tokens import ContextTokens
from baton.text.answers import best_spans, best_threshold, exact_match, f1

NO_ANSWER = [0, 0]
"""Target of a window without the answer: the position of [CLS] (Devlin et al. 2019, «BERT», section 4.3)."""

SPECIAL_TOKENS = 3
"""[CLS], and [SEP] after question and context: for estimates made without a tokenizer."""


class Answer(BaseModel):
    """``context[start:end]`` and its probability; the empty text at 0 says that the context has no answer."""

    model_config = ConfigDict(frozen=True)

    answer: str
    score: float
    start: int
    end: int


class Answers(BaseModel):
    """The answers to one question, best first, one of them at least."""

    model_config = ConfigDict(frozen=True)

    answers: tuple[Answer, ...]
    many: bool = False
    """Whether they were asked for as a list."""
    best: Answer | None = None
    """The best answer that is not empty, given or not; None when the context has no tokens."""
    margin: float | None = None
    """By how much the logits prefer no answer to `best`; None when there is none."""

    @property
    def top(self) -> Answer:
        return self.answers[0]


class QaOptions(BaseModel):
    """The ``parameters`` of the Hugging Face question-answering request; null stands for the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int = Field(1, ge=1, le=1000, description="How many answers; more than one come as a list.")
    doc_stride: int | None = Field(
        None, ge=0, description="Tokens that neighbouring windows share, at most half of a window's context; the model's own."
    )
    max_answer_len: int = Field(15, ge=1, description="Longest answer in tokens.")
    max_seq_len: int | None = Field(None, ge=8, description="Longest window in tokens; by default, and at most, the model's.")
    max_question_len: int = Field(
        64, ge=1, description="Tokens of the question that are read; they take at most half of a window."
    )
    handle_impossible_answer: bool | None = Field(
        None, description="Whether the answer may be empty; by default where the model has learned when to leave it so."
    )
    align_to_words: bool = Field(True, description="Extend answers to whole words, in scripts that put spaces between them.")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class QuestionAnswering(Task[QaInput, Answers, QaExample, QaOptions]):
    """The answer to a question, as a span of its context."""

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
        """As every task, with a default stride of a third: 128 of 384 tokens, as in BERT's own run on SQuAD."""
        stride = max_length // 3 if stride is None else stride
        super().__init__(labels, max_length, stride=stride, long_text=long_text, calibration=calibration)

    @classmethod
    def labels_of(cls, examples: Iterable[QaExample]) -> tuple[str, ...]:
        if not any(example.answers.text for example in examples):
            raise DataError("qa needs answers to learn from; none of the training rows has one")
        return ()

    @classmethod
    def strata(cls, examples: Sequence[QaExample]) -> list[str]:
        return [""] * len(examples)

    @classmethod
    def content(cls, example: QaExample) -> str:
        return f"{example.question}{PAIRED}{example.context}"

    @classmethod
    def group(cls, example: QaExample) -> str:
        return example.context

    def check(self, examples: Sequence[QaExample]) -> None:
        """Nothing to check: there are no labels, and a row without an answer can be scored as well."""

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[QaInput], options: Sequence[QaOptions]) -> Windows:
        questions = tokenizer.encode_batch([item.question for item in inputs], add_special_tokens=False)
        contexts = tokenizer.encode_batch([item.context for item in inputs], add_special_tokens=False)
        cuts = [
            self._cut(tokenizer, question, context, choice)
            for question, context, choice in zip(questions, contexts, options, strict=True)
        ]
        flat = [window for mine in cuts for window in mine]
        return Windows(
            inputs=inputs,
            ids=[window.ids for window in flat],
            type_ids=[window.type_ids for window in flat],
            owner=[owner for owner, mine in enumerate(cuts) for _ in mine],
            encodings=flat,
        )

    def _cut(self, tokenizer: Tokenizer, question: Encoding, context: Encoding, options: QaOptions) -> list[Encoding]:
        """Windows over the context, each after the question, which takes at most half of the room."""
        room = min(options.max_seq_len or self.max_length, self.max_length) - tokenizer.num_special_tokens_to_add(True)
        asked = first_tokens(question, min(options.max_question_len, room // 2))
        stride = self.stride if options.doc_stride is None else options.doc_stride
        return [tokenizer.post_process(asked, piece) for piece in split_into_windows(context, room - len(asked), stride)]

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[QaOptions]
    ) -> list[Answers]:
        start_logits, end_logits = (logits[head] for head in self.heads)
        return [
            self._answer(item.context, windows.encodings[mine], start_logits[mine], end_logits[mine], choice)
            for item, mine, choice in zip(windows.inputs, map(_slice, windows.of_input()), options, strict=True)
        ]

    def _answer(
        self,
        context: str,
        encodings: Sequence[Encoding],
        start_logits: Sequence[NDArray[np.float32]],
        end_logits: Sequence[NDArray[np.float32]],
        options: QaOptions,
    ) -> Answers:
        """The answers of one input with all its windows.

        A span's score is p_start · p_end, each a softmax over the context's positions in all windows. Where the answer may
        be empty, one more position takes part: the [CLS] of the window with the smallest start + end there, since a context
        lacks the answer only if each window does (Devlin et al. 2019, section 4.3). Half of the threshold is taken off each
        of its two logits, so that the empty answer has the best score exactly when the margin exceeds the threshold.
        """
        tokens = ContextTokens.of(context, encodings, align=options.align_to_words)
        sides = [tokens.pick(start_logits), tokens.pick(end_logits)]
        spans, sums = best_spans(
            tokens.begins, tokens.finishes, tokens.limits, *sides, longest=options.max_answer_len, count=options.top_k
        )
        null = min(((float(start[0]), float(end[0])) for start, end in zip(start_logits, end_logits, strict=True)), key=sum)
        threshold = self.calibration.get("null_threshold")
        may_abstain = threshold is not None if options.handle_impossible_answer is None else options.handle_impossible_answer
        empty = sum(null) - (threshold or 0.0)
        if may_abstain:
            sides = [np.append(side, logit - (threshold or 0.0) / 2) for side, logit in zip(sides, null, strict=True)]
        total = sum(_log_sum_exp(side) for side in sides)
        answers = [
            Answer.model_construct(answer=context[start:end], score=_probability(value - total), start=start, end=end)
            for (start, end), value in zip(spans.tolist(), sums.tolist(), strict=True)
        ]
        best = answers[0] if answers else None
        if may_abstain or best is None:
            nothing = Answer.model_construct(
                answer="", score=_probability(empty - total) if may_abstain else 0.0, start=0, end=0
            )
            answers.insert(int(np.count_nonzero(sums >= empty)), nothing)
        return Answers.model_construct(
            answers=tuple(answers[: options.top_k]),
            many=options.top_k > 1,
            best=best,
            margin=None if best is None else sum(null) - float(sums[0]),
        )

    def difference(self, expected: Answers, actual: Answers) -> float:
        """The least by which scores must differ between two versions that gave these answers, rank by rank.

        Where both name the same span, that is the difference of its scores p and q. Where they name two, rounding may have
        flipped a tie: what came second had any score up to the winner's, but no more than the winner left to it, since the
        scores of an input sum to 1 at most. So the first span lost at least p - min(q, 1 - q), the other won as much as
        q - min(p, 1 - p): two sure answers differ by p + q - 1, two doubtful ones by |p - q|.
        """
        if expected.many != actual.many or len(expected.answers) != len(actual.answers):
            return np.inf
        return max(_least_change(before, after) for before, after in zip(expected.answers, actual.answers, strict=True))

    def tokens(self, item: QaInput) -> int:
        room = self.max_length - SPECIAL_TOKENS
        question = min(self.Options().max_question_len, len(item.question) // CHARACTERS_PER_TOKEN, room // 2)
        context = len(item.context) // CHARACTERS_PER_TOKEN
        limit = room - question
        stride = min(self.stride, limit // 2)
        more = max(0, -((limit - context) // (limit - stride)))
        return context + more * stride + (1 + more) * (question + SPECIAL_TOKENS)

    def summary(self, output: Answers, options: QaOptions) -> tuple[str | None, float | None]:
        """Whether there was an answer, and the best one's score."""
        return "answer" if output.top.answer else "no answer", output.top.score

    def brief(self, output: Answers, item: QaInput) -> Answers:
        best = output.top
        masked = best.model_copy(update={"answer": item.context[best.start : best.end]})
        return Answers(answers=(masked,), many=output.many)

    @classmethod
    def from_wire(cls, value: object) -> QaInput:
        if not isinstance(value, dict):
            raise InvalidInput(
                f'inputs: {{"question", "context"}} is expected, not {type(value).__name__} ({short_repr(value)})'
            )
        try:
            return QaInput.model_validate(value)
        except ValidationError as error:
            raise InvalidInput(f"inputs.{first_problem(error)}; allowed: question, context") from None

    @classmethod
    def to_wire(cls, output: Answers) -> dict[str, Any] | list[dict[str, Any]]:
        answers = [answer.model_dump() for answer in output.answers]
        return answers if output.many else answers[0]

    def input_of(self, example: QaExample) -> QaInput:
        return QaInput.model_construct(question=example.question, context=example.context)

    def targets(self, examples: Sequence[QaExample], windows: Windows) -> list[list[int]]:
        """Positions of the first reference's first and last token in each window that holds it whole; else `NO_ANSWER`."""
        return [
            target
            for example, mine in zip(examples, map(_slice, windows.of_input()), strict=True)
            for target in _targets(example, windows.encodings[mine])
        ]

    def calibrate(self, outputs: Sequence[Answers], examples: Sequence[QaExample]) -> dict[str, float]:
        """The margin beyond which no answer is given: the one with the highest mean F1 over these rows.

        Nothing where every row has an answer. Rows whose context has no tokens are never answered and have no say.
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
        """SQuAD's exact match and F1, as shares of 1; where some rows have an answer and some have none, F1 of each kind."""
        given = [(output.top.answer, example.answers.text) for output, example in zip(outputs, examples, strict=True)]
        statistics = np.array([f1(answer, references) for answer, references in given], dtype=np.int32)
        ratios = _ratios(statistics)
        answerable = np.array([bool(references) for _, references in given])
        metrics: dict[str, Any] = {
            "f1": float(self.resample(statistics, np.ones((1, len(given)), dtype=np.float32))[0]),
            "exact_match": float(np.mean([exact_match(answer, references) for answer, references in given])),
        }
        if answerable.any() and not answerable.all():
            metrics["has_answer_f1"] = float(ratios[answerable].mean())
            metrics["no_answer_f1"] = float(ratios[~answerable].mean())
        return Score(metrics={**metrics, "examples": len(given)}, statistics=statistics)

    def resample(self, statistics: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """The weighted mean of the rows' F1, numerator / denominator."""
        exact = weights.astype(np.float64)
        return np.asarray(exact @ _ratios(statistics) / exact.sum(axis=1))

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
    """A window holds the answer whole when its tokens of it reach as far to both sides as those of any window."""
    if not example.answers.text:
        return [NO_ANSWER] * len(encodings)
    start = example.answers.answer_start[0]
    tokens = ContextTokens.of(example.context, encodings)
    touching = (tokens.begins < start + len(example.answers.text[0])) & (tokens.finishes > start)
    begin, finish = tokens.begins[touching].min(initial=len(example.context)), tokens.finishes[touching].max(initial=0)
    targets = []
    for place, (first, last) in zip(tokens.places, itertools.pairwise(tokens.edges), strict=True):
        inside = np.flatnonzero(touching[first:last])
        if len(inside) and tokens.begins[first + inside[0]] == begin and tokens.finishes[first + inside[-1]] == finish:
            targets.append([place.start + int(inside[0]), place.start + int(inside[-1])])
        else:
            targets.append(NO_ANSWER)
    return targets


def _least_change(before: Answer, after: Answer) -> float:
    p, q = before.score, after.score
    if (before.start, before.end) == (after.start, after.end):
        return abs(p - q)
    return max(abs(p - q), p + q - 1)


def _ratios(fractions: ArrayLike) -> NDArray[np.float64]:
    """Fractions [n, 2] as numbers [n]."""
    pairs = np.asarray(fractions)
    return np.asarray(pairs[:, 0] / pairs[:, 1])


def _slice(numbers: range) -> slice:
    return slice(numbers.start, numbers.stop)


def _log_sum_exp(values: NDArray[np.float64]) -> float:
    """log Σ exp(values), shifted by the maximum so that it cannot overflow; -inf of nothing."""
    peak = values.max(initial=-np.inf)
    return float(peak + np.log(np.exp(values - peak).sum())) if len(values) else -np.inf


def _probability(log: float) -> float:
    return math.exp(min(0.0, log))  # rounding must not carry it over 1
