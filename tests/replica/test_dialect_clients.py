"""Clients that other people wrote read our answers: the Hugging Face hub's, in Python and JavaScript, and Triton's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.support.dialects import INPUTS, LABELS, Served
from tests.support.programs.npm import npm_install

TEXT = "my invoice is wrong"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it counts our own service among the hub's


def default(served: Served, inputs: Any, **parameters: Any) -> Any:
    return httpx.post(served.url, json={"inputs": inputs, "parameters": parameters}, timeout=60).json()


@pytest.fixture
def client(replicas) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of the classifier, at its base path."""
    client = triton.InferenceServerClient(replicas["classification"].url.removeprefix("http://"))
    yield client
    client.close()


def texts(name: str, values: list[str], *, binary: bool) -> Any:
    tensor = triton.InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value.encode()] for value in values], dtype=np.object_), binary_data=binary)
    return tensor


# --- huggingface_hub -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("online")
def test_the_hubs_client_reads_the_answers_of_three_tasks(replicas):
    def client(task: str) -> InferenceClient:
        return InferenceClient(model=replicas[task].url)

    rows = client("classification").text_classification(TEXT, top_k=2)
    expected = default(replicas["classification"], TEXT, top_k=2)[0]
    assert [(row.label, row.score) for row in rows] == [(row["label"], pytest.approx(row["score"])) for row in expected]
    entities = client("ner").token_classification(TEXT, aggregation_strategy="simple")
    expected = default(replicas["ner"], TEXT, aggregation_strategy="simple")
    assert [(it.word, it.start, it.end) for it in entities] == [(it["word"], it["start"], it["end"]) for it in expected]
    answer = client("qa").question_answering(question="which word?", context=TEXT)
    expected = default(replicas["qa"], {"question": "which word?", "context": TEXT})
    assert (answer.answer, answer.start, answer.end) == (expected["answer"], expected["start"], expected["end"])


@pytest.mark.usefixtures("online")
def test_the_hubs_asynchronous_client_reads_the_answers_of_three_tasks(replicas):
    async def ask() -> list[Any]:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(AsyncInferenceClient(model=replicas[task].url))
                for task in ("classification", "ner", "qa")
            ]
            answers = await asyncio.gather(
                clients[0].text_classification(TEXT, top_k=2),
                clients[1].token_classification(TEXT, aggregation_strategy="simple"),
                clients[2].question_answering(question="which word?", context=TEXT),
            )
            return list(answers)

    rows, entities, answer = asyncio.run(ask())
    assert [row.label for row in rows] == [row["label"] for row in default(replicas["classification"], TEXT, top_k=2)[0]]
    expected = default(replicas["ner"], TEXT, aggregation_strategy="simple")
    assert [(it.word, it.start, it.end) for it in entities] == [(it["word"], it["start"], it["end"]) for it in expected]
    expected = default(replicas["qa"], {"question": "which word?", "context": TEXT})
    assert (answer.answer, answer.start, answer.end) == (expected["answer"], expected["start"], expected["end"])


@pytest.mark.usefixtures("online")
def test_the_hubs_client_reads_what_a_model_writes_as_a_summary_and_as_a_translation(replicas):
    served = replicas["seq2seq"]
    client = InferenceClient(model=served.url)
    [expected] = default(served, TEXT)
    assert expected["generated_text"]
    assert client.summarization(TEXT).summary_text == expected["generated_text"]
    assert client.translation(TEXT).translation_text == expected["generated_text"]
    [short] = default(served, TEXT, max_new_tokens=3)
    assert len(short["generated_text"]) == 3, "a token is a character"
    assert client.summarization(TEXT, generate_parameters={"max_new_tokens": 3}).summary_text == short["generated_text"]
    assert client.translation(TEXT, generate_parameters={"max_new_tokens": 3}).translation_text == short["generated_text"]
    with pytest.raises(HfHubHTTPError, match=r"422.*") as refused:
        client.translation(TEXT, src_lang="en", tgt_lang="fr")
    assert refused.value.response.json()["error"].startswith("parameters.src_lang: unknown; parameters: max_new_tokens")


@pytest.mark.usefixtures("online")
def test_the_hubs_client_reads_what_a_model_is(replicas):
    info = InferenceClient(model=replicas["classification"].url, provider="hf-inference").get_endpoint_info()
    assert info["model_type"]["classifier"]["id2label"]["0"] == LABELS["classification"][0]


# --- @huggingface/inference ----------------------------------------------------------------------------------------------

PACKAGE = "@huggingface/inference@4.13.30"

