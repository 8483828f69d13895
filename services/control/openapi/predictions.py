"""The paths that replicas answer, in the OpenAPI document: of each its dialect, its bodies, its headers and its errors.

Replicas are plain ASGI applications, which nothing describes by itself; tests hold this against what they answer. Paths that
name the model twice are described at the root of the service (`/v2/models/M/infer`), from where HAProxy sends them to replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from baton.config.model_settings import ModelSettings
from baton.tasks import AnyTask, task_type
from services.control.openapi.schemas import ranks, ref, schemas_of
from services.names import HEALTH, ROUTE

ERRORS = {
    400: "The body is not JSON, or its lengths do not add up.",
    401: "No valid API key.",
    403: "The key is for other models, or lacks the scope `predict`.",
    404: "No such model, path or version.",
    408: "No answer by the deadline of the caller.",
    413: "The body is too large.",
    415: "The content type or its encoding is not known.",
    422: "An input or a parameter is not allowed; the message says what is.",
    429: "Overloaded: try again after `Retry-After` seconds.",
    503: "The model has no champion yet, or is starting.",
}
"""Errors of a prediction."""

READ_ERRORS = (401, 403, 404)
"""Errors of a path that only reads."""

ANSWER_HEADERS = {
    "x-request-id": "The caller's own id of the request, or a new one.",
    "x-answer-id": "Unique; corrections name the answer by it.",
    "x-model-version": "Number of the version that answered.",
    "x-queue-ms": "Milliseconds in the queue.",
    "x-inference-ms": "Milliseconds of the model.",
    "x-abstain": "Positions, from 0, of the inputs whose answers are too unsure to act on; only if there are some.",
}

REQUEST_HEADERS: Mapping[str, tuple[dict[str, Any], str]] = {
    "x-request-id": ({"type": "string"}, "An id of the caller's own."),
    "x-request-timeout-ms": ({"type": "integer", "minimum": 1}, "How long the caller waits; then the answer is 408."),
}

OPEN_INFERENCE = "open inference protocol"


@dataclass(frozen=True, kw_only=True)
class Described:
    """One path of a replica."""

    path: str
    summary: str
    tag: str
    answer: str
    """Name of its schema."""
    request: str | None = None
    """Name of the schema of the body; None without one."""
    error: str = "PredictionError"
    predicts: bool = False
    example: Any = None
    description: str = ""
    open: bool = False
    """Whether it needs no key, and so has no errors of keys."""


def described(tasks: Sequence[type[AnyTask]]) -> list[Described]:
    """Return all paths of replicas of these tasks."""
    model, v2 = f"{ROUTE}/{{model}}", "/v2/models/{model}"
    at_root = "Below `/models/M` the same path stands once more: `{}`. It does not need Baton's HAProxy, and is no faster."
    tei = Described(
        path=f"{model}/predict",
        summary="Predict, as Text Embeddings Inference does",
        tag="text embeddings inference",
        request="TeiRequest",
        answer="TeiAnswer",
        error="TeiError",
        predicts=True,
        example={"inputs": "I was charged twice"},
        description="For models that rank the labels of texts. Errors of the model have the status 424.",
    )
    return [
        Described(
            path=model,
            summary="Predict",
            tag="predictions",
            request="HuggingFaceRequest",
            answer="HuggingFaceAnswer",
            predicts=True,
            example={"inputs": _example(tasks[0]), "parameters": {}},
            description="The protocol of `huggingface_hub.InferenceClient` and `@huggingface/inference`.",
        ),
        Described(path=f"{model}{HEALTH}", summary="Whether it is served", tag="predictions", answer="Health", open=True),
        Described(path=f"{model}/info", summary="What the model is", tag="predictions", answer="ModelInfo"),
        *([tei] if ranks(tasks) else []),
        Described(
            path=f"{v2}/infer",
            summary="Predict, by tensors",
            tag=OPEN_INFERENCE,
            request="InferRequest",
            answer="InferAnswer",
            predicts=True,
            example={"inputs": _tensors(tasks[0])},
            description="Bodies may have binary data behind their JSON part, whose length is then in the header "
            "`Inference-Header-Content-Length`. " + at_root.format("/models/M/v2/models/M/infer"),
        ),
        Described(path=v2, summary="The model's tensors and versions", tag=OPEN_INFERENCE, answer="ModelMetadata"),
        Described(path=f"{v2}/ready", summary="Whether the model is ready", tag=OPEN_INFERENCE, answer="Ready", open=True),
        Described(path=f"{model}/v2", summary="The server", tag=OPEN_INFERENCE, answer="ServerMetadata"),
        Described(
            path=f"{model}/v2/health/live", summary="Whether a replica is alive", tag=OPEN_INFERENCE, answer="Live", open=True
        ),
        Described(
            path=f"{model}/v2/health/ready", summary="Whether a replica is ready", tag=OPEN_INFERENCE, answer="Ready", open=True
        ),
        Described(
            path=f"{model}/v2/repository/index",
            summary="The model and its state",
            tag=OPEN_INFERENCE,
            request="RepositoryIndexRequest",
            answer="RepositoryIndex",
        ),
        Described(
            path="/v1/models/{model}:predict",
            summary="Predict, as KServe v1 does",
            tag="kserve v1",
            request="KServeRequest",
            answer="KServeAnswer",
            predicts=True,
            example={"instances": [_example(tasks[0])]},
            description=at_root.format("/models/M/v1/models/M:predict"),
        ),
    ]


def paths(tasks: Sequence[type[AnyTask]]) -> set[str]:
    """Return the paths in the document that replicas answer."""
    return {one.path for one in described(tasks)}


def add_predictions(api: FastAPI, models: Callable[[], Sequence[ModelSettings]]) -> None:
    """Add what the replicas of ``models()`` answer to the OpenAPI document of ``api``."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        tasks = [task_type(name) for name in dict.fromkeys(settings.task for settings in models())]
        names = [settings.name for settings in models()]
        document = plain()  # which FastAPI keeps: the models may be others the next time
        components = document["components"]
        predictions = {one.path: _path_item(one, names) for one in described(tasks)}
        return {
            **document,
            "components": {**components, "schemas": {**components["schemas"], **schemas_of(tasks)}},
            "paths": {**predictions, **document["paths"]},  # predictions first, because most readers look for them
        }

    setattr(api, "openapi", openapi)  # noqa: B010  FastAPI documents this; mypy refuses to assign to a method


