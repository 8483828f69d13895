"""The Open Inference Protocol, version 2 (KServe, Triton, MLServer): tensors in, tensors out, in JSON or as binary data.

Sources: github.com/kserve/open-inference-protocol (``rest/inference_rest.yaml``), and Triton's extensions for binary data and
classification (github.com/triton-inference-server/server, ``docs/protocol``). `tensors` has the form of tensors.

An input of the task is a row of BYTES tensors named like its fields. An answer has a tensor ``output`` with one JSON document a
row, which is the answer of the Hugging Face dialect. Tasks that rank labels also have ``label`` (BYTES) and ``score`` (FP32) of
the best one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import from_json, to_json

from baton.errors import InvalidInput, MalformedRequest, NotReady
from baton.tasks.base import AnyTask
from baton.tasks.text_classifier import LabelScores
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
    required_fields,
)
from services.replica.protocols.tensors import Tensor, check_keys, read_inputs

BINARY = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
"""Header with the number of bytes of a body's JSON part, if binary data follow it."""

KEYS = ("id", "parameters", "inputs", "outputs")
OUTPUT_KEYS = ("name", "parameters")
OUTPUT_PARAMETERS = ("binary_data", "classification")
IGNORED_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "content_type", "headers")
"""Parameters of a request that clients of Triton and MLServer send and that mean nothing here. All others are the task's."""
ARGS = "args"
"""MLServer's name of an input whose rows are whole inputs: a text, or a JSON document of the fields."""
EXAMPLE = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["I like you"]}]}'

LABEL_OUTPUTS = ("label", "score")


@dataclass(frozen=True, kw_only=True)
class _WantedOutput:
    """An output that a request asks for."""

    name: str
    binary: bool
    classes: int | None
    """Number of classes of Triton's classification extension; None for the output itself."""


def model_metadata(model: ModelFacts, versions: Sequence[int]) -> dict[str, Any]:
    """Return the answer to ``GET v2/models/M``. Optional inputs are left out: a client fills in whatever is named here."""
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in required_fields(model.task_cls)]
    outputs = [
        {"name": name, "datatype": "FP32" if name == "score" else "BYTES", "shape": [-1]} for name in _outputs(model.task_cls)
    ]
    return {
        "name": model.name,
        "versions": [str(version) for version in versions],
        "platform": f"baton_{model.task_cls.name}",
        "inputs": inputs,
        "outputs": outputs,
    }


def read(message: Message, model: ModelFacts) -> Call:
    """Read the body of ``POST v2/models/M/infer``, whose binary data begin where the header `HEADER_LENGTH` says.

    Raises:
        MalformedRequest: not JSON, or lengths that do not add up.
        InvalidInput: a tensor, an output or a parameter that is not allowed.
    """
    head, binary = _split(message)
    content = json_object(head, KEYS, EXAMPLE)
    request_id = content.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput(f"id: {short_repr(request_id)} is not a string")
    parameters = {} if content.get("parameters") is None else content["parameters"]
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters: a JSON object is expected, not {short_repr(parameters)}")
    wanted = _read_outputs(content.get("outputs"), _flag(parameters, "binary_data_output", "parameters"), model.task_cls)
    own = {key: value for key, value in parameters.items() if key not in (*IGNORED_PARAMETERS, "binary_data_output")}
    options = read_options(own, model.task_cls)
    names = (*model.task_cls.Input.model_fields, ARGS)
    columns = read_inputs(content.get("inputs"), binary, names=names, most=model.max_inputs)
    rows = _rows(columns, model.task_cls)
    inputs = [read_input(row, model.task_cls, f"inputs: row {position}") for position, row in enumerate(rows)]
    return Call(inputs=inputs, options=[options] * len(inputs), render=partial(render, model, wanted, request_id))


def render(model: ModelFacts, wanted: Sequence[_WantedOutput], request_id: str, answer: Answer) -> Rendered:
    """Return an answer. Its ``id`` is the request's or, if that has none, the one by which corrections name the answer."""
    tensors = [_tensor(output, answer, model.task_cls) for output in wanted]
    described, data = [], []
    for tensor in tensors:
        entry = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        if tensor.binary:
            data.append(tensor.binary_data())
            described.append({**entry, "parameters": {"binary_data_size": len(data[-1])}})
        else:
            described.append({**entry, "data": tensor.values})
    identity = {"id": request_id or answer.request_id} if request_id or answer.request_id else {}
    head = to_json({"model_name": model.name, "model_version": str(answer.version), **identity, "outputs": described})
    if not any(tensor.binary for tensor in tensors):
        return Rendered(body=head)
    return Rendered(body=b"".join((head, *data)), content_type=BINARY, headers=((HEADER_LENGTH, b"%d" % len(head)),))


