"""The Hugging Face inference protocol: ``{"inputs", "parameters"}``, as `huggingface_hub.InferenceClient` sends it.

Reaches a task only through its ``from_wire`` and ``to_wire``. Knows neither HTTP nor the batcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from baton.errors import BatonError, InvalidInput
from baton.tasks.base import AnyTask
from services.replica.protocols.dialect import (
    Call,
    Dialect,
    Message,
    ModelFacts,
    Rendered,
    error_message,
    json_object,
    read_input,
    read_options,
)

KEYS = ("inputs", "parameters", "options")
"""Keys of a request. ``options`` (for example ``wait_for_model``) is meant for the hub's own service and ignored here."""

EXAMPLE = '{"inputs": "I like you"}'


@dataclass(frozen=True, kw_only=True)
class Request:
    """A parsed request."""

    inputs: list[Any]
    """Typed inputs of the task."""
    options: list[Any]
    """Typed options, one for each input."""
    single: bool
    """Whether ``inputs`` was one input instead of a list."""


def read(message: Message, model: ModelFacts) -> Call:
    """Read a request; see `parse` and `render`."""
    request = parse(message.body, model.task_cls, model.max_inputs)
    return Call(
        inputs=request.inputs,
        options=request.options,
        render=lambda answer: Rendered(body=render(answer.outputs, model.task_cls, request.single)),
    )


def parse(body: bytes, task_cls: type[AnyTask], max_inputs: int) -> Request:
    """Parse a request body into typed inputs and options.

    Raises:
        MalformedRequest: not JSON, or not a JSON object.
        InvalidInput: a key, an input or a parameter that is not allowed.
    """
    content = json_object(body, KEYS, EXAMPLE)
    if "inputs" not in content:
        raise InvalidInput(f'the key "inputs" is missing; example: {EXAMPLE}')
    raw = content["inputs"]
    single = not isinstance(raw, list)
    if not single and not 1 <= len(raw) <= max_inputs:
        raise InvalidInput(f"inputs: a list of 1 to {max_inputs} inputs is allowed, this one has {len(raw)}")
    inputs = (
        [task_cls.from_wire(raw)]
        if single
        else [read_input(value, task_cls, f"inputs[{index}]") for index, value in enumerate(raw)]
    )
    return Request(inputs=inputs, options=[read_options(content.get("parameters"), task_cls)] * len(inputs), single=single)


def render(outputs: list[Any], task_cls: type[AnyTask], single: bool) -> bytes:
    """Return the body of an answer: a list, or for a single input its answer alone.

    Where the clients of a task expect a list for a single input, too (``nest_single``), it is a list of one.
    """
    answers = [task_cls.to_wire(output) for output in outputs]
    return to_json(answers[0] if single and not task_cls.nest_single else answers)


def render_error(error: BatonError) -> bytes:
    """Return the body of an error: ``{"error": "…"}``."""
    return error_message(error)


DIALECT = Dialect(read=read, render_error=render_error)
