"""Scores of tokens → entities, with the aggregation strategies of the Hugging Face token-classification pipeline.

Works on one text at a time and knows neither windows nor tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from baton.tags import OUTSIDE

Strategy = Literal["none", "simple", "first", "average", "max"]


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
    """What was found in a text, in order; and of each of its tokens the best label and its score, by which two answers can
    be compared even where nothing was found.
    """

    model_config = ConfigDict(frozen=True)

    entities: tuple[Entity, ...]
    token_labels: tuple[str, ...]
    token_scores: tuple[float, ...]


class NerOptions(BaseModel):
    """The ``parameters`` of the Hugging Face token-classification request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aggregation_strategy: Strategy = Field("simple", description="How tokens become entities; none: each token is answered.")
    ignore_labels: tuple[str, ...] = Field((OUTSIDE,), description="Labels that are not answered.")
    stride: int | None = Field(
        None, ge=0, description="Tokens that neighbouring windows of a long text share; half a window at most."
    )

    @field_validator("aggregation_strategy", "ignore_labels", mode="before")
    @classmethod
    def _default(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[str(info.field_name)].default if value is None else value


class Labels:
    """A model's labels: ``names[i]`` is B-X, I-X or O, ``types[codes[i]]`` its X or O, ``begins[i]`` whether it is a B-X."""

    def __init__(self, names: Sequence[str]) -> None:
        bare = [name[2:] if name.startswith(("B-", "I-")) else name for name in names]
        self.names = tuple(names)
        self.types = tuple(sorted(set(bare)))
        self.codes = np.array([self.types.index(name) for name in bare])
        self.begins = np.array([name.startswith("B-") for name in names])


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a text, special ones left out. ``offsets`` [n, 2]: where each begins and ends; ``scores`` [n, labels]:
    probabilities; ``later()`` [n]: whether a token goes on with the word of the one before; ``index``: the first token's.
    """

    text: str
    offsets: NDArray[np.int64]
    scores: NDArray[np.float32]
    later: Callable[[], NDArray[np.bool_]]
    index: int


def find_entities(tokens: Tokens, labels: Labels, options: NerOptions) -> Entities:
    """The entities of a text.

    The strategies are those of transformers 5: ``none`` answers tokens; ``simple`` joins neighbouring tokens of one type, a
    B- always beginning anew; ``first``, ``average`` and ``max`` do so with words, a word having the scores of its first
    token, the mean of its tokens' scores, or those of its surest token. An entity's score is the mean of its parts' best
    scores. Labels are ignored last: an ignored one still separates what stands around it.

    The answers differ from the pipeline's in three ways. ``word`` is the slice of the text (there: the tokens, put together).
    White space at the edges of an entity, which tokenizers other than WordPiece keep with words, is not part of it. And of
    entities that share characters, as tokens can, one is answered, by the rule that the pipeline has for windows.
    """
    strategy, ignored = options.aggregation_strategy, options.ignore_labels
    best = tokens.scores.argmax(axis=1)
    if strategy == "none":
        entities = _each(tokens, labels, ignored)
    elif strategy == "simple":
        entities = _grouped(tokens.text, tokens.offsets, tokens.scores, labels, ignored)
    else:
        starts = np.flatnonzero(~tokens.later() | (np.arange(len(best)) == 0))
        last = np.append(starts, len(best))[1:] - 1
        places = np.stack([tokens.offsets[starts, 0], tokens.offsets[last, 1]], axis=1)
        entities = _grouped(tokens.text, places, _of_words(strategy, tokens.scores, starts), labels, ignored)
    return Entities.model_construct(
        entities=tuple(entities),
        token_labels=tuple(labels.names[label] for label in best.tolist()),
        token_scores=tuple(tokens.scores.max(axis=1).tolist()),
    )


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
    text: str, places: NDArray[np.int64], scores: NDArray[np.float32], labels: Labels, ignored: Sequence[str]
) -> list[Entity]:
    """Runs of one type among tokens or words, which stand at ``places`` [n, 2] and have ``scores`` [n, labels]."""
    best, tops = scores.argmax(axis=1), scores.max(axis=1)
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
