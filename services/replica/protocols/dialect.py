"""What a wire dialect is: how a request body is read into typed inputs, and how typed outputs and errors are answered.

Each dialect is a module with a constant ``DIALECT``. Knows neither HTTP nor the batcher. What every request makes is a named
tuple: a frozen dataclass takes a microsecond longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from baton.errors import BatonError, InvalidInput, MalformedRequest
from baton.tasks.base import AnyTask
from baton.validation import first_problem, short_repr

JSON = b"application/json"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""The UTF-8 byte order mark. RFC 8259, section 8.1: a parser may ignore it, and some clients on Windows send it."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The model that is asked, as far as its requests depend on it."""

    name: str
    task_cls: type[AnyTask]
    max_inputs: int
    """Maximum number of inputs in one request."""


class Message(NamedTuple):
    """A request as it came over HTTP, its body unpacked."""

    body: bytes
    header: Callable[[bytes], bytes]
    """Returns the value of the header with this name in lower case; empty if there is none."""


class Answer(NamedTuple):
    """What the model says to one request."""

    outputs: list[Any]
    """Typed outputs of the task, one for each input."""
    version: int
    """The version that computed them."""
    labels: tuple[str, ...]
    """The labels of that version, in the order of the model's outputs; empty if the task has none."""
    request_id: str


class Rendered(NamedTuple):
    """The body of an answer, and the headers that describe it."""

    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Call(NamedTuple):
    """A request that was read."""

    inputs: list[Any]
    """Typed inputs of the task."""
    options: list[Any]
    """Typed options, one for each input."""
    render: Callable[[Answer], Rendered]
    """Returns the answer in the form that the request asked for."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to ask a model over HTTP."""

    read: Callable[[Message, ModelFacts], Call]
    """Reads a request. Raises ``MalformedRequest`` or ``InvalidInput``, which say what is wrong and what is allowed."""
    render_error: Callable[[BatonError], bytes]
    """Returns the body of an error, which is JSON."""
    status: Callable[[BatonError], int] = attrgetter("status")
    """Returns the HTTP status of an error."""
    content_types: tuple[bytes, ...] = (JSON,)
    """Content types of requests, besides none."""


def error_message(error: BatonError) -> bytes:
    """Return the body ``{"error": "…"}``, which most dialects share."""
    return to_json({"error": str(error)})


def json_object(body: bytes, keys: Sequence[str], example: str) -> dict[str, Any]:
    """Return the JSON object in ``body``, which may begin with a byte order mark.

    Raises:
        MalformedRequest: not JSON, or not an object; the message then has the ``example``.
        InvalidInput: it has a key that is not among ``keys``.
    """
    try:
        content = from_json(body.removeprefix(BYTE_ORDER_MARK))
    except ValueError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise MalformedRequest(f"the body must be a JSON object, for example {example}")
    unknown = [key for key in content if key not in keys]
    if unknown:
        raise InvalidInput(f"unknown key {short_repr(unknown[0])}; allowed: {', '.join(keys)}")
    return content


def read_options(parameters: object, task_cls: type[AnyTask]) -> Any:
    """Return the options of a request from its ``parameters``; null and {} mean the defaults. Raises ``InvalidInput``."""
    if parameters is None or parameters == {}:
        return task_cls.Options()
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters: a JSON object is expected, not {type(parameters).__name__}")
    try:
        return task_cls.Options.model_validate(parameters)
    except ValidationError as error:
        allowed = ", ".join(task_cls.Options.model_fields)
        raise InvalidInput(f"parameters.{first_problem(error)}; parameters: {allowed}") from None


def read_input(value: object, task_cls: type[AnyTask], where: str) -> Any:
    """Return a typed input. Raises ``InvalidInput``, in which the input is called ``where``."""
    try:
        return task_cls.from_wire(value)
    except InvalidInput as error:  # the task calls it "inputs" and does not know its position
        raise InvalidInput(f"{where}{str(error).removeprefix('inputs')}") from None


def required_fields(task_cls: type[AnyTask]) -> list[str]:
    """Return the names of the fields that every input of a task has, for example ["question", "context"]."""
    return [name for name, field in task_cls.Input.model_fields.items() if field.is_required()]


def from_fields(values: Mapping[str, object], task_cls: type[AnyTask]) -> object:
    """Return one input in the form of ``Task.from_wire`` from its fields: the text alone, or an object of all fields.

    ``{"text": "a"}`` becomes "a" where the task needs nothing else, so that it does not matter whether it reads objects.
    """
    names = list(values)
    return values[names[0]] if len(names) == 1 and names == required_fields(task_cls) else dict(values)
