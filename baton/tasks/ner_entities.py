"""Scores of tokens → entities: by whole words, or with a strategy of the Hugging Face token-classification pipeline.

Works on one text at a time and knows neither windows nor tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from baton.text.tags import OUTSIDE

Strategy = Literal["words", "none", "simple", "first", "average", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """An entity that was found, or, with strategy ``none``, a token with its label and its ``index`` among the tokens."""

    label: str
    score: float
    start: int
    end: int
    word: str
    index: int | None = None


class Entities(BaseModel):
    """What was found in a text, in order; and of each of its words the best label and its score, by which two answers can
    be compared even where nothing was found.
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
        description="How tokens become entities. words: whole words, in sequences of tags that make sense; the others "
        "as in the transformers pipeline (none: each token is answered).",
    )
    ignore_labels: tuple[str, ...] = Field((OUTSIDE,), description="Labels that are not answered.")
    stride: int | None = Field(
        None, ge=0, description="Tokens that neighbouring windows of a long text share; half a window at most."
    )

    @field_validator("aggregation_strategy", "ignore_labels", mode="before")
    @classmethod
    def _default(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[str(info.field_name)].default if value is None else value


class Labels:
    """A model's labels: ``names[i]`` is B-X, I-X or O, ``types[codes[i]]`` its X or O, ``begins[i]`` whether it is a B-X.

    ``follows[i, j]``: whether label j may come after label i, and ``follows[-1, j]`` whether it may come first: an I-X goes on
    with an X.
    """

    def __init__(self, names: Sequence[str]) -> None:
        bare = [name[2:] if name.startswith(("B-", "I-")) else name for name in names]
        self.names = tuple(names)
        self.types = tuple(sorted(set(bare)))
        self.codes = np.array([self.types.index(name) for name in bare])
        self.begins = np.array([name.startswith("B-") for name in names])
        goes_on = np.array([name.startswith("I-") for name in names])
        self.follows = np.append(~goes_on | (self.codes[:, None] == self.codes), [~goes_on], axis=0)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a text, special ones left out. ``offsets`` [n, 2]: where each begins and ends; ``scores`` [n, labels]:
    probabilities; ``starts`` [words]: the first token of each word; ``later()`` [n]: whether a token goes on with the word of
    the one before, as the pipeline sees words; ``index``: the first token's.
    """

    text: str
    offsets: NDArray[np.int64]
    scores: NDArray[np.float32]
    starts: NDArray[np.int64]
    later: Callable[[], NDArray[np.bool_]]
    index: int


def find_entities(tokens: Tokens, labels: Labels, options: NerOptions) -> Entities:
    """The entities of a text.

    ``words``, the default, is Baton's own and what its models are trained for: a word has the scores of its first token, and
    the most probable sequence of labels that may follow each other wins.

    The other strategies are those of transformers 5: ``none`` answers tokens; ``simple`` joins neighbouring tokens of one type,
    a B- always beginning anew; ``first``, ``average`` and ``max`` do so with words, a word having the scores of its first
    token, the mean of its tokens' scores, or those of its surest token. They differ from the pipeline's in three ways. ``word``
    is the slice of the text (there: the tokens, put together). White space at the edges of an entity, which tokenizers other
    than WordPiece keep with words, is not part of it. And of entities that share characters, as tokens can, one is answered,
    by the rule that the pipeline has for windows.

    An entity's score is the mean of its parts' scores. Labels are ignored last: an ignored one still separates what stands
    around it.
    """
    strategy, ignored = options.aggregation_strategy, options.ignore_labels
    words = tokens.scores[tokens.starts]
    if strategy == "words":
        chosen = likeliest_sequence(words, labels.follows)
        entities = _grouped(tokens.text, spanned(tokens.offsets, tokens.starts), words, chosen, labels=labels, ignored=ignored)
    elif strategy == "none":
        entities = _each(tokens, labels, ignored)
    elif strategy == "simple":
        best = tokens.scores.argmax(axis=1)
        entities = _grouped(tokens.text, tokens.offsets, tokens.scores, best, labels=labels, ignored=ignored)
    else:
        starts = np.flatnonzero(~tokens.later() | (np.arange(len(tokens.scores)) == 0))
        scores = _of_words(strategy, tokens.scores, starts)
        best = scores.argmax(axis=1)
        entities = _grouped(tokens.text, spanned(tokens.offsets, starts), scores, best, labels=labels, ignored=ignored)
    return Entities.model_construct(
        entities=tuple(entities),
        word_labels=tuple(labels.names[label] for label in words.argmax(axis=1).tolist()),
        word_scores=tuple(words.max(axis=1).tolist()),
    )


def spanned(offsets: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where words begin and end [words, 2], whose first tokens are ``starts``, among tokens that do at ``offsets``."""
    last = np.append(starts, len(offsets))[1:] - 1
    return np.stack([offsets[starts, 0], offsets[last, 1]], axis=1)


def likeliest_sequence(scores: NDArray[np.float32], follows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The labels [n] with the largest product of ``scores`` [n, labels] among those that ``follows`` allows (Viterbi 1967)."""
    best = scores.argmax(axis=1)
    if follows[np.append(-1, best[:-1]), best].all():
        return np.asarray(best)  # the best labels make sense as they are
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


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [n, labels] of logits [n, labels]; shifted by the row's maximum so that it cannot overflow.

    In single precision, as the pipeline has it: ties between saturated scores then fall the same way.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _of_words(strategy: Strategy, scores: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores [words, labels] of words whose first tokens are ``starts``."""
    if strategy == "first" or not len(starts):
        return scores[starts]
    lengths = np.diff(starts, append=len(scores))
    if strategy == "average":
        return np.asarray(np.add.reduceat(scores, starts, axis=0) / lengths[:, None])
    tops = scores.max(axis=1)
    surest = np.flatnonzero(tops == np.repeat(np.maximum.reduceat(tops, starts), lengths))
    return scores[surest[np.searchsorted(surest, starts)]]  # the first of those that are equally sure


def _each(tokens: Tokens, labels: Labels, ignored: Sequence[str]) -> list[Entity]:
    """Every token whose label is not ignored."""
    columns = (tokens.scores.argmax(axis=1), tokens.scores.max(axis=1), tokens.offsets)
    return [
        Entity(
            label=labels.names[label],
            score=score,
            start=start,
            end=end,
            word=tokens.text[start:end],
            index=tokens.index + place,
        )
        for place, (label, score, (start, end)) in enumerate(zip(*(column.tolist() for column in columns), strict=True))
        if labels.names[label] not in ignored
    ]


def _grouped(
    text: str,
    places: NDArray[np.int64],
    scores: NDArray[np.float32],
    best: NDArray[np.int64],
    *,
    labels: Labels,
    ignored: Sequence[str],
) -> list[Entity]:
    """Runs of one type among tokens or words with the labels ``best`` [n], which stand at ``places`` [n, 2] and have ``scores``
    [n, labels].
    """
    tops = scores[np.arange(len(best)), best]
    codes = labels.codes[best]
    starts = np.flatnonzero(labels.begins[best] | (np.diff(codes, prepend=-1) != 0))
    ends = np.append(starts, len(best))[1:]
    sums = np.add.reduceat(tops, starts, dtype=np.float64) if len(starts) else tops
    columns = (codes[starts], sums / (ends - starts), places[starts, 0], places[ends - 1, 1])
    found = []
    for code, score, begin, end in zip(*(column.tolist() for column in columns), strict=True):
        label, word = labels.types[code], text[begin:end].strip()
        if word and label not in ignored:
            start = text.index(word, begin)
            found.append(Entity(label=label, score=score, start=start, end=start + len(word), word=word))
    return _apart(found)


def _apart(entities: Sequence[Entity]) -> list[Entity]:
    """Without overlaps: of two entities that share characters the longer one stays, else the surer one, else the first."""
    kept: list[Entity] = []
    for entity in entities:
        if kept and entity.start < kept[-1].end:
            if (entity.end - entity.start, entity.score) > (kept[-1].end - kept[-1].start, kept[-1].score):
                kept[-1] = entity
        else:
            kept.append(entity)
    return kept
