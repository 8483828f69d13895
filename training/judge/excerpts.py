"""What a report shows of a long input: the places that answers name, and what is around them. Knows texts and positions."""

from __future__ import annotations

from collections.abc import Sequence

from baton.tasks.base import PAIR_SEPARATOR, Mark

SHOWN_CHARACTERS = 320
"""Maximum length of an excerpt."""

LEAD = 60
"""Characters that an excerpt shows before the first place."""

JOINT = " | "
"""What stands between the two texts of a pair."""

ELLIPSIS = "…"


def excerpt(content: str, marks: Sequence[Sequence[Mark]]) -> tuple[str, list[list[Mark]]]:
    """Return what is shown of a `Task.content`, and each of the lists of places in it, moved to where they are now.

    Of a pair, the first text is shown from its beginning and takes half of the room at most; the places are usually in the
    second. Places outside of what is shown are left out, and those that reach out of it are cut.
    """
    first, separator, second = content.rpartition(PAIR_SEPARATOR)
    begins = len(first) + len(separator)
    head = shorten(first, SHOWN_CHARACTERS // 2) + JOINT if separator else ""
    room = SHOWN_CHARACTERS - len(head)
    start = _start(len(second), room, max(_first(marks) - begins, 0))
    shown = second[start : start + room]
    before, after = ELLIPSIS if start else "", ELLIPSIS if start + room < len(second) else ""
    low = begins + start
    move = len(head) + len(before) - low
    found = []
    for of_answer in marks:
        inside = (
            Mark(max(mark.start, begins + start), min(mark.end, begins + start + len(shown)), mark.label) for mark in of_answer
        )
        found.append([Mark(mark.start + move, mark.end + move, mark.label) for mark in inside if mark.start < mark.end])
    return f"{head}{before}{shown}{after}", found


def shorten(text: str, length: int = SHOWN_CHARACTERS) -> str:
    """Return the beginning of a text that is longer than ``length`` characters, else all of it."""
    return text if len(text) <= length else text[: length - 1] + ELLIPSIS


def _first(marks: Sequence[Sequence[Mark]]) -> int:
    """Return where the first place begins that not all answers name; if they agree, the first of all; 0 without any."""
    places = set[Mark]().union(*marks)
    disputed = places.difference(set[Mark].intersection(*map(set, marks))) if marks else places
    return min((mark.start for mark in disputed or places), default=0)


def _start(length: int, room: int, first: int) -> int:
    """Return where an excerpt of ``room`` of ``length`` characters begins, so that the place at ``first`` is in it."""
    if length <= room or first < room - LEAD:
        return 0
    return min(first - LEAD, length - room)
