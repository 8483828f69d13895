"""The OpenAPI document of the control plane, held against what replicas really answer: paths, bodies, headers and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from baton.tasks import task_type
from services.control.api.app import build_api
from services.control.openapi.predictions import ANSWER_HEADERS, ERRORS
from services.replica.endpoints import Endpoints
from tests.control.test_api import nothing
from tests.replica.test_dialects import tensors
from tests.support.dialects import INPUTS, LABELS, Served
from tests.support.local_control import configured, control_of

RANKING = ("classification", "multi_label")

BODIES: Mapping[str, Any] = {
    "/models/{model}": lambda task: [{"inputs": INPUTS[task]}, {"inputs": INPUTS[task][0], "parameters": {}, "options": {}}],
    "/models/{model}/predict": lambda task: [{"inputs": "a"}, {"inputs": ["a", "b"]}, {"inputs": [["a"], ["b", "c"]]}],
    "/v2/models/{model}/infer": lambda task: [{"id": "x", "inputs": tensors(task), "outputs": [{"name": "output"}]}],
    "/v1/models/{model}:predict": lambda task: [{"instances": INPUTS[task]}],
    "/models/{model}/v2/repository/index": lambda task: [{}, {"ready": True}],
}
"""Bodies of each path, which replicas accept."""

WRONG = [{}, {"inputs": 7}, {"instances": []}, {"inputs": [], "else": 1}]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The document of a service with one model ``m``, by the task of the model."""

    def document(task: str, directory: Path) -> Any:
        config = configured(directory, "m")
        models = (config.models[0].model_copy(update={"task": task}),)
        return build_api(control_of(config.model_copy(update={"models": models})), nothing).openapi()

    return {task: document(task, tmp_path_factory.mktemp(task)) for task in LABELS}


def of_replicas(document: Any) -> dict[str, Any]:
    return {
        path: item for path, item in document["paths"].items() if path.startswith(("/models/", "/v2/models/", "/v1/models/"))
    }


def check(document: Any, schema: Any, value: Any) -> list[str]:
    """What is wrong with a value, if anything."""
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def below_model(path: str) -> str:
    """A path of the document below the URL of the model ``m``."""
    return path.format(model="m").removeprefix("/models/m")


def ask(served: Served, path: str, body: Any) -> httpx.Response:
    if body is None:
        return httpx.get(f"{served.url}{below_model(path)}", timeout=60)
    return httpx.post(f"{served.url}{below_model(path)}", json=body, timeout=60)


def test_every_path_of_a_replica_is_described_and_no_other(documents):
    found = {below_model(path): set(item) for path, item in of_replicas(documents["classification"]).items()}
    endpoints = Endpoints("m")._paths
    assert found == {path: {endpoint.method.lower()} for path, endpoint in endpoints.items()}


@pytest.mark.parametrize("task", LABELS)
def test_what_replicas_accept_and_answer_is_as_described(replicas, documents, task):
    document, asked = documents[task], 0
    for path, item in of_replicas(document).items():
        [operation] = item.values()
        bodies = BODIES[path](task) if "requestBody" in operation else [None]
        for body in bodies:
            if body is not None:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                assert check(document, schema, body) == [], (path, body)
            answer = ask(replicas[task], path, body)
            assert answer.status_code == 200, (path, answer.text)
            described = operation["responses"]["200"]
            assert check(document, described["content"]["application/json"]["schema"], answer.json()) == [], path
            assert set(described.get("headers", ())) - {"x-request-id", "x-abstain"} <= set(answer.headers), path
            asked += 1
    assert asked == (16 if task in RANKING else 13)
    assert ("/models/{model}/predict" in document["paths"]) == (task in RANKING)


@pytest.mark.parametrize("task", LABELS)
def test_examples_are_accepted(replicas, documents, task):
    examples = 0
    for path, item in of_replicas(documents[task]).items():
        content = next(iter(item.values())).get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in content:
            assert check(documents[task], content["schema"], content["example"]) == []
            answer = ask(replicas[task], path, content["example"])
            assert answer.status_code == 200, (path, answer.text)
            examples += 1
    assert examples == (4 if task in RANKING else 3)


@pytest.mark.parametrize("task", LABELS)
def test_what_replicas_refuse_is_forbidden_or_has_a_described_error(replicas, documents, task):
    document = documents[task]
    for path in BODIES.keys() & of_replicas(document).keys() - {"/models/{model}/v2/repository/index"}:
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        refused = 0
        for body in WRONG:
            answer = ask(replicas[task], path, body)
            if answer.status_code == 200:
                continue
            refused += 1
            assert check(document, schema, body) or answer.status_code != 422, (path, body)
            described = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
            assert check(document, described, answer.json()) == [], (path, answer.text)
        assert refused >= 3, path


@pytest.mark.parametrize("task", LABELS)
def test_the_schemas_of_a_task_fit_its_wire_form(replicas, documents, task):
    schemas, name = documents[task]["components"]["schemas"], "".join(part.title() for part in task.split("_"))
    assert {f"{name}Input", f"{name}Answer", f"{name}Parameters"} <= schemas.keys()
    assert set(schemas[f"{name}Parameters"]["properties"]) == set(task_type(task).Options.model_fields)
    for value in INPUTS[task]:
        assert check(documents[task], schemas[f"{name}Input"], value) == []
        task_type(task).from_wire(value)
    assert check(documents[task], schemas[f"{name}Input"], 7), "a number is no input"
    answer = httpx.post(replicas[task].url, json={"inputs": INPUTS[task]}, timeout=60).json()
    assert [check(documents[task], schemas[f"{name}Answer"], one) for one in answer] == [[]] * len(answer)
    assert check(documents[task], schemas[f"{name}Answer"], "text")
    if task not in ("qa", "seq2seq"):
        explained = httpx.post(
            replicas[task].url, json={"inputs": ["the invoice"], "parameters": {"explain": True}}, timeout=60
        )
        assert [check(documents[task], schemas[f"{name}Answer"], one) for one in explained.json()] == [[]]
        assert task == "ner" or "explanation" in explained.json()[0][0]


def test_every_status_that_a_prediction_can_have_is_described(documents):
    operation = documents["classification"]["paths"]["/models/{model}"]["post"]
    assert {int(status) for status in operation["responses"]} == {200, 500, *ERRORS}
    assert operation["responses"]["200"]["headers"].keys() == ANSWER_HEADERS.keys()
    tei = documents["classification"]["paths"]["/models/{model}/predict"]["post"]["responses"]
    assert ("424" in tei, "500" in tei) == (True, False)
    assert json.dumps(tei["424"]).count("TeiError") == 1
