"""KServe's version 1 protocol, which is TensorFlow Serving's and Vertex AI's: ``{"instances"}`` in, ``{"predictions"}`` out.

Source: kserve.github.io/website, «V1 Inference Protocol». An instance is an input as in the Hugging Face dialect, or an object
of its fields; a prediction is that dialect's answer to it. ``parameters`` are Vertex AI's.
"""

from __future__ import annotations

from pydantic_core import to_json

from baton.errors import InvalidInput
from baton.validation import short_repr
from services.replica.protocols.dialect import (
    Answer,
    Call,
    Dialect,
    Message,
    ModelFacts,
    Rendered,
    error_message,
    from_fields,
    json_object,
    read_input,
    read_options,
)

KEYS = ("instances", "parameters")
EXAMPLE = '{"instances": ["I like you"]}'


def read(message: Message, model: ModelFacts) -> Call:
    """Read the body of ``POST v1/models/M:predict``.

    Raises:
        MalformedRequest: not JSON, or not a JSON object.
        InvalidInput: a key, an instance or a parameter that is not allowed.
    """
    content = json_object(message.body, KEYS, EXAMPLE)
    instances = content.get("instances")
    if not isinstance(instances, list) or not 1 <= len(instances) <= model.max_inputs:
        count = f"a list of {len(instances)}" if isinstance(instances, list) else short_repr(instances)
        raise InvalidInput(f"instances: a list of 1 to {model.max_inputs} inputs is expected, not {count}; example: {EXAMPLE}")
    inputs = [
        read_input(
            from_fields(value, model.task_cls) if isinstance(value, dict) else value, model.task_cls, f"instances[{position}]"
        )
        for position, value in enumerate(instances)
    ]

    def render(answer: Answer) -> Rendered:
        return Rendered(body=to_json({"predictions": [model.task_cls.to_wire(output) for output in answer.outputs]}))

    return Call(inputs=inputs, options=[read_options(content.get("parameters"), model.task_cls)] * len(inputs), render=render)


DIALECT = Dialect(read=read, render_error=error_message)
