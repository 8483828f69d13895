"""The ``/predict`` of Hugging Face's Text Embeddings Inference (TEI), for tasks that rank the labels of a text.

Source: github.com/huggingface/text-embeddings-inference, ``router/src/http/types.rs`` and ``server.rs``. Unlike in the Hugging
Face dialect, a list of two texts is one input, a pair; a batch is a list of lists.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from baton.errors import BatonError, DeadlineExceeded, EmptyInput, InvalidInput, NotFound, Overloaded, Unavailable
from baton.tasks.text_classifier import TextClassifier
from baton.validation import short_repr
from services.replica.protocols.dialect import Answer, Call, Dialect, Message, ModelFacts, Rendered, json_object, read_input

KEYS = ("inputs", "raw_scores", "truncate", "truncation_direction")
EXAMPLE = '{"inputs": "I like you"}'
DIRECTIONS = ("right", "Right")
"""Long texts lose their end, never their beginning."""

BACKEND_STATUS = 424
"""Status of errors of the model; TEI answers them with «failed dependency»."""


def read(message: Message, model: ModelFacts) -> Call:
    """Read the body of ``POST predict``. Long texts are read as the model always does, whatever ``truncate`` says.

    Raises:
        MalformedRequest: not JSON, or not a JSON object.
        EmptyInput: ``inputs`` is an empty list.
        InvalidInput: a key or an input that is not allowed.
        NotFound: the model's task ranks no labels.
    """
    if not issubclass(model.task_cls, TextClassifier):
        raise NotFound(
            f"/predict ranks the labels of texts, and {model.name} is a model for {model.task_cls.name}; POST its own URL"
        )
    content = json_object(message.body, KEYS, EXAMPLE)
    if "inputs" not in content:
        raise InvalidInput(f'the key "inputs" is missing; example: {EXAMPLE}')
    for key in ("raw_scores", "truncate"):
        if not isinstance(content.get(key), bool | None):
            raise InvalidInput(f"{key}: {short_repr(content[key])} is not allowed; allowed: true, false")
    direction = content.get("truncation_direction", "right")
    if direction not in DIRECTIONS:
        raise InvalidInput(f"truncation_direction: {short_repr(direction)} is not allowed; allowed: right")
    values, single = _values(content["inputs"], model.max_inputs)
    inputs = [
        read_input(value, model.task_cls, "inputs" if single else f"inputs[{position}]")
        for position, value in enumerate(values)
    ]
    options = model.task_cls.Options(**({"function_to_apply": "none"} if content.get("raw_scores") else {}))

    def render(answer: Answer) -> Rendered:
        rows = [
            [{"score": score, "label": label} for label, score in zip(output.labels, output.scores, strict=True)]
            for output in answer.outputs
        ]
        return Rendered(body=to_json(rows[0] if single else rows))

    return Call(inputs=inputs, options=[options] * len(inputs), render=render)


def _values(raw: Any, most: int) -> tuple[list[object], bool]:
    """Return the inputs in the form of ``Task.from_wire``, and whether it is one input instead of a batch."""
    if raw == []:
        raise EmptyInput(f"inputs: the list is empty; example: {EXAMPLE}")
    if not isinstance(raw, list) or not isinstance(raw[0], list):
        return [_value(raw, "inputs")], True
    if len(raw) > most:
        raise InvalidInput(f"inputs: a batch of 1 to {most} inputs is allowed, this one has {len(raw)}")
    return [_value(item, f"inputs[{position}]") for position, item in enumerate(raw)], False


def _value(item: Any, where: str) -> object:
    """Return a text, or a pair of texts as an object of its fields."""
    texts = item if isinstance(item, list) else [item]
    if not 1 <= len(texts) <= 2:
        raise InvalidInput(
            f"{where}: a list of one text, or of two that belong together, is expected, not of {len(texts)}; a batch is a list "
            'of such lists, for example [["first"], ["second"], ["a question", "an answer"]]'
        )
    for text in texts:
        if not isinstance(text, str):
            raise InvalidInput(f"{where}: a text must be a string, not {type(text).__name__} ({short_repr(text)})")
    return texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}


def error_type(error: BatonError) -> str:
    """Return the kind of an error as TEI names it."""
    match error:
        case Unavailable():
            return "Unhealthy"
        case Overloaded() | DeadlineExceeded():
            return "Overloaded"
        case EmptyInput():
            return "Empty"
        case _:
            return "Backend" if error.status >= 500 else "Validation"


def status(error: BatonError) -> int:
    """Return the HTTP status of an error."""
    return BACKEND_STATUS if error_type(error) == "Backend" else error.status


def render_error(error: BatonError) -> bytes:
    """Return the body of an error: ``{"error": "…", "error_type": "…"}``."""
    return to_json({"error": str(error), "error_type": error_type(error)})


DIALECT = Dialect(read=read, render_error=render_error, status=status)
