"""Finds where words begin in a text of any script. Knows neither tasks nor tokenizers."""

from __future__ import annotations

import itertools
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

UNSPACED = re.compile(
    "["
    "\u0e00-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d"  # Japanese
    "\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
    "]"
)
"""Characters of scripts without spaces between words."""

SEPARATOR = re.compile("[—…\u3001-\u3003\u3008-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]|--|\\.\\.")
"""Punctuation that separates words without white space: dashes, repeated dots and full-width signs («iPhone、iPad» are two)."""

AS_LETTERS = dict.fromkeys(map(ord, "@#$_"), "a")
"""Signs that are part of the word at whose edge they are: «@anna» and «#oslo» are one word each. If «anna» were a word of its
own, a model would learn from «@anna» that it is not a person, and find fewer persons elsewhere."""

POSSESSIVE = re.compile("['’][sS](?![\\w\u0300-\u036f])")
"""The 's at the end of a word. An s with a combining accent is another letter."""


def word_starts(text: str) -> NDArray[np.bool_]:
    """Return for each character [len(text)] whether a word begins there.

    Words are separated by white space. Each character of the punctuation at the edges of a word is a word of its own, and so is
    the possessive 's. Signs that begin names on the web stay part of the word («@anna»), and so does punctuation inside it:
    «Obi-Wan», «U.S», an address. In scripts without spaces every character begins a word. Such characters, and punctuation of
    `SEPARATOR`, separate the text around them as white space does.

    >>> np.flatnonzero(word_starts("York's mayor, @anna")).tolist()  # York, 's, mayor, the comma, @anna
    [0, 4, 7, 12, 14]
    """
    positions = np.arange(len(text))
    space = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
    separates = space | _found(UNSPACED, text) | _found(SEPARATOR, text)
    solid = _solid(text)
    chunk = np.maximum.accumulate(np.where(separates, positions + 1, 0))  # where the run without separators begins
    before = np.append(-1, np.maximum.accumulate(np.where(solid, positions, -1)))[:-1]  # the last letter before this one
    after = _next(solid)  # the first letter from here on
    starts = (chunk == positions) | (before < chunk) | (after >= _next(separates | _found(POSSESSIVE, text)))
    return np.asarray(starts & ~space)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text begin and end, without the white space between them.

    >>> word_spans("York's mayor")
    [(0, 4), (4, 6), (7, 12)]
    """
    starts = np.flatnonzero(word_starts(text)).tolist()
    return [(start, start + len(text[start:end].rstrip())) for start, end in itertools.pairwise([*starts, len(text)])]


def _found(pattern: re.Pattern[str], text: str) -> NDArray[np.bool_]:
    """Return for each character whether a match begins there."""
    flags = np.zeros(len(text), dtype=bool)
    flags[[match.start() for match in pattern.finditer(text)]] = True
    return flags


def _solid(text: str) -> NDArray[np.bool_]:
    """Return which characters are letters, digits, marks on these, or `AS_LETTERS`. The mark that makes «‼» an emoji is not."""
    letter = np.fromiter(map(str.isalnum, text.translate(AS_LETTERS)), dtype=bool, count=len(text))
    if text.isascii():
        return letter
    mark = np.fromiter((unicodedata.category(character)[0] == "M" for character in text), dtype=bool, count=len(text))
    base = np.maximum.accumulate(np.where(mark, -1, np.arange(len(text))))  # what a mark is on
    return np.asarray(letter[base] & (base >= 0))


def _next(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each index the first flagged one from there on; ``len(flags)`` if there is none."""
    flagged = np.where(flags, np.arange(len(flags)), len(flags))
    return np.asarray(np.minimum.accumulate(flagged[::-1])[::-1])
