"""A changed text, cut where the places of answers begin and end, and each answer as the places that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Place = tuple[int, int, str]
"""Start, end and label of a place in a text."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a text."""

    text: str
    right: bool = False
    """Whether it is in the right answer."""
    wrong: bool = False
    """Whether a version answered it, wrongly."""
    label: str = ""
    """Of the right answer, where that ends."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A place that an answer names, or misses."""

    text: str
    label: str
    state: str
    """``right``, ``wrong`` or ``missed``."""


def segments(text: str, marks: Mapping[str, Sequence[Sequence[Any]]]) -> list[Segment]:
    """Return the pieces of a text in order. ``marks``: the places of the ``truth`` and of the answers, by name."""
    truth = places(marks.get("truth", ()))
    wrong = [place for name in marks if name != "truth" for place in places(marks[name]) if place not in truth]
    edges = {edge for start, end, _ in (*truth, *wrong) for edge in (start, end) if 0 <= edge <= len(text)}
    cuts = sorted({0, len(text)} | edges)
    return [
        Segment(
            text=text[start:end],
            right=any(first <= start and end <= last for first, last, _ in truth),
            wrong=any(first <= start and end <= last for first, last, _ in wrong),
            label=next((label for _, last, label in truth if last == end), ""),
        )
        for start, end in pairwise(cuts)
    ]


def named(text: str, answer: Sequence[Sequence[Any]], truth: Sequence[Sequence[Any]]) -> list[Named]:
    """Return the labelled places of an answer in order, with those of the ``truth`` that it misses; [] without labels."""
    ours, right = places(answer), places(truth)
    found = [(place, "right" if place in right else "wrong") for place in ours]
    found += [(place, "missed") for place in right if place not in ours]
    return [Named(text=text[start:end], label=label, state=state) for (start, end, label), state in sorted(found) if label]


def places(marks: Sequence[Sequence[Any]]) -> list[Place]:
    """Return marks as they stand in JSON."""
    return [(int(start), int(end), str(label)) for start, end, label in marks]
