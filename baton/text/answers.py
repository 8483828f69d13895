"""Extractive answers: the search for the best spans, the threshold for no answer, and SQuAD's scores. Knows no model.

Normalisation, exact match and F1 are those of the SQuAD 2.0 evaluation (Rajpurkar et al. 2018, «Know what you don't know»).
Chinese, Japanese and Korean are compared by character, as MLQA, CMRC 2018 and KorQuAD 1.0 do; a text without such
characters scores exactly as in SQuAD.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

CJK = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u3096\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\uff66-\uff9d\uffa0-\uffdc\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Ranges of Han, kana, bopomofo and hangul, without their punctuation, for a character class of `re`."""

BLOCK = 1 << 16
"""How many spans to compare at once. It bounds the memory for long contexts and long answers."""

_CJK = re.compile(f"[{CJK}]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return ``text`` in lower case, without punctuation and English articles, with single spaces.

    SQuAD removes ASCII punctuation only. From a text with CJK characters all Unicode punctuation is removed, as in MLQA.
    """
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    if _CJK.search(text):
        text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", text).split())


def words(text: str) -> list[str]:
    """Return the words that F1 compares: those of the normalised text, with each CJK character as a word of its own."""
    return _CJK.sub(r" \g<0> ", normalise(text)).split()


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """Return whether ``prediction`` is one of ``references`` after normalisation; without references, whether it is empty."""
    return normalise(prediction) in {normalise(reference) for reference in _references(references)}


def f1(prediction: str, references: Sequence[str]) -> tuple[int, int]:
    """Return the best F1 over ``references`` as a fraction: (2 · common words, words of the prediction + of the reference).

    A reference without words means «no answer»: 1/1 for a prediction without words, else 0/1.
    """
    predicted = Counter(words(prediction))
    fractions = [_f1(predicted, Counter(words(reference))) for reference in _references(references)]
    return max(fractions, key=lambda fraction: fraction[0] / fraction[1])


def _f1(predicted: Counter[str], reference: Counter[str]) -> tuple[int, int]:
    if not predicted or not reference:
        return int(predicted == reference), 1
    return 2 * (predicted & reference).total(), predicted.total() + reference.total()


def _references(references: Sequence[str]) -> Sequence[str]:
    """Return the references that are not empty after normalisation; if there are none, the empty answer is the right one."""
    return [reference for reference in references if normalise(reference)] or [""]


def best_threshold(margins: ArrayLike, answered: ArrayLike, abstained: ArrayLike) -> float:
    """Return the threshold t with the highest mean score if rows with ``margins`` > t abstain and the others answer.

    It is midway between two margins, or 1 beyond the outermost. Of equally good thresholds it is the one nearest to 0.

    Args:
        margins: [n], n ≥ 1, finite.
        answered: [n] score of each row if it answers.
        abstained: [n] score of each row if it abstains.
    """
    margins = np.asarray(margins, dtype=np.float64)
    order = np.argsort(margins, kind="stable")
    margins = margins[order]
    gains = (np.asarray(answered, dtype=np.float64) - np.asarray(abstained, dtype=np.float64))[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)])  # totals[k]: gain if the k smallest margins answer
    middles = margins[:-1] + np.diff(margins) / 2
    middles = np.where(middles < margins[1:], middles, margins[:-1])  # no float lies between neighbouring floats
    thresholds = np.concatenate([[margins[0] - 1], middles, [margins[-1] + 1]])
    possible = np.concatenate([[True], np.diff(margins) > 0, [True]])  # no threshold separates equal margins
    best = possible & (totals >= totals[possible].max() - 1e-9)
    return float(min(thresholds[best], key=abs))


def best_spans(
    begins: NDArray[np.int64],
    finishes: NDArray[np.int64],
    limits: NDArray[np.int64],
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    *,
    longest: int,
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ``count`` best spans of characters that some pair of tokens i ≤ j < i + ``longest`` covers.

    The search is exact: it compares all n · ``longest`` pairs, a block of rows at a time. If several pairs cover the same
    characters, in overlapping windows for example, the best pair counts. Empty spans are left out.

    Args:
        begins, finishes: [n] the character at which each token begins, and the one after its last.
        limits: [n] for each token the index after the last token that a span from it may reach: the end of its window.
        starts, ends: [n] logits.

    Returns: the spans [≤ count, 2] as begin and finish, and their scores starts[i] + ends[j]. The best come first, equal ones
        in the order of the text.
    """
    found, sums = np.empty(0, dtype=np.int64), np.empty(0)
    if len(begins) == 0:
        return found.reshape(0, 2), sums
    positions = np.arange(len(begins))
    width = min(longest, int((limits - positions).max()))
    size = int(finishes.max()) + 1  # a span as one number: begin · size + finish
    end_rows = sliding_window_view(np.pad(ends, (0, width - 1)), width)
    finish_rows = sliding_window_view(np.pad(finishes, (0, width - 1)), width)
    step = max(1, BLOCK // width)
    for rows in (slice(first, first + step) for first in range(0, len(begins), step)):
        scores = starts[rows, None] + end_rows[rows]
        allowed = np.arange(width) < (limits - positions)[rows, None]
        allowed &= finish_rows[rows] > begins[rows, None]
        if count == 1:
            allowed &= scores >= scores.max(where=allowed, initial=-np.inf)
        if len(sums) == count:
            allowed &= scores >= sums[-1]
        codes = (begins[rows, None] * size + finish_rows[rows])[allowed]
        found, sums = _merge(np.concatenate([found, codes]), np.concatenate([sums, scores[allowed]]), count)
    return np.stack(np.divmod(found, size), axis=1), sums


def _merge(codes: NDArray[np.int64], scores: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ``count`` distinct codes with the best scores, and the best score of each."""
    order = np.lexsort((codes, -scores))
    _, first = np.unique(codes[order], return_index=True)
    chosen = order[np.sort(first)[:count]]
    return codes[chosen], scores[chosen]
