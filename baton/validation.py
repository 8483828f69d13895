"""What pydantic found wrong with a value, in Baton's words. Knows neither sections of `baton.yaml` nor routes."""

from __future__ import annotations

import difflib
from collections.abc import Collection

LIMITS = {
    "Input should be less than or equal to ": "at most ",
    "Input should be greater than or equal to ": "at least ",
    "Input should be less than ": "below ",
    "Input should be greater than ": "above ",
}
"""How pydantic's messages about a limit begin, and what we say instead."""


def not_allowed(shown: str, message: str) -> str:
    """Return for example ``101 is not allowed; at most 50``, from the value as it is ``shown`` and pydantic's message."""
    message = message.removeprefix("Value error, ")
    for phrase, ours in LIMITS.items():
        message = message.replace(phrase, ours)
    return f"{shown} is not allowed; {message[0].lower()}{message[1:]}"


def unknown_key(name: str, known: Collection[str]) -> str:
    """Return a message that has the nearest of the ``known`` names, and all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(known)}"