def _path_item(one: Described, names: Sequence[str]) -> dict[str, Any]:
    parameters = [_parameter("model", "path", {"type": "string", "enum": list(names)}, "Name of a model.", required=True)]
    if one.predicts:
        parameters += [_parameter(name, "header", schema, text) for name, (schema, text) in REQUEST_HEADERS.items()]
    operation = {
        "tags": [one.tag],
        "summary": one.summary,
        "operationId": "".join(part if part.isalnum() else "_" for part in f"replica{one.path}"),
        **({"description": one.description} if one.description else {}),
        "parameters": parameters,
        "responses": _responses(one),
    }
    if one.request is None:
        return {"get": operation}
    content = {"schema": ref(one.request), **({"example": one.example} if one.example else {})}
    body = {"required": one.predicts, "content": {"application/json": content}}
    return {"post": {**operation, "requestBody": body}}


def _responses(one: Described) -> dict[str, Any]:
    statuses = tuple(ERRORS) if one.predicts else (503,) if one.open else READ_ERRORS
    texts = {status: ERRORS[status] for status in statuses}
    if one.error == "TeiError":
        texts[424] = "The model failed."
    elif one.predicts:
        texts[500] = "The model failed."
    names = ANSWER_HEADERS if one.predicts else {}
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in names.items()}
    error = {"application/json": {"schema": _error_of(one)}}
    return {
        "200": {
            "description": "The answer.",
            **({"headers": headers} if headers else {}),
            "content": {"application/json": {"schema": ref(one.answer)}},
        },
        **{str(status): {"description": texts[status], "content": error} for status in sorted(texts)},
    }


def _error_of(one: Described) -> dict[str, Any]:
    """Return the schema of errors. Readiness in the Open Inference Protocol answers the same as when it is ready."""
    return ref(one.answer if one.answer == "Ready" else one.error)


def _parameter(name: str, place: str, schema: dict[str, Any], text: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema, "description": text}


def _example(task: type[AnyTask]) -> Any:
    """Return an input of a task, as its requests have it."""
    fields = [name for name, field in task.Input.model_fields.items() if field.is_required()]
    return "I was charged twice" if fields == ["text"] else {name: f"a {name}" for name in fields}


def _tensors(task: type[AnyTask]) -> list[dict[str, Any]]:
    fields = [name for name, field in task.Input.model_fields.items() if field.is_required()]
    values = {"text": "I was charged twice"}
    return [{"name": name, "shape": [1], "datatype": "BYTES", "data": [values.get(name, f"a {name}")]} for name in fields]
