"""Reads the input of a request for tasks that take a text: classification, and text to text."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from baton.errors import InvalidInput
from baton.tasks.checks import check_text
from baton.validation import first_problem, short_repr

InputT = TypeVar("InputT", bound=BaseModel)


def read_text_input(input_cls: type[InputT], field: str, value: object) -> InputT:
    """Return the input that ``value`` stands for: a text alone, which is its ``field``, or an object with its fields.

    Raises ``InvalidInput``.
    """
    if isinstance(value, str):
        try:
            fields: dict[str, Any] = {field: check_text(value, field)}
            return input_cls.model_construct(**fields)  # nothing else is left to validate
        except ValueError as error:
            raise InvalidInput(f"inputs: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"inputs: a text must be a string, not {type(value).__name__} ({short_repr(value)})")
    try:
        return input_cls.model_validate(value)
    except ValidationError as error:
        raise InvalidInput(f"inputs.{first_problem(error)}; allowed: {', '.join(input_cls.model_fields)}") from None
