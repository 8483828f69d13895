"""Checks of what people send: texts and labels. They are pydantic validators, shared by the tasks."""

from __future__ import annotations

import unicodedata

from pydantic import BaseModel, ValidationInfo
from pydantic_core import from_json

from baton.text.normal_form import visible_form


def check_text(value: str, what: str) -> str:
    """Return ``value`` if a tokenizer can read it. Raises ``ValueError``, as pydantic validators must."""
    if not value or value.isspace():
        raise ValueError(f"{what} is empty; send at least one character that is not white space")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} holds a lone surrogate at character {error.start}; send valid Unicode") from None
    return value


FROZEN = {"frozen": True}
"""The context in which rows of frozen data sets are validated: earlier versions of Baton had other rules for labels."""


def check_label(value: str, info: ValidationInfo) -> str:
    """Return a label without white space around it, in Unicode NFC, so that equal-looking labels are one class.

    Raises ``ValueError``, as pydantic validators must, for a blank one and for one that is not on a single line. In the context
    `FROZEN` such labels stay as they are.
    """
    label = unicodedata.normalize("NFC", value.strip())
    if label.isascii() and label.isprintable() and label:
        return label
    problem = _label_problem(label)
    if problem and info.context != FROZEN:
        raise ValueError(problem)
    return value if problem else label


def _label_problem(label: str) -> str | None:
    if not visible_form(label):
        return "a label is blank; give at least one character that is not white space"
    broken = next((character for character in label if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")), None)
    if broken is not None:
        return f"a label holds {broken!r}; it must be valid Unicode on one line, without control characters"
    return None


def text_length(item: BaseModel) -> int:
    """Return the number of characters in all texts of an input."""
    return sum(len(value) for _, value in item if isinstance(value, str))


def from_cell(value: object) -> object:
    """Parse a CSV cell that holds a JSON list or object, and return any other value unchanged. Raises ``ValueError``."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return from_json(value)
        except ValueError:
            raise ValueError("it starts like a JSON list or object, but is not valid JSON") from None
    return value
