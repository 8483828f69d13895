"""Every wire dialect over real HTTP: the same answers as the default one, the same headers, and errors in its own shape."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from baton.errors import EmptyInput, InvalidInput, NotFinite, NotReady, Overloaded, Unauthenticated
from baton.store.feedback.predictions import AnswerName
from services.replica.protocols import tei
from tests.support.dialects import INPUTS, LABELS, Served
from tests.support.waiting import until

TASKS = tuple(LABELS)
RANKING = ("classification", "multi_label")
BINARY_HEADER = "inference-header-content-length"
TEXT = "my invoice is wrong"


def post(served: Served, path: str, **options: Any) -> httpx.Response:
    return httpx.post(f"{served.url}{path}", timeout=60, **options)


def default(served: Served, inputs: Any, **parameters: Any) -> Any:
    """The answer of the Hugging Face dialect."""
    answer = post(served, "", json={"inputs": inputs, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(first: Any, second: Any) -> bool:
    """Whether two answers are equal but for rounding: batches of another shape round differently."""
    if isinstance(first, float):
        return second == pytest.approx(first, abs=1e-5)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


def tensors(task: str) -> list[dict[str, Any]]:
    """The inputs of a task as tensors in JSON."""
    text = "source" if task == "seq2seq" else "text"
    rows = [row if isinstance(row, dict) else {text: row} for row in INPUTS[task]]
    return [
        {"name": name, "shape": [len(rows), 1], "datatype": "BYTES", "data": [row[name] for row in rows]} for name in rows[0]
    ]


def binary_body(content: Mapping[str, Any], columns: list[list[bytes]]) -> tuple[bytes, dict[str, str]]:
    """A request whose i-th tensor has the elements ``columns[i]``, as binary data, and its headers."""
    parts = [b"".join(struct.pack("<I", len(item)) + item for item in column) for column in columns]
    inputs = [
        {**{key: value for key, value in tensor.items() if key != "data"}, "parameters": {"binary_data_size": len(part)}}
        for tensor, part in zip(content["inputs"], parts, strict=True)
    ]
    head = json.dumps({**content, "inputs": inputs}).encode()
    return head + b"".join(parts), {BINARY_HEADER: str(len(head)), "content-type": "application/octet-stream"}


def output(answer: httpx.Response, name: str = "output") -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    [found] = [tensor for tensor in answer.json()["outputs"] if tensor["name"] == name]
    return found


def split(answer: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON part of a binary answer, and the data of each tensor."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers[BINARY_HEADER])
    head, rest = json.loads(answer.content[:length]), answer.content[length:]
    data = {}
    for tensor in head["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        data[tensor["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    return head, data


def elements(data: bytes) -> list[str]:
    found = []
    while data:
        length = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return found


# --- the same answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_tensors_in_json_get_the_answers_of_the_default_dialect(replicas, task):
    served = replicas[task]
    answer = post(served, "/v2/models/m/infer", json={"id": "a", "inputs": tensors(task)})
    assert [json.loads(document) for document in output(answer)["data"]] == [
        pytest.approx(it) if isinstance(it, float) else it for it in default(served, INPUTS[task])
    ]
    content = answer.json()
    assert (content["model_name"], content["model_version"], content["id"]) == ("m", "1", "a")
    assert (output(answer)["shape"], output(answer)["datatype"]) == ([2], "BYTES")


@pytest.mark.parametrize("task", TASKS)
def test_binary_tensors_get_the_answers_of_the_default_dialect(replicas, task):
    served = replicas[task]
    content = {"inputs": tensors(task), "outputs": [{"name": "output", "parameters": {"binary_data": True}}]}
    columns = [[item.encode() for item in tensor["data"]] for tensor in content["inputs"]]
    body, headers = binary_body(content, columns)
    answer = post(served, "/v2/models/m/versions/1/infer", content=body, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    head, data = split(answer)
    assert head["outputs"][0]["shape"] == [2]
    assert same([json.loads(document) for document in elements(data["output"])], default(served, INPUTS[task]))


@pytest.mark.parametrize("task", TASKS)
def test_instances_get_the_answers_of_the_default_dialect(replicas, task):
    served = replicas[task]
    expected = default(served, INPUTS[task])
    assert same(post(served, "/v1/models/m:predict", json={"instances": INPUTS[task]}).json(), {"predictions": expected})
    if task != "qa":
        objects = [{"source" if task == "seq2seq" else "text": text} for text in INPUTS[task]]
        assert same(post(served, "/v1/models/m%3Apredict", json={"instances": objects}).json(), {"predictions": expected})


@pytest.mark.parametrize("task", RANKING)
def test_tei_gets_the_scores_of_the_default_dialect(replicas, task):
    served = replicas[task]
    expected = [[{"score": row["score"], "label": row["label"]} for row in rows] for rows in default(served, INPUTS[task])]
    assert same(post(served, "/predict", json={"inputs": [[text] for text in INPUTS[task]]}).json(), expected)
    assert same(post(served, "/predict", json={"inputs": INPUTS[task][0]}).json(), expected[0])
    assert same(post(served, "/predict", json={"inputs": [INPUTS[task][0]]}).json(), expected[0])


def test_tei_takes_a_list_of_two_texts_for_a_pair(replicas):
    served = replicas["classification"]
    expected = default(served, [{"text": "a parcel", "text_pair": "a crash"}, "a parcel"])
    pair = post(served, "/predict", json={"inputs": ["a parcel", "a crash"], "truncate": True, "truncation_direction": "right"})
    batch = post(served, "/predict", json={"inputs": [["a parcel", "a crash"], ["a parcel"]]})
    assert same([{**row} for row in pair.json()], expected[0])
    assert same(batch.json(), expected)


def test_tei_answers_raw_scores(replicas):
    served = replicas["classification"]
    expected = default(served, TEXT, function_to_apply="none")[0]
    assert same(post(served, "/predict", json={"inputs": TEXT, "raw_scores": True}).json(), expected)


@pytest.mark.parametrize("task", ["ner", "qa", "seq2seq"])
def test_tei_says_which_tasks_it_has(replicas, task):
    answer = post(replicas[task], "/predict", json={"inputs": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (404, "Validation")
    assert f"m is a model for {task}" in answer.json()["error"]


def test_parameters_are_those_of_the_task_in_each_dialect_that_has_them(replicas):
    served = replicas["classification"]
    expected = default(served, [TEXT], top_k=1)
    v2 = post(
        served, "/v2/models/m/infer", json={"inputs": tensors("classification"), "parameters": {"top_k": 1, "timeout": 5}}
    )
    assert same(json.loads(output(v2)["data"][0]), expected[0])
    v1 = post(served, "/v1/models/m:predict", json={"instances": [TEXT], "parameters": {"top_k": 1}})
    assert same(v1.json()["predictions"], expected)


@pytest.mark.parametrize("task", TASKS)
def test_args_are_whole_inputs(replicas, task):
    served = replicas[task]
    rows = [json.dumps(row) if task == "qa" else row for row in INPUTS[task]]
    tensor = {"name": "args", "shape": [2], "datatype": "BYTES", "data": rows, "parameters": {"content_type": "str"}}
    answer = post(served, "/v2/models/m/infer", json={"inputs": [tensor]})
    assert same([json.loads(document) for document in output(answer)["data"]], default(served, INPUTS[task]))


# --- labels and scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", RANKING)
def test_the_best_label_and_its_score_are_tensors_of_their_own(replicas, task):
    served = replicas[task]
    answer = post(served, "/v2/models/m/infer", json={"inputs": tensors(task)})
    best = [rows[0] for rows in default(served, INPUTS[task])]
    assert output(answer, "label")["data"] == [row["label"] for row in best]
    assert output(answer, "score")["datatype"] == "FP32"
    assert same(output(answer, "score")["data"], [row["score"] for row in best])


def test_all_outputs_are_binary_if_the_request_says_so_and_one_output_may_differ(replicas):
    served = replicas["classification"]
    content = {"inputs": tensors("classification"), "parameters": {"binary_data_output": True}}
    head, data = split(post(served, "/v2/models/m/infer", json=content))
    assert [tensor["name"] for tensor in head["outputs"]] == ["output", "label", "score"]
    best = [rows[0] for rows in default(served, INPUTS["classification"])]
    assert elements(data["label"]) == [row["label"] for row in best]
    assert struct.unpack("<2f", data["score"]) == pytest.approx([row["score"] for row in best])
    wanted = [{"name": "score", "parameters": {"binary_data": False}}]
    mixed = post(served, "/v2/models/m/infer", json={**content, "outputs": wanted})
    assert BINARY_HEADER not in mixed.headers
    assert len(output(mixed, "score")["data"]) == 2


@pytest.mark.parametrize(("classes", "count"), [(1, 1), (2, 2), (99, 3)])
def test_the_classification_extension_answers_scores_with_positions_and_labels(replicas, classes, count):
    served = replicas["classification"]
    wanted = [{"name": "score", "parameters": {"classification": classes}}]
    answer = post(served, "/v2/models/m/infer", json={"inputs": tensors("classification"), "outputs": wanted})
    found = output(answer, "score")
    assert (found["shape"], found["datatype"]) == ([2, count], "BYTES")
    expected = [row for rows in default(served, INPUTS["classification"]) for row in rows[:count]]
    for element, row in zip(found["data"], expected, strict=True):
        score, position, label = element.split(":")
        assert float(score) == pytest.approx(row["score"], abs=1e-5)
        assert LABELS["classification"][int(position)] == label == row["label"]


# --- what a server says of itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "inputs", "outputs"),
    [
        ("classification", ["text"], ["output", "label", "score"]),
        ("ner", ["text"], ["output"]),
        ("qa", ["question", "context"], ["output"]),
        ("seq2seq", ["source"], ["output"]),
    ],
)
def test_a_model_says_what_its_tensors_are(replicas, task, inputs, outputs):
    content = httpx.get(f"{replicas[task].url}/v2/models/m").json()
    assert (content["name"], content["versions"], content["platform"]) == ("m", ["1"], f"baton_{task}")
    assert [tensor["name"] for tensor in content["inputs"]] == inputs
    assert {tensor["name"]: tensor["datatype"] for tensor in content["outputs"]} == {
        name: "FP32" if name == "score" else "BYTES" for name in outputs
    }


def test_a_server_says_that_it_lives_what_it_is_and_what_it_has(replicas):
    url = replicas["ner"].url
    assert httpx.get(f"{url}/v2").json()["name"] == "baton"
    assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        assert httpx.get(f"{url}{path}").json() == {"name": "m", "ready": True}
    index = [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert httpx.post(f"{url}/v2/repository/index").json() == index
    assert httpx.post(f"{url}/v2/repository/index", json={"ready": True}).json() == index


def test_info_has_the_fields_of_tei(replicas):
    info = httpx.get(f"{replicas['classification'].url}/info").json()
    labels = LABELS["classification"]
    assert info["model_type"]["classifier"]["id2label"] == {str(index): label for index, label in enumerate(labels)}
    stored = replicas["classification"].world.registry.versions.get("m", 1)
    assert (info["model_id"], info["model_sha"], info["version"]) == ("m", stored.manifest_sha256, 1)
    assert (info["max_concurrent_requests"], info["max_input_length"], info["max_client_batch_size"]) == (1024, 128, 8)
    assert info["max_batch_tokens"] == 16384
    assert httpx.get(f"{replicas['qa'].url}/info").json()["model_type"] == {}


# --- health checks, HEAD and OPTIONS -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/info", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m"])
def test_head_is_get_without_the_body(replicas, path):
    url = f"{replicas['ner'].url}{path}"
    head, get = httpx.head(url), httpx.get(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"] == "application/json"
    assert head.headers["x-model-version"] == "1"


@pytest.mark.parametrize(
    ("path", "allowed"), [("/health", "GET, HEAD, OPTIONS"), ("/v2/health/live", "GET, HEAD, OPTIONS"), ("", "POST, OPTIONS")]
)
def test_options_tells_the_methods_and_so_does_a_refusal(replicas, path, allowed):
    answer = httpx.options(f"{replicas['ner'].url}{path}")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (204, b"", allowed)
    assert "content-length" not in answer.headers
    refused = httpx.delete(f"{replicas['ner'].url}{path}")
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


# --- headers, and feedback -----------------------------------------------------------------------------------------------

CALLS = {
    "": {"inputs": [TEXT]},
    "/predict": {"inputs": [[TEXT]]},
    "/v2/models/m/infer": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]},
    "/v1/models/m:predict": {"instances": [TEXT]},
}
"""A request in each dialect."""


@pytest.mark.parametrize("path", CALLS)
def test_an_answer_of_any_dialect_has_our_headers_and_is_logged_under_its_request_id(replicas, path):
    served = replicas["classification"]
    request_id = f"r-{path}-{time.monotonic_ns()}"
    answer = post(served, path, json=CALLS[path], headers={"x-request-id": request_id})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-version"] == "1"
    assert float(answer.headers["x-queue-ms"]) >= 0
    assert float(answer.headers["x-inference-ms"]) > 0
    name = AnswerName(answer.headers["x-answer-id"], None, 0)
    store = served.world.registry.predictions
    until(lambda: store.find("m", [name]), 60, "the answer is in the log")
    logged = store.find("m", [name])[name]
    assert (logged.request_id, logged.input["text"]) == (request_id, TEXT)


def test_the_id_of_a_tensor_answer_is_the_request_id_unless_the_request_has_one(replicas):
    served = replicas["classification"]
    body = CALLS["/v2/models/m/infer"]
    headers = {"x-request-id": "trace"}
    assert post(served, "/v2/models/m/infer", json=body, headers=headers).json()["id"] == "trace"
    assert post(served, "/v2/models/m/infer", json={**body, "id": "mine"}, headers=headers).json()["id"] == "mine"
    assert "id" not in post(served, "/v2/models/m/infer", json=body).json()


# --- mistakes ------------------------------------------------------------------------------------------------------------


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"], **changes}]}


V2_MISTAKES: list[tuple[Any, int, str]] = [
    ([], 400, "the body must be a JSON object, for example"),
    ({}, 422, "inputs: a list of tensors is expected, not None; allowed: text, text_pair, args"),
    ({"inputs": [], "x": 1}, 422, "unknown key 'x'; allowed: id, parameters, inputs, outputs"),
    ({**tensor(), "id": 7}, 422, "id: 7 is not a string"),
    ({"inputs": ["a"]}, 422, "inputs[0]: a JSON object is expected, not 'a'"),
    (tensor(name="words"), 422, "inputs[0].name: 'words' is no input of this model; allowed: text, text_pair, args"),
    (tensor(name=[]), 422, "inputs[0].name: [] is no input"),
    ({"inputs": tensor()["inputs"] * 2}, 422, "inputs[1].name: 'text' is there twice"),
    (tensor(name="text_pair"), 422, "inputs: the tensor 'text' is missing; needed: text"),
    (tensor(datatype="FP32"), 422, "inputs[0].datatype: 'FP32' is not allowed; allowed: BYTES"),
    (tensor(shape=[2]), 422, "inputs[0].data: has 1 elements, but shape says 2"),
    (tensor(shape=[9], data=["a"] * 9), 422, "inputs[0].shape: [9] is not allowed; allowed: [n] or [n, 1], with n from 1 to 8"),
    (tensor(shape=[0], data=[]), 422, "inputs[0].shape: [0] is not allowed"),
    (tensor(shape=[1, 2]), 422, "inputs[0].shape: [1, 2] is not allowed"),
    (tensor(shape=[True]), 422, "inputs[0].shape: [True] is not allowed"),
    (tensor(shape=[1.0]), 422, "inputs[0].shape: [1.0] is not allowed"),
    (tensor(shape=10**30), 422, "inputs[0].shape: 1000"),
    (tensor(data="a"), 422, "inputs[0].data: a list of 1 texts is expected, not 'a'"),
    (tensor(data=[7]), 422, "inputs: row 0: a text must be a string, not int (7)"),
    (tensor(data=[" "]), 422, "inputs: row 0: text is empty"),
    (
        tensor(parameters={"shared_memory_region": "x"}),
        422,
        "inputs[0].parameters: unknown key 'shared_memory_region'; allowed",
    ),
    (tensor(parameters={"binary_data_size": 1}), 422, "inputs[0]: has both data and binary_data_size; send one of them"),
    ({**tensor(), "parameters": 0}, 422, "parameters: a JSON object is expected, not 0"),
    ({**tensor(), "parameters": {"topk": 1}}, 422, "parameters.topk: unknown; parameters: top_k, function_to_apply"),
    (
        {**tensor(), "parameters": {"binary_data_output": 1}},
        422,
        "parameters.binary_data_output: 1 is not allowed; allowed: true",
    ),
    (
        {**tensor(), "outputs": [{"name": "logits"}]},
        422,
        "outputs[0].name: 'logits' is no output of this model; allowed: output",
    ),
    ({**tensor(), "outputs": [{"name": "label"}] * 2}, 422, "outputs[1].name: 'label' is there twice"),
    (
        {**tensor(), "outputs": [{"name": "label", "parameters": {"classification": 0}}]},
        422,
        "outputs[0].parameters.classification: 0 is not allowed; allowed: a number of classes from 1 on",
    ),
]


@pytest.mark.parametrize(("content", "status", "expected"), V2_MISTAKES)
def test_a_bad_tensor_is_told_with_its_value_and_what_is_allowed(replicas, content, status, expected):
    answer = post(replicas["classification"], "/v2/models/m/infer", json=content)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert expected in answer.json()["error"]
    assert answer.headers["x-model-version"] == "1"


@pytest.mark.parametrize(
    ("size", "data", "status", "expected"),
    [
        (5, b"\x01\x00\x00\x00a", 200, ""),
        (6, b"\x01\x00\x00\x00a", 400, "binary_data_size: 6 bytes, but only 5 are left of the body"),
        (4, b"\x01\x00\x00\x00a", 400, "element 0 is announced with 1 bytes, but only 0 are left"),
        (
            5,
            b"\x01\x00\x00\x00aa",
            400,
            "6 bytes follow the JSON part of the body, but binary_data_size of all inputs together is 5",
        ),
        (5, b"\xff\xff\xff\xffa", 400, "element 0 is announced with 4294967295 bytes, but only 1 are left"),
        (2, b"\x01\x00", 400, "element 0 is announced with 1 bytes, but only 0 are left"),
        (0, b"", 400, "its binary data have 0 elements, but shape says 1"),
        (10, b"\x01\x00\x00\x00a\x01\x00\x00\x00b", 400, "its binary data have 1 elements, and 5 bytes more, but shape says 1"),
        (5, b"\x01\x00\x00\x00\xff", 422, "inputs[0]: element 0 is not UTF-8: invalid start byte at byte 0"),
        (-1, b"", 422, "inputs[0].parameters.binary_data_size: -1 is not a number of bytes"),
        (True, b"", 422, "inputs[0].parameters.binary_data_size: True is not a number of bytes"),
    ],
)
def test_binary_data_that_lie_about_their_lengths_are_refused(replicas, size, data, status, expected):
    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]
    head = json.dumps({"inputs": inputs}).encode()
    answer = post(
        replicas["classification"], "/v2/models/m/infer", content=head + data, headers={BINARY_HEADER: str(len(head))}
    )
    assert answer.status_code == status, answer.text
    assert expected in answer.text


@pytest.mark.parametrize("length", ["-1", "x", "1000000", "9" * 4000, "1.5"])
def test_a_length_of_the_json_part_that_is_none_is_refused(replicas, length):
    answer = post(replicas["classification"], "/v2/models/m/infer", content=b"{}", headers={BINARY_HEADER: length})
    assert answer.status_code == 400
    assert "is not a number of bytes up to 2, the length of the body" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        ({}, 422, 'instances: a list of 1 to 8 inputs is expected, not None; example: {"instances": ["I like you"]}'),
        ({"instances": []}, 422, "instances: a list of 1 to 8 inputs is expected, not a list of 0"),
        ({"instances": ["a"] * 9}, 422, "not a list of 9"),
        ({"instances": "a"}, 422, "not 'a'"),
        ({"instances": ["a", " "]}, 422, "instances[1]: text is empty"),
        ({"instances": ["a", {"words": "b"}]}, 422, "instances[1].text: missing; allowed: text, text_pair"),
        ({"instances": ["a"], "signature_name": "x"}, 422, "unknown key 'signature_name'; allowed: instances, parameters"),
        ([], 400, "the body must be a JSON object"),
    ],
)
def test_bad_instances_are_told_with_their_position(replicas, content, status, expected):
    answer = post(replicas["classification"], "/v1/models/m:predict", json=content)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert expected in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "kind", "expected"),
    [
        ({"inputs": []}, 400, "Empty", "inputs: the list is empty"),
        ([], 400, "Validation", "the body must be a JSON object"),
        ({}, 422, "Validation", 'the key "inputs" is missing'),
        ({"inputs": " "}, 422, "Validation", "inputs: text is empty"),
        (
            {"inputs": ["a", "b", "c"]},
            422,
            "Validation",
            "inputs: a list of one text, or of two that belong together, is expected",
        ),
        ({"inputs": [["a"], []]}, 422, "Validation", "inputs[1]: a list of one text"),
        ({"inputs": [["a"], "b"]}, 200, "", ""),
        ({"inputs": [["a"], [7]]}, 422, "Validation", "inputs[1]: a text must be a string, not int (7)"),
        ({"inputs": [["a"]] * 9}, 422, "Validation", "inputs: a batch of 1 to 8 inputs is allowed, this one has 9"),
        ({"inputs": "a", "truncate": None}, 200, "", ""),
        ({"inputs": "a", "raw_scores": 1}, 422, "Validation", "raw_scores: 1 is not allowed; allowed: true, false"),
        ({"inputs": "a", "truncation_direction": "left"}, 422, "Validation", "truncation_direction: 'left' is not allowed"),
        ({"inputs": "a", "top_k": 1}, 422, "Validation", "unknown key 'top_k'; allowed: inputs, raw_scores, truncate"),
    ],
)
def test_tei_is_told_mistakes_in_its_own_shape(replicas, content, status, kind, expected):
    answer = post(replicas["classification"], "/predict", json=content)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert (list(answer.json()), answer.json()["error_type"]) == (["error", "error_type"], kind)
        assert expected in answer.json()["error"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotReady("x"), 503, "Unhealthy"),
        (Overloaded("x"), 429, "Overloaded"),
        (NotFinite("x"), 424, "Backend"),
        (InvalidInput("x"), 422, "Validation"),
        (EmptyInput("x"), 400, "Empty"),
        (Unauthenticated("x", sent=False), 401, "Validation"),
    ],
)
def test_errors_of_the_service_are_those_that_tei_names(error, status, kind):
    assert tei.status(error) == status
    assert json.loads(tei.render_error(error)) == {"error": "x", "error_type": kind}


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("POST", "/v2/models/other/infer", 404, "no path '/v2/models/other/infer' here"),
        ("POST", "/v1/models/other:predict", 404, "no path '/v1/models/other:predict' here"),
        ("POST", "/v2/models/m/versions/7/infer", 404, "version '7' of m does not run here; those that do: 1"),
        ("GET", "/v2/models/m/versions/x/ready", 404, "version 'x' of m does not run here"),
        ("GET", "/v2/models/m/infer", 405, "GET is not allowed here; use POST"),
        ("POST", "/v2/models/m/ready", 405, "POST is not allowed here; use GET"),
    ],
)
def test_a_path_that_is_not_there_is_told(replicas, method, path, status, expected):
    answer = httpx.request(method, f"{replicas['classification'].url}{path}")
    assert answer.status_code == status
    assert expected in answer.json()["error"]


@pytest.mark.parametrize("path", CALLS)
def test_a_type_that_a_dialect_does_not_read_is_refused_by_name(replicas, path):
    answer = post(replicas["classification"], path, content=b"{}", headers={"content-type": "text/xml"})
    assert answer.status_code == 415
    assert "content type 'text/xml'; allowed: application/json" in answer.json()["error"]
