"""What pydantic found wrong with a value, in Baton's words. Knows neither sections of `baton.yaml` nor routes."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from pydantic import ValidationError

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


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a pydantic error as ``field: message``, which has the value and what is allowed."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "missing":
            message = "missing"
        case "extra_forbidden":
            message = "unknown"
        case "value_error":  # from a validator of ours, whose message has the value
            message = str(problem["msg"]).removeprefix("Value error, ")
        case _:
            message = not_allowed(short_repr(problem["input"]), problem["msg"])
    return f"{field}: {message}" if field else message


def short_repr(value: object) -> str:
    """Return the repr of a value for an error message, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