SCRIPT = """
import { InferenceClient } from "@huggingface/inference";
const [text, urls] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const endpoint = (task) => new InferenceClient("a-key").endpoint(urls[task]);
const answers = await Promise.all([
  endpoint("classification").textClassification({ inputs: text, parameters: { top_k: 2 } }),
  endpoint("ner").tokenClassification({ inputs: text, parameters: { aggregation_strategy: "simple" } }),
  endpoint("qa").questionAnswering({ inputs: { question: "which word?", context: text } }),
  endpoint("seq2seq").summarization({ inputs: text }),
  endpoint("seq2seq").translation({ inputs: text }),
]);
const refusal = await endpoint("classification").textClassification({ inputs: "" }).catch((error) => error.message);
console.log(JSON.stringify([...answers, refusal]));
"""


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which programs can import the hub's JavaScript client."""
    return npm_install(PACKAGE, tmp_path_factory.mktemp("javascript"))


def test_the_hubs_client_in_javascript_reads_the_answers_of_four_tasks(replicas, javascript):
    (javascript / "ask.mjs").write_text(SCRIPT)
    urls = {task: served.url for task, served in replicas.items()}
    command = ["node", "ask.mjs", json.dumps(TEXT), json.dumps(urls)]
    asked = subprocess.run(command, check=False, cwd=javascript, capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0, asked.stderr
    rows, entities, answer, summary, translation, refusal = json.loads(asked.stdout)
    assert rows == default(replicas["classification"], TEXT, top_k=2)[0]
    assert entities == default(replicas["ner"], TEXT, aggregation_strategy="simple")
    assert answer == default(replicas["qa"], {"question": "which word?", "context": TEXT})
    assert [summary, translation] == default(replicas["seq2seq"], TEXT) * 2
    assert refusal == f"Failed to perform inference: {default(replicas['classification'], '')['error']}"


# --- tritonclient --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_answer", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritons_client_gets_the_answers_of_the_default_dialect(replicas, client, binary, binary_answer, compression):
    values = INPUTS["classification"]
    result = client.infer(
        "m",
        [texts("text", values, binary=binary)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_answer) for name in ("output", "label", "score")],
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
        request_id="mine",
    )
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("mine", "1")
    expected = default(replicas["classification"], values)
    best = [rows[0] for rows in expected]
    documents = [json.loads(document) for document in result.as_numpy("output")]
    assert [[row["label"] for row in rows] for rows in documents] == [[row["label"] for row in rows] for rows in expected]
    labels = [it.decode() if isinstance(it, bytes) else it for it in result.as_numpy("label")]
    assert labels == [row["label"] for row in best]
    assert result.as_numpy("score").dtype == np.float32
    assert result.as_numpy("score") == pytest.approx([row["score"] for row in best], abs=1e-5)


def test_tritons_client_asks_for_all_outputs_without_naming_them_and_for_classes(client):
    result = client.infer("m", [texts("text", [TEXT], binary=True)])
    assert [tensor["name"] for tensor in result.get_response()["outputs"]] == ["output", "label", "score"]
    wanted = [triton.InferRequestedOutput("score", class_count=2)]
    found = client.infer("m", [texts("text", [TEXT], binary=True)], outputs=wanted, model_version="1").as_numpy("score")
    assert found.shape == (1, 2)
    assert found[0, 0].decode().split(":")[2] in LABELS["classification"]


def test_tritons_client_asks_a_question_of_a_context(replicas):
    client = triton.InferenceServerClient(replicas["qa"].url.removeprefix("http://"))
    [one, other] = INPUTS["qa"]
    inputs = [texts(name, [one[name], other[name]], binary=True) for name in ("question", "context")]
    documents = [json.loads(document) for document in client.infer("m", inputs).as_numpy("output")]
    client.close()
    expected = default(replicas["qa"], INPUTS["qa"])
    assert [(it["answer"], it["start"], it["end"]) for it in documents] == [
        (it["answer"], it["start"], it["end"]) for it in expected
    ]


def test_tritons_client_reads_what_the_server_has_and_whether_it_is_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "1")
    assert not client.is_model_ready("m", "7")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "baton"
    assert client.get_model_metadata("m")["versions"] == ["1"]
    assert client.get_model_repository_index() == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]


def test_tritons_client_is_told_what_is_wrong(client):
    with pytest.raises(InferenceServerException, match="'words' is no input of this model; allowed: text, text_pair, args"):
        client.infer("m", [texts("words", [TEXT], binary=True)])
