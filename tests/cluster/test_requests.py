"""What the service answers to good and bad requests, through HAProxy: statuses, sentences and headers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import TEXT, Service

pytestmark = pytest.mark.cluster

JSON = {"content-type": "application/json"}
LARGE = 10 * 1024 * 1024


def test_an_answer_names_its_version_its_times_and_the_request_once(steady: Service) -> None:
    answer = steady.predict("steady")
    assert answer.status_code == 200
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert len(answer.headers["x-request-id"]) >= 32
    assert answer.headers["x-model-version"] == str(steady.registry.champion("steady").version)
    assert float(answer.headers["x-queue-ms"]) >= 0
    assert float(answer.headers["x-inference-ms"]) > 0
    assert answer.headers["x-request-id"] != steady.predict("steady").headers["x-request-id"]


@pytest.mark.parametrize("content", [b'{"inputs": "good"}', b"bad"])
def test_a_request_id_that_was_sent_comes_back_once(steady: Service, content: bytes) -> None:
    answer = steady.http.post("/models/steady", content=content, headers={**JSON, "x-request-id": "order-17"})
    assert answer.headers.get_list("x-request-id") == ["order-17"]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "sentence"),
    [
        ("POST", "/models/steady", {"content": b'{"inputs": ', "headers": JSON}, 400, "the body is not valid JSON: EOF"),
        ("POST", "/models/steady", {"content": b"", "headers": JSON}, 400, "the body is not valid JSON"),
        ("POST", "/models/steady", {"json": ["a"]}, 400, "the body must be a JSON object"),
        (
            "POST",
            "/models/steady",
            {"content": b"hello", "headers": {"content-type": "text/plain"}},
            415,
            "content type 'text/plain'; allowed: application/json",
        ),
        ("POST", "/models/steady", {"json": {"text": "x"}}, 422, "unknown key 'text'; allowed: inputs, parameters, options"),
        ("POST", "/models/steady", {"json": {"inputs": " "}}, 422, "text is empty; send at least one character"),
        ("POST", "/models/steady", {"json": {"inputs": 7}}, 422, "inputs: a text must be a string, not int (7)"),
        ("POST", "/models/steady", {"json": {"inputs": ["a", None]}}, 422, "a text must be a string, not NoneType (None)"),
        ("POST", "/models/steady", {"json": {"inputs": []}}, 422, "a list of 1 to 256 inputs is allowed, this one has 0"),
        ("POST", "/models/steady", {"json": {"inputs": "a", "parameters": {"top_k": 0}}}, 422, "parameters.top_k: "),
        ("GET", "/models/steady", {}, 405, "GET is not allowed here; use POST"),
        ("POST", "/models/steady/info", {}, 405, "POST is not allowed here; use GET"),
        ("GET", "/models/steady/nowhere", {}, 404, "no path '/nowhere' here"),
        (
            "POST",
            "/models/nobody",
            {"json": {"inputs": "a"}},
            404,
            "unknown model 'nobody'; declared models: loop, steady, runs",
        ),
        ("GET", "/nowhere", {}, 404, "Not Found: GET /nowhere"),
        ("DELETE", "/api/models", {}, 405, "Method Not Allowed: DELETE /api/models"),
        ("GET", "/api/models/nobody", {}, 404, "unknown model 'nobody'; declared models: loop, steady, runs"),
        ("GET", "/api/models/steady/versions/99", {}, 404, "steady has no version 99; its versions go from 1 to "),
        ("POST", "/api/models/steady/promotions", {"json": {"version": 99}}, 404, "steady has no version 99"),
        ("POST", "/api/models/steady/promotions", {"json": {"version": "x"}}, 422, "version: "),
        ("POST", "/api/models/steady/promotions", {"content": b"{", "headers": JSON}, 400, "JSON"),
        ("POST", "/api/models/steady/promotions", {"json": {"version": 1, "forse": True}}, 422, "forse: unknown key"),
        ("POST", "/api/models/steady/runs", {"json": {"set": ["training.epohcs=3"]}}, 422, "did you mean 'epochs'?"),
        ("POST", "/api/models/steady/runs", {"json": {"set": ["training.epochs=0"]}}, 422, "training.epochs: 0 is not allowed"),
        ("GET", "/api/runs/nobody", {}, 404, "no run 'nobody'; `baton runs MODEL` lists them"),
    ],
)
def test_a_bad_request_is_answered_with_what_is_wrong(
    steady: Service, method: str, path: str, options: dict[str, Any], status: int, sentence: str
) -> None:
    answer = steady.http.request(method, path, **options)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]


def test_a_version_that_needs_force_needs_a_reason(steady: Service) -> None:
    other = 1 if steady.registry.champion("steady").version != 1 else 2
    answer = steady.promote("steady", other, force=True)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "force needs a reason; it stays in the history"


def chunks() -> Iterator[bytes]:
    for _ in range(LARGE // 65536):
        yield b" " * 65536


@pytest.mark.parametrize("body", ["announced", "chunked"])
def test_a_body_of_ten_megabytes_is_answered_413_and_not_cut_off(steady: Service, body: str) -> None:
    content = b" " * LARGE if body == "announced" else chunks()
    answer = steady.http.post("/models/steady", content=content, headers=JSON)
    assert answer.status_code == 413
    assert "1,048,576" in answer.json()["error"]
    assert steady.predict("steady").status_code == 200


def test_a_client_that_sends_all_of_a_large_body_before_it_reads_gets_the_answer(steady: Service) -> None:
    """httpx forgives a connection that is closed while it writes; most clients do not."""
    head = f"POST /models/steady HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {LARGE}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", steady.config.http.port), timeout=30) as connection:
        connection.sendall(head.encode() + b" " * LARGE)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_request_with_more_texts_than_allowed_is_refused_and_says_how_many_it_has(steady: Service) -> None:
    with httpx.Client(base_url=steady.url, timeout=60) as http:
        good = http.post("/models/steady", json={"inputs": [TEXT] * 256, "parameters": {"top_k": 1}})
        bad = http.post("/models/steady", json={"inputs": [TEXT] * 257})
    assert [len(scores) for scores in good.json()] == [1] * 256
    assert (bad.status_code, "this one has 257" in bad.json()["error"]) == (422, True)