def _split(message: Message) -> tuple[bytes, bytes]:
    """Return the JSON part of a body and the binary data behind it."""
    announced = message.header(HEADER_LENGTH)
    if not announced:
        return message.body, b""
    if not announced.isdigit() or len(announced) > 18 or int(announced) > len(message.body):
        raise MalformedRequest(
            f"Inference-Header-Content-Length: {short_repr(announced.decode('latin-1'))} is not a number of bytes up to "
            f"{len(message.body)}, the length of the body"
        )
    return message.body[: int(announced)], message.body[int(announced) :]


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{where}.{name}: {short_repr(value)} is not allowed; allowed: true, false")
    return value


def _outputs(task_cls: type[AnyTask]) -> tuple[str, ...]:
    """Return the names of a task's output tensors."""
    return ("output", *LABEL_OUTPUTS) if issubclass(task_cls.Output, LabelScores) else ("output",)


def _read_outputs(value: object, binary: bool, task_cls: type[AnyTask]) -> list[_WantedOutput]:
    """Return the outputs that a request asks for, all without a request for some.

    Each can be asked for once, so that an answer is not many times as large as its request.
    """
    known = _outputs(task_cls)
    if value is None or value == []:
        return [_WantedOutput(name=name, binary=binary, classes=None) for name in known]
    if not isinstance(value, list):
        raise InvalidInput(f"outputs: a list of tensors is expected, not {short_repr(value)}; allowed: {', '.join(known)}")
    wanted: list[_WantedOutput] = []
    for position, output in enumerate(value):
        where = f"outputs[{position}]"
        check_keys(output, OUTPUT_KEYS, where)
        name = output.get("name")
        if name not in known or name in [other.name for other in wanted]:
            what = "is no output of this model" if name not in known else "is there twice"
            raise InvalidInput(f"{where}.name: {short_repr(name)} {what}; allowed: {', '.join(known)}")
        parameters = {} if output.get("parameters") is None else output["parameters"]
        check_keys(parameters, OUTPUT_PARAMETERS, f"{where}.parameters")
        classes = parameters.get("classification")
        if classes is not None and (type(classes) is not int or classes < 1 or len(known) == 1):
            allowed = "a number of classes from 1 on" if len(known) > 1 else f"nothing, because {task_cls.name} ranks no labels"
            raise InvalidInput(f"{where}.parameters.classification: {short_repr(classes)} is not allowed; allowed: {allowed}")
        as_binary = _flag(parameters, "binary_data", f"{where}.parameters", binary)
        wanted.append(_WantedOutput(name=name, binary=as_binary, classes=classes))
    return wanted


def _rows(columns: Mapping[str, list[Any]], task_cls: type[AnyTask]) -> list[object]:
    """Return the inputs in the form of ``Task.from_wire``, one a row of the tensors."""
    required = required_fields(task_cls)
    if ARGS in columns:
        if len(columns) > 1:
            raise InvalidInput(
                f"inputs: {ARGS} has whole inputs; send either {ARGS} or {', '.join(task_cls.Input.model_fields)}"
            )
        return [_document(value, position) if len(required) > 1 else value for position, value in enumerate(columns[ARGS])]
    missing = [name for name in required if name not in columns]
    if missing:
        raise InvalidInput(f"inputs: the tensor {missing[0]!r} is missing; needed: {', '.join(required)}")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [from_fields(row, task_cls) for row in rows]


def _document(value: object, position: int) -> object:
    """Return an input that is sent as a JSON document."""
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError as error:
        raise InvalidInput(f"inputs: row {position} of {ARGS} is not a JSON document: {error}") from None


def _tensor(output: _WantedOutput, answer: Answer, task_cls: type[AnyTask]) -> Tensor:
    rows = answer.outputs
    if output.classes is not None:
        return _classes(output, answer)
    values: list[str] | list[float]
    if output.name == "label":
        values = [row.label for row in rows]
    elif output.name == "score":
        values = [float(row.scores[0]) for row in rows]
    else:
        values = [to_json(task_cls.to_wire(row)).decode() for row in rows]
    return Tensor(name=output.name, shape=[len(rows)], values=values, binary=output.binary)


def _classes(output: _WantedOutput, answer: Answer) -> Tensor:
    """Return the best classes of each row as ``score:index:label``, [rows, classes]. Source: Triton's classification extension.

    Raises ``NotReady`` if the version that answered has just been replaced, so that its labels are not known any more.
    """
    index = {label: position for position, label in enumerate(answer.labels)}
    assert output.classes is not None
    values: list[str] = []
    count = 0
    for row in answer.outputs:
        best = list(zip(row.labels, row.scores, strict=True))[: output.classes]
        if any(label not in index for label, _ in best):
            raise NotReady(f"v{answer.version} was replaced while it answered; try again")
        values += [f"{score:f}:{index[label]}:{label}" for label, score in best]
        count = len(best)
    return Tensor(name=output.name, shape=[len(answer.outputs), count], values=values, binary=output.binary)


DIALECT = Dialect(read=read, render_error=error_message, content_types=(b"application/json", BINARY))
