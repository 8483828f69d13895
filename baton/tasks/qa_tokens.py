"""Which characters the tokens of a context cover, over all its windows: what turns logits into spans of the text as sent."""

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
"""Scripts that do not put spaces between words: CJK, Thai, Lao, Tibetan, Burmese, Khmer, Tai. Korean is among them because
particles are written onto its words."""


@dataclass(frozen=True, kw_only=True)
class ContextTokens:
    """The tokens of one context in all its windows, window after window.

    ``begins``, ``finishes`` [n]: the characters that each covers, without white space around them but with the marks that
    combine with the last, from the first to the one behind (a token of nothing but white space ends before it begins).
    ``edges`` [windows + 1]: where each window's tokens begin. ``places``: where in its window the context stands.
    """

    begins: NDArray[np.int64]
    finishes: NDArray[np.int64]
    edges: NDArray[np.int64]
    places: Sequence[slice]

    @classmethod
    def of(cls, context: str, encodings: Sequence[Encoding], *, align: bool = False) -> ContextTokens:
        """``align``: let each token cover its whole word, in scripts that put spaces between words."""
        places = [_context_of(encoding) for encoding in encodings]
        both = list(zip(encodings, places, strict=True))
        offsets = [pair for encoding, place in both for pair in encoding.offsets[place]]
        begins, finishes = _tidy(context, np.array(offsets, dtype=np.int64).reshape(-1, 2))
        if align:
            words = np.array([-1 if word is None else word for encoding, place in both for word in encoding.word_ids[place]])
            begins, finishes = _align(context, words.astype(np.int64), begins, finishes)
        edges = np.cumsum([0, *(place.stop - place.start for place in places)])
        return cls(begins=begins, finishes=finishes, edges=edges, places=places)

    @property
    def limits(self) -> NDArray[np.int64]:
        """For each token the index behind the last one of its window."""
        return np.repeat(self.edges[1:], np.diff(self.edges))

    def pick(self, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """These tokens' logits [n], of all those in their windows."""
        return np.concatenate([row[place] for row, place in zip(logits, self.places, strict=True)]).astype(np.float64)


def _context_of(encoding: Encoding) -> slice:
    """Where in a window the tokens of the context stand; empty when it has none."""
    sides = encoding.sequence_ids
    first = sides.index(1) if 1 in sides else 0
    return slice(first, first + sides.count(1))


def _tidy(context: str, offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Character ranges [n, 2] moved inwards, off white space, and on over the combining marks behind them.

    Some tokenizers count a word's leading space in; uncased ones drop accents, and with them the end of a decomposed é.
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
    """For each place [n + 1], the end included, the first place from there on that is flagged; n where there is none."""
    places = np.where(np.append(flags, True), np.arange(len(flags) + 1), len(flags))
    return np.asarray(np.minimum.accumulate(places[::-1])[::-1])


def _align(
    context: str, words: NDArray[np.int64], begins: NDArray[np.int64], finishes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranges of whole words, for tokens whose word (-1: none) is written in a script with spaces."""
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
