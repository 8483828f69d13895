"""The Hugging Face inference protocol: ``{"inputs", "parameters"}``, as `huggingface_hub.InferenceClient` sends it.

Reaches a task only through its ``from_wire`` and ``to_wire``. Knows neither HTTP nor the batcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from baton.errors import BatonError, InvalidInput, MalformedRequest
from baton.tasks.base import AnyTask, first_problem

KEYS = ("inputs", "parameters", "options")
"""Keys of a request. ``options`` (for example ``wait_for_model``) is meant for the hub's own service and ignored here."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A parsed request."""

    inputs: list[Any]
    """Typed inputs of the task."""
    options: list[Any]
    """Typed options, one for each input."""
    single: bool
    """Whether ``inputs`` was one input instead of a list."""


def parse(body: bytes, task_cls: type[AnyTask], max_inputs: int) -> Request:
    """Parse a request body into typed inputs and options.

    Raises:
        MalformedRequest: not JSON, or not a JSON object.
        InvalidInput: a key, an input or a parameter that is not allowed.
    """
    try:
        content = from_json(body)
    except ValueError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise MalformedRequest('the body must be a JSON object, for example {"inputs": "I like you"}')
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise InvalidInput(f"unknown key {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    if "inputs" not in content:
        raise InvalidInput('the key "inputs" is missing; example: {"inputs": "I like you"}')
    raw = content["inputs"]
    single = not isinstance(raw, list)
    if not single and not 1 <= len(raw) <= max_inputs:
        raise InvalidInput(f"inputs: a list of 1 to {max_inputs} inputs is allowed, this one has {len(raw)}")
    inputs = [task_cls.from_wire(raw)] if single else [_element(index, value, task_cls) for index, value in enumerate(raw)]
    return Request(inputs=inputs, options=[_options(content.get("parameters"), task_cls)] * len(inputs), single=single)


def render(outputs: list[Any], task_cls: type[AnyTask], single: bool) -> bytes:
    """Return the body of an answer: a list, or for a single input its answer alone.

    Where the clients of a task expect a list for a single input, too (``nest_single``), it is a list of one.
    """
    answers = [task_cls.to_wire(output) for output in outputs]
    return to_json(answers[0] if single and not task_cls.nest_single else answers)


def render_error(error: BatonError) -> bytes:
    """Return the body of an error: ``{"error": "…"}``."""
    return to_json({"error": str(error)})


def _element(index: int, value: object, task_cls: type[AnyTask]) -> Any:
    try:
        return task_cls.from_wire(value)
    except InvalidInput as error:  # the task names the field "inputs" and does not know its position
        raise InvalidInput(f"inputs[{index}]{str(error).removeprefix('inputs')}") from None


def _options(parameters: object, task_cls: type[AnyTask]) -> Any:
    if parameters is None or parameters == {}:
        return task_cls.Options()
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters: a JSON object is expected, not {type(parameters).__name__}")
    try:
        return task_cls.Options.model_validate(parameters)
    except ValidationError as error:
        allowed = ", ".join(task_cls.Options.model_fields)
        raise InvalidInput(f"parameters.{first_problem(error)}; parameters: {allowed}") from None
