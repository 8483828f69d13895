"""The bodies of each dialect as JSON Schemas, for the tasks of the declared models (docs/protocols.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from baton.tasks import AnyTask
from baton.tasks.base import SCHEMA_REFERENCE
from baton.tasks.text_classifier import TextClassifier

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def any_of(schemas: Iterable[Schema]) -> Schema:
    """Return a schema for what one of these allows."""
    found: list[Schema] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found[0] if len(found) == 1 else {"anyOf": found}


def array(items: Schema, **limits: int) -> Schema:
    """Return a schema for a list."""
    return {"type": "array", "items": items, **limits}


def record(description: str, required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return a schema for an object without other keys than these."""
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def schemas_of(tasks: Sequence[type[AnyTask]]) -> dict[str, Schema]:
    """Return all schemas by name: three for each task, and the requests, answers and errors of each dialect."""
    found: dict[str, Schema] = {}
    for task in tasks:
        found[_name(task, "Input")] = _hoisted(task.input_schema(), found)
        found[_name(task, "Answer")] = _hoisted(task.answer_schema(), found)
        found[_name(task, "Parameters")] = _hoisted(_schema(task.Options), found)
    inputs, parameters = (any_of(ref(_name(task, kind)) for task in tasks) for kind in ("Input", "Parameters"))
    optional = {"parameters": any_of([parameters, {"type": "null"}])}
    answers = any_of(ref(_name(task, "Answer")) for task in tasks)
    return {
        **found,
        "PredictionError": record("What was wrong, and what is allowed.", {"error": TEXT}),
        "HuggingFaceRequest": record(
            "One input, or a list of them.",
            {"inputs": any_of([inputs, array(inputs, minItems=1)])},
            {**optional, "options": {"type": ["object", "null"], "description": "Ignored: it is for the hub's own service."}},
        ),
        "HuggingFaceAnswer": any_of(_hugging_face_answers(tasks)),
        **_tei(),
        **_open_inference(),
        "KServeRequest": record("A list of inputs.", {"instances": array(_instances(tasks), minItems=1)}, optional),
        "KServeAnswer": record("The answer to each input.", {"predictions": array(answers)}),
    }


def _name(task: type[AnyTask], kind: str) -> str:
    return "".join(part.title() for part in task.name.split("_")) + kind


def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(ref_template=SCHEMA_REFERENCE)


def _hoisted(schema: Schema, found: dict[str, Schema]) -> Schema:
    """Return a schema without the definitions that it came with, which are added to ``found``."""
    found.update(schema.get("$defs", {}))
    return {key: value for key, value in schema.items() if key != "$defs"}


def _hugging_face_answers(tasks: Sequence[type[AnyTask]]) -> Iterable[Schema]:
    """Yield the answers to a list of inputs, and those to a single one, which some tasks nest in a list, too."""
    for task in tasks:
        answer = ref(_name(task, "Answer"))
        yield array(answer)
        if not task.nest_single:
            yield answer


def _instances(tasks: Sequence[type[AnyTask]]) -> Schema:
    """Return the inputs of KServe v1: as in the Hugging Face dialect, or an object of the fields."""
    return any_of(schema for task in tasks for schema in (ref(_name(task, "Input")), _schema(task.Input)))


def _tei() -> dict[str, Schema]:
    scores = array(record("A label and its score.", {"score": NUMBER, "label": TEXT}))
    batch = array(array(TEXT, minItems=1, maxItems=2), minItems=1)
    kinds = ["Unhealthy", "Backend", "Overloaded", "Empty", "Validation"]
    return {
        "TeiRequest": record(
            "A text, a list of one text or of two that belong together, or a batch: a list of such lists.",
            {"inputs": any_of([TEXT, array(TEXT, minItems=1, maxItems=2), batch])},
            {
                "raw_scores": {"type": ["boolean", "null"], "description": "Answer logits."},
                "truncate": {
                    "type": ["boolean", "null"],
                    "description": "Without effect: long texts are read as ever.",
                },
                "truncation_direction": {"enum": ["right", "Right"]},
            },
        ),
        "TeiAnswer": any_of([scores, array(scores)]),
        "TeiError": record("What was wrong.", {"error": TEXT, "error_type": {"enum": kinds}}),
    }


def _open_inference() -> dict[str, Schema]:
    shape = array(COUNT, minItems=1, maxItems=2)
    size = {"binary_data_size": {**COUNT, "description": "Bytes of the tensor behind the JSON part of the body."}}
    texts = array(any_of([TEXT, array(TEXT)]))
    described = {"name": TEXT, "datatype": {"enum": ["BYTES", "FP32"]}, "shape": array({"type": "integer"})}
    return {
        "InferRequest": record(
            "Tensors named like the fields of an input, or `args` with whole inputs.",
            {"inputs": array(ref("InferInput"), minItems=1)},
            {
                "id": TEXT,
                "parameters": {"type": ["object", "null"], "description": "Those of the task, and `binary_data_output`."},
                "outputs": {"anyOf": [array(ref("InferRequestedOutput")), {"type": "null"}]},
            },
        ),
        "InferInput": record(
            "A tensor of texts.",
            {"name": TEXT, "shape": shape, "datatype": {"const": "BYTES"}},
            {
                "data": texts,
                "parameters": {"anyOf": [record("", {}, {**size, "content_type": TEXT}), {"type": "null"}]},
            },
        ),
        "InferRequestedOutput": record(
            "An output that is wanted.",
            {"name": {"enum": ["output", "label", "score"]}},
            {
                "parameters": {
                    "anyOf": [
                        record("", {}, {"binary_data": FLAG, "classification": {"type": ["integer", "null"], "minimum": 1}}),
                        {"type": "null"},
                    ]
                }
            },
        ),
        "InferAnswer": record(
            "Tensors. `output` has one JSON document a row: the answer of the Hugging Face dialect.",
            {"model_name": TEXT, "model_version": TEXT, "outputs": array(ref("InferOutput"))},
            {"id": TEXT},
        ),
        "InferOutput": record(
            "A tensor of the answer.",
            {"name": TEXT, "shape": shape, "datatype": {"enum": ["BYTES", "FP32"]}},
            {"data": array(any_of([TEXT, NUMBER])), "parameters": record("", {}, size)},
        ),
        "ServerMetadata": record("The server.", {"name": TEXT, "version": TEXT, "extensions": array(TEXT)}),
        "ModelMetadata": record(
            "A model: its tensors, and the versions that run.",
            {
                "name": TEXT,
                "versions": array(TEXT),
                "platform": TEXT,
                **{key: array(record("A tensor.", described)) for key in ("inputs", "outputs")},
            },
        ),
        "RepositoryIndex": array(
            record("A model.", {"name": TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": TEXT}, {"version": TEXT})
        ),
        "RepositoryIndexRequest": record("Nothing, or whether only ready models are wanted.", {}, {"ready": FLAG}),
        "Ready": record("Whether it is ready.", {"ready": FLAG}, {"name": TEXT}),
        "Live": record("That it is alive.", {"live": FLAG}),
        "Health": record("That the model is served, and by which version.", {"status": TEXT, "version": COUNT}),
        "ModelInfo": {
            "type": "object",
            "description": "The model's limits and the replica's state, with the names of TEI and Hugging Face's toolkit.",
            "required": ["model", "task", "model_id", "max_input_length", "max_client_batch_size", "version"],
        },
    }


def ranks(tasks: Sequence[type[AnyTask]]) -> bool:
    """Return whether a task ranks labels, so that TEI's `/predict` is for its models."""
    return any(issubclass(task, TextClassifier) for task in tasks)
