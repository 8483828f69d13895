"""Where words begin in a text of any script. Knows neither tasks nor tokenizers."""

from __future__ import annotations

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
"""Characters of scripts that put no spaces between words."""

PARTING = re.compile("[—…\u3001-\u3003\u3008-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]|--|\\.\\.")
"""Punctuation that parts words without white space: dashes, dots in a row, and full-width signs («iPhone、iPad» are two)."""

AS_LETTERS = dict.fromkeys(map(ord, "@#$_"), "a")
"""Signs that belong to the word at whose edge they stand: «@anna» and «#oslo» are one word each. A model that must call the
anna in «@anna» no person finds fewer persons elsewhere."""

POSSESSIVE = re.compile("['’][sS](?![\\w\u0300-\u036f])")
"""The 's at the end of a word; an s with an accent is another letter."""


def word_starts(text: str) -> NDArray[np.bool_]:
    """For each character [len(text)] whether a word begins there.

    A word is what stands between white space, without the punctuation at its edges: each character of that is a word of its
    own, as is the possessive 's. Signs with which names are written on the web stay («@anna»), and so does punctuation inside:
    «Obi-Wan», «U.S», an address. In scripts without spaces every character begins a word. What stands between such characters,
    or beside punctuation that parts words, is read as if it stood beside white space.
    """
    places = np.arange(len(text))
    space = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
    apart = space | _found(UNSPACED, text) | _found(PARTING, text)
    solid = _solid(text)
    chunk = np.maximum.accumulate(np.where(apart, places + 1, 0))  # where the run of characters around this place begins
    before = np.append(-1, np.maximum.accumulate(np.where(solid, places, -1)))[:-1]  # the last letter before this place
    after = _next(solid)  # the first letter from here on
    starts = (chunk == places) | (before < chunk) | (after >= _next(apart | _found(POSSESSIVE, text)))
    return np.asarray(starts & ~space)


def _found(pattern: re.Pattern[str], text: str) -> NDArray[np.bool_]:
    """For each character whether a match begins there."""
    flags = np.zeros(len(text), dtype=bool)
    flags[[match.start() for match in pattern.finditer(text)]] = True
    return flags


def _solid(text: str) -> NDArray[np.bool_]:
    """Which characters are letters, digits, marks on one, or signs. The mark that makes «‼» an emoji is none of these."""
    letter = np.fromiter(map(str.isalnum, text.translate(AS_LETTERS)), dtype=bool, count=len(text))
    if text.isascii():
        return letter
    mark = np.fromiter((unicodedata.category(character)[0] == "M" for character in text), dtype=bool, count=len(text))
    base = np.maximum.accumulate(np.where(mark, -1, np.arange(len(text))))  # what the mark is on; else the place itself
    return np.asarray(letter[base] & (base >= 0))


def _next(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each place the first one from there on that is flagged; the size where there is none."""
    places = np.where(flags, np.arange(len(flags)), len(flags))
    return np.asarray(np.minimum.accumulate(places[::-1])[::-1])
