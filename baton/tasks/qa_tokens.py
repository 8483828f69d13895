"""The characters that the tokens of a context cover, over all its windows: they turn logits into spans of the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from baton.text.answers import CJK

_UNSPACED = re.compile(f"[{CJK}\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf]+")
"""Runs of scripts without spaces between words: CJK, Thai, Lao, Tibetan, Burmese, Khmer, Tai. Korean is included because its
particles are written onto the words."""


@dataclass(frozen=True, kw_only=True)
class ContextTokens:
    """The n tokens of one context in all its windows, window after window. Tokens that windows share are there repeatedly."""

    begins: NDArray[np.int64]
    """[n]: the first character that each token covers, white space around the token left out."""
    finishes: NDArray[np.int64]
    """[n]: the character after the last that each token covers, marks that combine with the last included. A token of
    nothing but white space ends before it begins."""
    edges: NDArray[np.int64]
    """[windows + 1]: the index of each window's first token; n at the end."""
    positions: Sequence[slice]
    """For each window the positions of the context's tokens, behind the question and the special tokens."""

    @classmethod
    def of(cls, context: str, encodings: Sequence[Encoding], *, align: bool = False) -> ContextTokens:
        """``align``: let each token cover its whole word, in scripts that put spaces between words."""
        positions = [_context_of(encoding) for encoding in encodings]
        both = list(zip(encodings, positions, strict=True))
        offsets = [pair for encoding, part in both for pair in encoding.offsets[part]]
        begins, finishes = _tidy(context, np.array(offsets, dtype=np.int64).reshape(-1, 2))
        if align:
            words = np.array([-1 if word is None else word for encoding, part in both for word in encoding.word_ids[part]])
            begins, finishes = _align(context, words.astype(np.int64), begins, finishes)
        edges = np.cumsum([0, *(part.stop - part.start for part in positions)])
        return cls(begins=begins, finishes=finishes, edges=edges, positions=positions)

    @property
    def limits(self) -> NDArray[np.int64]:
        """Return for each token [n] the index after the last token of its window."""
        return np.repeat(self.edges[1:], np.diff(self.edges))

    def pick(self, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the logits [n] of these tokens; ``logits[w]`` has those of all tokens of window w."""
        return np.concatenate([row[part] for row, part in zip(logits, self.positions, strict=True)]).astype(np.float64)


def _context_of(encoding: Encoding) -> slice:
    """Return the positions of the context's tokens in a window; an empty slice if it has none."""
    texts = encoding.sequence_ids  # 0: question, 1: context, None: special
    first = texts.index(1) if 1 in texts else 0
    return slice(first, first + texts.count(1))


def _tidy(context: str, offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return begins and ends of ``offsets`` [n, 2] without white space at the edges, but with the combining marks that follow.

    Some tokenizers count the space before a word as part of it. Uncased ones drop accents, and so the end of a decomposed é.
    """
    solid = ~np.fromiter(map(str.isspace, context), dtype=bool, count=len(context))
    begins = _next(solid)[offsets[:, 0]]
    before = np.append(0, np.maximum.accumulate(np.where(solid, np.arange(1, len(context) + 1), 0)))
    finishes = before[offsets[:, 1]]
    if not context.isascii():
        unmarked = np.fromiter((unicodedata.category(character)[0] != "M" for character in context), dtype=bool)
        finishes = _next(unmarked)[finishes]
    return begins, finishes


def _next(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each index [n + 1], the end included, the first flagged one from there on; n if there is none."""
    flagged = np.where(np.append(flags, True), np.arange(len(flags) + 1), len(flags))
    return np.asarray(np.minimum.accumulate(flagged[::-1])[::-1])


def _align(
    context: str, words: NDArray[np.int64], begins: NDArray[np.int64], finishes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return begins and ends in which each token covers its whole word, if the word is written in a script with spaces.

    ``words`` [n]: the number of each token's word; -1 if it has none.
    """
    size = int(words.max(initial=-1)) + 2
    lows, highs = np.full(size, len(context)), np.zeros(size, dtype=np.int64)
    np.minimum.at(lows, words, begins)
    np.maximum.at(highs, words, finishes)
    unspaced = np.zeros(len(context) + 1, dtype=np.int64)
    for run in _UNSPACED.finditer(context):
        unspaced[run.start() + 1 : run.end() + 1] = 1
    counts = np.cumsum(unspaced)
    spaced = (words >= 0) & (lows < highs)[words] & (counts[highs] == counts[lows])[words]
    return np.where(spaced, lows[words], begins), np.where(spaced, highs[words], finishes)
