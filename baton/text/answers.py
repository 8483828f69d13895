"""Extractive answers: which spans are the best, when none is better, and how right they are. Pure; knows no model.

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
"""Han, kana, bopomofo and hangul, without their punctuation, as ranges for a character class of `re`."""

BLOCK = 1 << 16
"""Spans that are compared at once, which bounds memory however long contexts and answers may be."""

_CJK = re.compile(f"[{CJK}]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces.

    SQuAD knows ASCII punctuation only; where there are CJK characters, all of Unicode's goes, as in MLQA.
    """
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    if _CJK.search(text):
        text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", text).split())


def words(text: str) -> list[str]:
    """What F1 compares: the words of the normalised text, CJK characters each on its own."""
    return _CJK.sub(r" \g<0> ", normalise(text)).split()


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """Whether ``prediction`` is one of ``references`` after normalisation; without references, whether it is empty."""
    return normalise(prediction) in {normalise(reference) for reference in _references(references)}


def f1(prediction: str, references: Sequence[str]) -> tuple[int, int]:
    """The best F1 over ``references`` as a fraction: (2 · common words, words predicted + words of the reference).

    A reference without words stands for «no answer»: 1/1 for a prediction without words, else 0/1.
    """
    predicted = Counter(words(prediction))
    fractions = [_f1(predicted, Counter(words(reference))) for reference in _references(references)]
    return max(fractions, key=lambda fraction: fraction[0] / fraction[1])


def _f1(predicted: Counter[str], reference: Counter[str]) -> tuple[int, int]:
    if not predicted or not reference:
        return int(predicted == reference), 1
    return 2 * (predicted & reference).total(), predicted.total() + reference.total()


def _references(references: Sequence[str]) -> Sequence[str]:
    """Those that normalisation leaves something of; if there is none, the empty answer is the right one."""
    return [reference for reference in references if normalise(reference)] or [""]


def best_threshold(margins: ArrayLike, answered: ArrayLike, abstained: ArrayLike) -> float:
    """The threshold t with the highest mean score when rows with ``margins`` > t abstain and the others answer.

    Args:
        margins: [n], at least one, finite.
        answered: [n] score of each row when it answers.
        abstained: [n] score of each row when it does not.

    Returns: midway between two margins, or 1 beyond the outermost; of equally good ones the one nearest to 0.
    """
    margins = np.asarray(margins, dtype=np.float64)
    order = np.argsort(margins, kind="stable")
    margins = margins[order]
    gains = (np.asarray(answered, dtype=np.float64) - np.asarray(abstained, dtype=np.float64))[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)])  # totals[k]: gain when the k smallest margins answer
    middles = margins[:-1] + np.diff(margins) / 2
    middles = np.where(middles < margins[1:], middles, margins[:-1])  # between neighbouring floats there is no middle
    thresholds = np.concatenate([[margins[0] - 1], middles, [margins[-1] + 1]])
    possible = np.concatenate([[True], np.diff(margins) > 0, [True]])  # equal margins share their fate
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
    """The ``count`` best spans of characters that some pair of tokens i ≤ j < i + ``longest`` covers.

    Exact: every pair is looked at, n · ``longest`` of them, a block of rows at a time. Of pairs that cover the same
    characters (in overlapping windows, say) the best counts. Empty spans are left out.

    Args:
        begins, finishes: [n] the character at which each token begins, and the one behind its last.
        limits: [n] for each token the index behind the last token that a span from it may reach: its window's end.
        starts, ends: [n] logits.

    Returns: spans [≤ count, 2] as begin and finish, and their starts[i] + ends[j]; best first, equal ones in text order.
    """
    found, sums = np.empty(0, dtype=np.int64), np.empty(0)
    if len(begins) == 0:
        return found.reshape(0, 2), sums
    places = np.arange(len(begins))
    width = min(longest, int((limits - places).max()))
    size = int(finishes.max()) + 1  # a span as one number: begin · size + finish
    end_rows = sliding_window_view(np.pad(ends, (0, width - 1)), width)
    finish_rows = sliding_window_view(np.pad(finishes, (0, width - 1)), width)
    step = max(1, BLOCK // width)
    for rows in (slice(first, first + step) for first in range(0, len(begins), step)):
        scores = starts[rows, None] + end_rows[rows]
        allowed = np.arange(width) < (limits - places)[rows, None]
        allowed &= finish_rows[rows] > begins[rows, None]
        if count == 1:
            allowed &= scores >= scores.max(where=allowed, initial=-np.inf)
        if len(sums) == count:
            allowed &= scores >= sums[-1]
        codes = (begins[rows, None] * size + finish_rows[rows])[allowed]
        found, sums = _merge(np.concatenate([found, codes]), np.concatenate([sums, scores[allowed]]), count)
    return np.stack(np.divmod(found, size), axis=1), sums


def _merge(codes: NDArray[np.int64], scores: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``count`` best of different codes, each with its best score."""
    order = np.lexsort((codes, -scores))
    _, first = np.unique(codes[order], return_index=True)
    chosen = order[np.sort(first)[:count]]
    return codes[chosen], scores[chosen]
