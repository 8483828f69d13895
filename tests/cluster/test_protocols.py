"""The other wire dialects through HAProxy: paths at the root reach a model's replicas, and the control plane has the rest."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import http as triton

from baton.store.feedback.predictions import AnswerName
from tests.cluster.conftest import TEXT, Service
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}


def default(service: Service) -> Any:
    return service.predict("steady").json()[0]


def best(rows: list[dict[str, Any]]) -> tuple[str, float]:
    return rows[0]["label"], pytest.approx(rows[0]["score"], abs=1e-3)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/models/steady/predict", {"inputs": [[TEXT]]}),
        ("/models/steady/v2/models/steady/infer", {"inputs": [TENSOR]}),
        ("/v2/models/steady/infer", {"inputs": [TENSOR]}),
        ("/models/steady/v1/models/steady:predict", {"instances": [TEXT]}),
        ("/v1/models/steady:predict", {"instances": [TEXT]}),
    ],
)
def test_every_dialect_answers_like_the_default_one_and_its_answers_can_be_corrected(
    steady: Service, path: str, content: dict[str, Any]
) -> None:
    answer = steady.http.post(path, json=content)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    if "outputs" in body:
        [rows] = [json.loads(tensor["data"][0]) for tensor in body["outputs"] if tensor["name"] == "output"]
        assert body["id"] == answer.headers["x-request-id"]
    else:
        [rows] = body.get("predictions") if isinstance(body, dict) else body
    assert best(default(steady)) == best(rows)
    assert answer.headers["x-model-version"] == str(steady.registry.champion("steady").version)
    assert float(answer.headers["x-inference-ms"]) > 0
    answer_id = answer.headers["x-answer-id"]
    name = AnswerName(answer_id, None, 0)
    until(lambda: steady.registry.predictions.find("steady", [name]), 60, "the answer is in the log")
    told = steady.http.post("/api/models/steady/feedback", json={"answer_id": answer_id, "label": rows[0]["label"]})
    assert told.json()["accepted"] == 1, told.text


@pytest.mark.parametrize("path", ["", "/models/steady"], ids=["root", "base path"])
def test_tritons_client_works_at_the_root_and_at_the_models_path(steady: Service, path: str) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{steady.config.http.port}{path}")
    text = triton.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([TEXT.encode()], dtype=np.object_))
    result = client.infer("steady", [text], request_compression_algorithm="gzip")
    assert result.as_numpy("label").tolist() == [default(steady)[0]["label"].encode()]
    assert client.is_server_live()
    assert client.is_model_ready("steady")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "baton"
    assert client.get_model_metadata("steady")["inputs"][0]["name"] == "text"
    ready = [entry["name"] for entry in client.get_model_repository_index() if entry["state"] == "READY"]
    assert "steady" in ready
    client.close()


def test_the_root_is_ready_when_the_service_is(steady: Service) -> None:
    assert steady.http.get("/v2/health/live").json() == {"live": True}
    until(lambda: steady.http.get("/v2/health/ready").json() == {"ready": True}, 60, "the root is ready")


def test_a_model_at_the_root_that_is_not_declared_is_told_the_declared_ones(steady: Service) -> None:
    for path in ("/v2/models/nobody/infer", "/v1/models/nobody:predict"):
        answer = steady.http.post(path, json={})
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("unknown model 'nobody'; declared models: loop, steady, runs")


def test_a_bad_request_at_the_root_is_answered_in_its_dialect(steady: Service) -> None:
    answer = steady.http.post("/v2/models/steady/infer", json={"inputs": [{**TENSOR, "datatype": "FP32"}]})
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert "inputs[0].datatype: 'FP32' is not allowed; allowed: BYTES" in answer.json()["error"]


def test_chunked_and_packed_bodies_and_http_1_0_pass(steady: Service) -> None:
    body = gzip.compress(json.dumps({"inputs": TEXT}).encode())

    def pieces() -> Iterator[bytes]:
        for byte in body:
            yield bytes([byte])

    answer = steady.http.post("/models/steady", content=pieces(), headers={"content-encoding": "gzip"})
    assert best(answer.json()[0]) == best(default(steady))
    assert httpx.head(f"{steady.url}/models/steady/health").status_code == 200
    plain = json.dumps({"inputs": TEXT}).encode()
    with socket.create_connection(("127.0.0.1", steady.config.http.port), timeout=30) as connection:
        connection.sendall(b"POST /models/steady HTTP/1.0\r\ncontent-length: %d\r\n\r\n%s" % (len(plain), plain))
        assert b" 200 OK\r\n" in b"".join(iter(lambda: connection.recv(65536), b""))
