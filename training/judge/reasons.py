"""Which words speak for the answers that a report shows: for each of its changed texts, by each version.

The attributions are those of `baton.predict.explaining`. They are no part of the verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from baton.errors import InvalidInput
from baton.predict.predictor import Predictor
from training.judge.excerpts import shorten

WORDS = 4
"""Words of an answer that a report names: those with the largest attributions, also if they speak against it."""

PLACES = 3
"""Entities of an answer whose words a report names."""

LENGTH = 40
"""Maximum length of a word, or of words that share an attribution, in characters."""

SECONDS = 30.0
"""How long the texts of one report are explained by one version. The others stay without: of a slow model, a run must not wait
minutes for what decides nothing."""

Word = tuple[str, float]
"""A word, and how much it adds to the score of the answer."""

Reason = tuple[str, Sequence[Word]]
"""What is explained, in words (empty: the answer as a whole), and the words that count for it, in the order of the text."""


def reasons(
    predictor: Predictor, inputs: Sequence[Any], mask: Callable[[Any], Any], now: Callable[[], float] = time.monotonic
) -> list[list[Reason]]:
    """Return the words that count most for a version's answer to each input.

    Nothing for a text that cannot be explained: a pair, one of several windows, or when the time is over; and for tasks whose
    answers have no explanation.

    Args:
        mask: masks personal data in an input; it keeps every character's place.
    """
    options = predictor.task.explaining()
    if options is None:
        return [[] for _ in inputs]
    ends = now() + SECONDS
    return [_reasons(predictor, item, mask(item), options) if now() < ends else [] for item in inputs]


def _reasons(predictor: Predictor, item: Any, masked: Any, options: Any) -> list[Reason]:
    try:
        [output] = predictor.predict([item], [options])
    except InvalidInput:
        return []
    found: list[Reason] = []
    for place, explanation in predictor.task.explanations_of(output)[:PLACES]:
        of = "" if place is None else f"{shorten(masked.text[place.start : place.end], LENGTH)} {place.label}"
        most = sorted(explanation.parts, key=lambda part: -abs(part.score))[:WORDS]
        words = [
            (shorten(masked.text[part.start : part.end], LENGTH), round(part.score, 4))
            for part in sorted(most, key=lambda part: part.start)
        ]
        found.append((of, words))
    return found
