"""chrF, how much the characters of two texts have in common: an F-score of n-grams. Knows no model.

Popović 2015, «chrF: character n-gram F-score for automatic MT evaluation», as sacrebleu computes it for one sentence: n-grams
of 1 to 6 characters without white space, recall counts twice as much as precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def chrf(text: str, references: Sequence[str]) -> float:
    """Return the chrF, in [0, 1], of ``text`` and the one of ``references`` that it is most like; 1 if it is one of them.

    White space is not compared.
    """
    return float(_metric().sentence_score(text, list(references)).score) / 100


@cache
def _metric() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
