"""From scores of tokens to entities: by whole words, or by a strategy of the Hugging Face token-classification pipeline.

Works on one text at a time and knows neither windows nor tokenizers. Read `find_entities` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from baton.tasks.base import Explanation
from baton.tasks.ner_rows import Span
from baton.text.tags import OUTSIDE
from baton.text.words import word_starts

Strategy = Literal["words", "none", "simple", "first", "average", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """An entity that was found, or, with strategy ``none``, one token with its label."""

    label: str
    score: float
    start: int
    end: int
    word: str
    """``text[start:end]``."""
    index: int | None = None
    """With strategy ``none``: the token's position in the text's tokens, special ones included."""
    explanation: Explanation | None = None
    """Why it has its score, if the request wants to know."""


class Entities(BaseModel):
    """The entities of a text, in order.

    Also the best label of each word and its score: they allow to compare two answers even if neither has entities.
    """

    model_config = ConfigDict(frozen=True)

    entities: tuple[Entity, ...]
    word_labels: tuple[str, ...]
    word_scores: tuple[float, ...]


class NerOptions(BaseModel):
    """The ``parameters`` of the Hugging Face token-classification request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aggregation_strategy: Strategy = Field(
        "words",
        description="How to combine tokens into entities. words: label whole words, with valid sequences of tags only. The "
        "other strategies work as in the transformers pipeline; none returns each token.",
    )
    ignore_labels: tuple[str, ...] = Field((OUTSIDE,), description="Labels to leave out of the answer.")
    stride: int | None = Field(
        None,
        ge=0,
        description="Tokens that neighbouring windows of a long text share, at most half a window. Default: the model's.",
    )

    explain: bool = Field(
        False, description="Whether to say what each word adds to the score of each entity. It takes many forward passes."
    )

    @field_validator("aggregation_strategy", "ignore_labels", "explain", mode="before")
    @classmethod
    def _default(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[str(info.field_name)].default if value is None else value

    @model_validator(mode="after")
    def _explains_words(self) -> NerOptions:
        if self.explain and self.aggregation_strategy != "words":
            raise ValueError(f"explain is not for aggregation_strategy {self.aggregation_strategy!r}; allowed: words")
        return self

    @property
    def calibrated(self) -> bool:
        """Whether the scores are those that a temperature was fitted for; the others are the pipeline's."""
        return self.aggregation_strategy == "words"


class Labels:
    """A model's labels, taken apart into arrays. Label i is ``names[i]``: B-X, I-X or O."""

    def __init__(self, names: Sequence[str]) -> None:
        types = [name[2:] if name.startswith(("B-", "I-")) else name for name in names]
        self.names = tuple(names)
        self.types = tuple(sorted(set(types)))
        self.codes = np.array([self.types.index(name) for name in types])
        """``types[codes[i]]``: the X of label i, or O."""
        self.begins = np.array([name.startswith("B-") for name in names])
        """``begins[i]``: whether label i is a B-X."""
        continues = np.array([name.startswith("I-") for name in names])
        self.follows = np.append(~continues | (self.codes[:, None] == self.codes), [~continues], axis=0)
        """``follows[i, j]``: whether label j may follow label i: an I-X follows only B-X and I-X. ``follows[-1, j]``: whether
        label j may be the first of a text."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The n tokens of a text with their scores, without special tokens."""

    text: str
    offsets: NDArray[np.int64]
    """[n, 2]: the character at which each token begins, and the one after its last."""
    scores: NDArray[np.float32]
    """[n, labels]: probabilities."""
    word_firsts: NDArray[np.int64]
    """[words]: the first token of each word, as Baton splits words."""
    continue_words: Callable[[], NDArray[np.bool_]]
    """Returns for each token [n] whether it continues the word of the one before, as the pipeline splits words."""
    first_index: int
    """Position of the first token when special tokens are counted: the `Entity.index` of the first."""


def find_entities(tokens: Tokens, labels: Labels, options: NerOptions) -> Entities:
    """Return the entities of a text.

    ``words``, the default, is Baton's own strategy, and what its models are trained for: a word has the scores of its first
    token, and the most probable valid sequence of labels wins.

    The other strategies are those of transformers 5:

    - ``none`` returns each token.
    - ``simple`` joins neighbouring tokens of one type; a B- always begins a new entity.
    - ``first``, ``average`` and ``max`` join neighbouring words in the same way. The scores of a word are those of its first
      token, the mean over its tokens, or those of its token with the highest score.

    They differ from the pipeline's in three ways. ``word`` is a slice of the text; the pipeline joins the tokens. An entity has
    no white space at its edges, which tokenizers other than WordPiece count as part of words. If entities share characters, as
    tokens can, one of them is returned, chosen by the rule that the pipeline has for overlapping windows.

    The score of an entity is the mean of the scores of its tokens or words. ``ignore_labels`` is applied last: an ignored label
    still separates the entities around it.
    """
    strategy, ignored = options.aggregation_strategy, options.ignore_labels
    words = tokens.scores[tokens.word_firsts]
    if strategy == "words":
        chosen = likeliest_sequence(words, labels.follows)
        offsets = word_offsets(tokens.offsets, tokens.word_firsts)
        entities = _join_runs(tokens.text, offsets, words, chosen, labels=labels, ignored=ignored)
    elif strategy == "none":
        entities = _labelled_tokens(tokens, labels, ignored)
    elif strategy == "simple":
        best = tokens.scores.argmax(axis=1)
        entities = _join_runs(tokens.text, tokens.offsets, tokens.scores, best, labels=labels, ignored=ignored)
    else:
        firsts = np.flatnonzero(~tokens.continue_words() | (np.arange(len(tokens.scores)) == 0))
        scores = _word_scores(strategy, tokens.scores, firsts)
        offsets, best = word_offsets(tokens.offsets, firsts), scores.argmax(axis=1)
        entities = _join_runs(tokens.text, offsets, scores, best, labels=labels, ignored=ignored)
    return Entities.model_construct(
        entities=tuple(entities),
        word_labels=tuple(labels.names[label] for label in words.argmax(axis=1).tolist()),
        word_scores=tuple(words.max(axis=1).tolist()),
    )


def word_offsets(offsets: NDArray[np.int64], firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where words begin and end [words, 2]; ``firsts`` [words] are their first tokens, ``offsets`` [n, 2] all tokens'.

    >>> word_offsets(np.array([(0, 3), (3, 6), (6, 7), (7, 8)]), np.array([0, 2])).tolist()
    [[0, 6], [6, 8]]
    """
    lasts = np.append(firsts, len(offsets))[1:] - 1
    return np.stack([offsets[firsts, 0], offsets[lasts, 1]], axis=1)


def likeliest_sequence(scores: NDArray[np.float32], follows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the labels [n] with the largest product of ``scores`` [n, labels] that `Labels.follows` allows (Viterbi 1967).

    If B-LOC may not be followed by I-PER, the second word is not I-PER even though that label has the best score:

    >>> labels = Labels(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
    >>> scores = np.array([[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.3, 0.1, 0.4]], dtype=np.float32)
    >>> [labels.names[index] for index in likeliest_sequence(scores, labels.follows)]
    ['B-LOC', 'I-LOC']
    """
    best = scores.argmax(axis=1)
    if follows[np.append(-1, best[:-1]), best].all():
        return np.asarray(best)  # each word's best label gives a valid sequence
    logs = np.log(np.maximum(scores, np.finfo(np.float32).tiny), dtype=np.float64)
    forbidden = np.where(follows, 0.0, -np.inf)
    total, came_from = logs[0] + forbidden[-1], []
    for row in logs[1:]:
        candidates = total[:, None] + forbidden[:-1]
        came_from.append(candidates.argmax(axis=0))
        total = candidates.max(axis=0) + row
    path = [int(total.argmax())]
    for step in reversed(came_from):
        path.append(int(step[path[-1]]))
    return np.array(path[::-1])


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the scores [n, labels] of logits [n, labels] over ``temperature``, shifted so that they cannot overflow.

    In single precision, as in the pipeline, so that ties between saturated scores are broken in the same way.
    """
    shifted = np.exp((logits - logits.max(axis=1, keepdims=True)) / np.float32(temperature))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _word_scores(strategy: Strategy, scores: NDArray[np.float32], firsts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return scores [words, labels] of words with the first tokens ``firsts``, from the ``scores`` [n, labels] of tokens."""
    if strategy == "first" or not len(firsts):
        return scores[firsts]
    lengths = np.diff(firsts, append=len(scores))
    if strategy == "average":
        return np.asarray(np.add.reduceat(scores, firsts, axis=0) / lengths[:, None])
    tops = scores.max(axis=1)
    best = np.flatnonzero(tops == np.repeat(np.maximum.reduceat(tops, firsts), lengths))
    return scores[best[np.searchsorted(best, firsts)]]  # the first of equally good ones


def _labelled_tokens(tokens: Tokens, labels: Labels, ignored: Sequence[str]) -> list[Entity]:
    """Return each token whose best label is not ignored."""
    columns = (tokens.scores.argmax(axis=1), tokens.scores.max(axis=1), tokens.offsets)
    return [
        Entity(
            label=labels.names[label],
            score=score,
            start=start,
            end=end,
            word=tokens.text[start:end],
            index=tokens.first_index + position,
        )
        for position, (label, score, (start, end)) in enumerate(zip(*(column.tolist() for column in columns), strict=True))
        if labels.names[label] not in ignored
    ]


def inside_words(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return the spans that do not begin and end where words do: no answer by whole words can match them."""
    bounds = [(span.start, span.end) for span in spans]
    if all((not start or text[start - 1].isspace()) and text[end : end + 1].strip() == "" for start, end in bounds):
        return []
    starts = word_starts(text)
    ends = np.append(starts, True) | np.fromiter([*map(str.isspace, text), True], dtype=bool)
    return [span for span, (start, end) in zip(spans, bounds, strict=True) if not (starts[start] and ends[end])]


def _join_runs(
    text: str,
    offsets: NDArray[np.int64],
    scores: NDArray[np.float32],
    best: NDArray[np.int64],
    *,
    labels: Labels,
    ignored: Sequence[str],
) -> list[Entity]:
    """Join neighbours of one type into entities.

    Args:
        offsets: [n, 2], where the tokens or words begin and end in ``text``.
        scores: [n, labels].
        best: [n], the label of each.
    """
    tops = scores[np.arange(len(best)), best]
    codes = labels.codes[best]
    starts = np.flatnonzero(labels.begins[best] | (np.diff(codes, prepend=-1) != 0))
    ends = np.append(starts, len(best))[1:]
    sums = np.add.reduceat(tops, starts, dtype=np.float64) if len(starts) else tops
    columns = (codes[starts], sums / (ends - starts), offsets[starts, 0], offsets[ends - 1, 1])
    found = []
    for code, score, begin, end in zip(*(column.tolist() for column in columns), strict=True):
        label, word = labels.types[code], text[begin:end].strip()
        if word and label not in ignored:
            start = text.index(word, begin)
            found.append(Entity(label=label, score=score, start=start, end=start + len(word), word=word))
    return _without_overlaps(found)


def _without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Of two entities that share characters, keep the longer one, else the one with the higher score, else the first."""
    kept: list[Entity] = []
    for entity in entities:
        if kept and entity.start < kept[-1].end:
            if (entity.end - entity.start, entity.score) > (kept[-1].end - kept[-1].start, kept[-1].score):
                kept[-1] = entity
        else:
            kept.append(entity)
    return kept
