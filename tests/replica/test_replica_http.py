"""One replica over ASGI: what it answers, and how it hands over between two real versions."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import RegistryError
from baton.logs import JsonFormatter
from baton.store.feedback.correction import Correction
from baton.store.feedback.predictions import AnswerName
from baton.store.records import Champion, ModelVersion, RolloutMode, RolloutState
from baton.store.registry import Registry
from services.names import REFUSED, ROOM
from services.replica.http import MOST_REFUSED
from services.replica.replica import ModelReplica
from tests.support import replica as replicas
from tests.support.answers import recent
from tests.support.database import migrated_registry
from tests.support.replica import force, served, until
from tests.support.tiny import save_classifier

LABELS = (("billing", "bug", "shipping"), ("one", "two", "three"))
"""Of version 1 and of version 2: an answer shows which one gave it."""

Scenario = Callable[[ModelReplica, httpx.AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def classifiers(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("classifiers")
    return [save_classifier(tiny_base, labels, directory / labels[0]) for labels in LABELS]


@dataclass(frozen=True)
class World:
    """Storage, registry and the settings of model ``m``."""

    url: str
    registry: Registry
    storage: Storage
    settings: ModelSettings
    classifiers: list[Path]

    def publish(self, number: int, **facts: Any) -> ModelVersion:
        version = replicas.publish(self.registry, self.storage, "m", self.classifiers[number - 1], LABELS[number - 1], **facts)
        assert version.number == number
        return version

    def weights(self, version: int) -> Path:
        return Path(self.storage.url) / f"models/m/versions/{version}/model.safetensors"

    def run(self, scenario: Scenario, **serving: Any) -> None:
        """The scenario against a replica that was born now."""
        settings = self.settings.model_copy(update={"serving": self.settings.serving.model_copy(update=serving)})

        async def main() -> None:
            async with asyncio.timeout(120), served(settings, self.url, self.storage) as (replica, client):
                await scenario(replica, client)

        asyncio.run(main())


@pytest.fixture
def empty(tiny_base: Path, classifiers: list[Path], tmp_path: Path) -> World:
    """A declared model without versions."""
    url = f"sqlite:///{tmp_path}/baton.db"
    registry = migrated_registry(url)
    registry.declare_model("m")
    settings = ModelSettings.model_validate(
        {
            "name": "m",
            "task": "classification",
            "base_model": str(tiny_base),
            "data": {"train": "nowhere.jsonl"},
            "serving": {"precision": "fp32", "device": "cpu", "poll_seconds": 600.0, "max_inputs": 8},
        }
    )
    return World(url, registry, Storage(str(tmp_path / "storage")), settings, classifiers)


@pytest.fixture
def world(empty: World) -> World:
    """Versions 1 and 2; 1 is champion."""
    empty.publish(1)
    empty.publish(2)
    force(empty.registry, "m", 1)
    return empty


def spoil(path: Path) -> bytes:
    """Flip a byte in the middle of a file; returns what it was."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    return content


async def ask(client: httpx.AsyncClient, text: str = "where is my invoice?") -> httpx.Response:
    return await client.post("", json={"inputs": text})


def version_of(answer: httpx.Response) -> int:
    """The version that the header names, and that the labels prove."""
    assert answer.status_code == 200, answer.text
    number = int(answer.headers["x-model-version"])
    assert {choice["label"] for choice in answer.json()[0]} == set(LABELS[number - 1])
    return number


# --- answers -------------------------------------------------------------------------------------------------------------


def test_an_answer_holds_all_labels_best_first_and_names_its_version_and_times(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await ask(client)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert answer.headers["x-model-version"] == "1"
        assert float(answer.headers["x-queue-ms"]) >= 0
        assert float(answer.headers["x-inference-ms"]) > 0
        [choices] = answer.json()
        scores = [choice["score"] for choice in choices]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
        assert {choice["label"] for choice in choices} == set(LABELS[0])

    world.run(scenario)


def test_a_list_is_answered_in_its_order_and_each_text_as_if_it_were_alone(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        texts = ["the parcel", "a crash " * 40, "日本語", "refund"]
        together = (await client.post("", json={"inputs": texts, "parameters": {"top_k": 1}})).json()
        alone = [(await client.post("", json={"inputs": text, "parameters": {"top_k": 1}})).json()[0] for text in texts]
        assert [choices[0]["label"] for choices in together] == [choices[0]["label"] for choices in alone]
        for choices, expected in zip(together, alone, strict=True):
            assert choices[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)

    world.run(scenario)


def test_many_requests_at_once_are_all_answered_each_with_its_own(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        texts = [f"text {'word ' * (number % 7)} {number}" for number in range(60)]
        answers = await asyncio.gather(*[ask(client, text) for text in texts])
        for text, answer in list(zip(texts, answers, strict=True))[::10]:
            expected = (await ask(client, text)).json()[0]
            assert answer.json()[0][0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
        assert {answer.status_code for answer in answers} == {200}

    world.run(scenario)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON", None])
def test_json_is_taken_under_each_of_its_names_and_without_one(world, content_type):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        headers = {"content-type": content_type} if content_type else {}
        assert (await client.post("", content=b'{"inputs": "a"}', headers=headers)).status_code == 200

    world.run(scenario)


def test_health_and_info_tell_what_is_served_and_its_limits(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).json() == {"status": "ok", "version": 1}
        info = (await client.get("/info")).json()
        assert (info["model"], info["task"], info["version"], info["sequence"]) == ("m", "classification", 1, 1)
        assert (info["replica"], info["error"], info["engine"]) == ("r1", None, "torch cpu fp32")
        assert (info["prepared"], info["unlogged"], info["unavailable"]) == ([], 0, False)
        assert (info["max_client_batch_size"], info["max_input_length"], info["max_body_bytes"]) == (8, 128, 1_048_576)

    world.run(scenario)


# --- scores --------------------------------------------------------------------------------------------------------------


def test_the_temperature_of_a_version_changes_its_scores_and_no_label(empty):
    empty.publish(1)
    replicas.publish(empty.registry, empty.storage, "m", empty.classifiers[0], LABELS[0], temperature=0.05)
    force(empty.registry, "m", 1)

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        before = (await ask(client)).json()[0]
        await replica.prepare(2)
        await replica.commit(2, force(empty.registry, "m", 2).sequence)
        after = (await ask(client)).json()[0]
        assert [choice["label"] for choice in after] == [choice["label"] for choice in before]
        assert after[0]["score"] > before[0]["score"] + 0.01
        assert sum(choice["score"] for choice in after) == pytest.approx(1)

    empty.run(scenario)


def test_the_inputs_with_unsure_answers_are_listed_by_position(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await client.get("/info")).json()["abstain_below"] == pytest.approx(threshold)
        together = await client.post("", json={"inputs": TEXTS})
        scores = [choices[0]["score"] for choices in together.json()]
        unsure = [position for position, score in enumerate(scores) if score < threshold]
        assert 0 < len(unsure) < len(TEXTS), "or this test shows nothing"
        assert together.headers["x-abstain"] == ",".join(map(str, unsure))
        assert "x-abstain" not in (await ask(client, TEXTS[int(np.argmax(scores))])).headers
        logits = await client.post("", json={"inputs": TEXTS, "parameters": {"function_to_apply": "none"}})
        assert "x-abstain" not in logits.headers, "logits are no probabilities"
        counted = {name: value for name, _, value in replica._telemetry.samples(1, 0)}
        assert counted["baton_abstentions_total"] == len(unsure)

    async def measure(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await client.post("", json={"inputs": TEXTS})
        assert "x-abstain" not in answer.headers, "nobody asked for it"
        found.extend(sorted(choices[0]["score"] for choices in answer.json()))

    found: list[float] = []
    world.run(measure)
    threshold = (found[0] + found[-1]) / 2
    world.run(scenario, abstain_below=threshold)


TEXTS = ["the parcel", "a crash " * 40, "日本語", "refund", "charged twice", "invoice " * 9]


def test_a_wanted_precision_becomes_the_threshold_of_each_version(empty):
    empty.publish(1, metrics={"f1": 0.5, "confidence": {"answers": 900, "curve": [[0.2, 0.8, 1.0], [0.9999, 0.95, 0.7]]}})
    empty.publish(2)
    force(empty.registry, "m", 1)

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await client.get("/info")).json()["abstain_below"] == 0.9999
        assert (await ask(client)).headers["x-abstain"] == "0", "an untrained head is sure of nothing"
        await replica.prepare(2)
        await replica.commit(2, force(empty.registry, "m", 2).sequence)
        assert (await client.get("/info")).json()["abstain_below"] is None, "nothing judged it"
        assert "x-abstain" not in (await ask(client)).headers

    empty.run(scenario, target_precision=0.9)


def test_an_answer_is_explained_on_request_and_others_are_answered_meanwhile(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        asked = {"inputs": ["my invoice from last week is wrong", "hello"], "parameters": {"explain": True}}
        explained, *others = await asyncio.gather(client.post("", json=asked), *[ask(client) for _ in range(5)])
        assert [answer.status_code for answer in (explained, *others)] == [200] * 6
        for text, [best, *rest] in zip(asked["inputs"], explained.json(), strict=True):
            why = best["explanation"]
            assert [text[part["start"] : part["end"]] for part in why["parts"]] == text.split()
            assert why["baseline"] + sum(part["score"] for part in why["parts"]) == pytest.approx(best["score"], abs=1e-5)
            assert all("explanation" not in choice for choice in rest)
        assert "explanation" not in others[0].text
        plain = await client.post("", json={"inputs": asked["inputs"]})
        for before, after in zip(plain.json(), explained.json(), strict=True):
            assert [choice["label"] for choice in before] == [choice["label"] for choice in after]

    world.run(scenario, max_batch_tokens=1024)


def test_explanations_can_be_turned_off(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await client.post("", json={"inputs": "a", "parameters": {"explain": True}})
        assert answer.status_code == 422
        assert "parameters.explain: m explains no answers (serving.max_explained: 0)" in answer.text

    world.run(scenario, max_explained=0)


@pytest.mark.parametrize(
    ("inputs", "parameters", "complaint"),
    [
        (["a"] * 9, {"explain": True}, "parameters.explain: 9 inputs; at most 8 are explained in one request"),  # `max_inputs`
        ("a", {"explain": True, "function_to_apply": "none"}, "explain is not for function_to_apply 'none'"),
        ({"text": "a", "text_pair": "b"}, {"explain": True}, "answers to pairs of texts are not explained"),
        ("a", {"explain": "why"}, "parameters.explain: "),
    ],
)
def test_what_cannot_be_explained_is_refused(world, inputs, parameters, complaint):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await client.post("", json={"inputs": inputs, "parameters": parameters})
        assert answer.status_code == 422
        assert complaint in answer.json()["error"]
        assert (await ask(client)).status_code == 200

    world.run(scenario, max_inputs=16)


# --- refusals ------------------------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "expected"),
    [
        ("POST", "", {"content": b'{"inputs": ', "headers": JSON}, 400, "the body is not valid JSON: EOF"),
        ("POST", "", {"content": b"", "headers": JSON}, 400, "the body is not valid JSON"),
        ("POST", "", {"json": ["a"]}, 400, "the body must be a JSON object"),
        (
            "POST",
            "/nowhere",
            {"json": {"inputs": "a"}},
            404,
            "no path '/nowhere' here; POST the model's own URL, or GET /health",
        ),
        ("GET", "", {}, 405, "GET is not allowed here; use POST"),
        ("DELETE", "", {}, 405, "DELETE is not allowed here; use POST"),
        ("POST", "/health", {}, 405, "POST is not allowed here; use GET"),
        ("POST", "/info", {}, 405, "POST is not allowed here; use GET"),
        (
            "POST",
            "",
            {"content": b"a", "headers": {"content-type": "text/plain"}},
            415,
            "content type 'text/plain'; allowed: application/json",
        ),
        ("POST", "", {"files": {"inputs": b"a"}}, 415, "content type 'multipart/form-data'; allowed: application/json"),
        ("POST", "", {"json": {"inputs": " "}}, 422, "inputs: text is empty"),
        ("POST", "", {"json": {"inputs": ["a"] * 9}}, 422, "a list of 1 to 8 inputs is allowed, this one has 9"),
        ("POST", "", {"json": {"input": "a"}}, 422, "unknown key 'input'; allowed: inputs, parameters, options"),
        ("POST", "", {"json": {"inputs": "a", "parameters": {"top_k": 0}}}, 422, "parameters.top_k: "),
        ("POST", "", {"content": rb'{"inputs": "a\udc00"}', "headers": JSON}, 400, "the body is not valid JSON: "),
    ],
)
def test_a_bad_request_is_told_why_and_the_next_one_is_answered(world, method, path, options, status, expected):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await client.request(method, path, **options)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert list(answer.json()) == ["error"]
        assert expected in answer.json()["error"]
        assert answer.headers["x-model-version"] == "1"
        assert version_of(await ask(client)) == 1

    world.run(scenario)


def test_an_announced_body_that_is_too_large_is_refused_before_it_is_read(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        pulled = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal pulled
            for _ in range(160):
                pulled += 1
                yield b" " * 65536

        answer = await client.post("", content=body(), headers={**JSON, "content-length": str(160 * 65536)})
        assert answer.status_code == 413
        assert answer.json()["error"] == (
            "the body has 10,485,760 bytes; at most 1,048,576 are allowed (serving.max_body_bytes)"
        )
        assert pulled == 0

    world.run(scenario)


def test_a_body_that_grows_too_large_is_refused_as_soon_as_it_does(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        pulled = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal pulled
            for _ in range(160):
                pulled += 1
                yield b" " * 65536

        answer = await client.post("", content=body(), headers=JSON)
        assert answer.status_code == 413
        assert "the body has more than 1,048,576 bytes" in answer.json()["error"]
        assert pulled == 17

    world.run(scenario)


def test_a_body_in_many_pieces_is_put_together(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        async def body() -> AsyncIterator[bytes]:
            for byte in json.dumps({"inputs": "naïve 😀"}, ensure_ascii=False).encode():
                yield bytes([byte])

        assert version_of(await client.post("", content=body(), headers=JSON)) == 1

    world.run(scenario)


def test_more_requests_than_the_queue_holds_are_told_to_come_back(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*[ask(client) for _ in range(40)])
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert "requests are waiting, the maximum of this replica (serving.max_queue); try again" in refused.json()["error"]
        assert version_of(await ask(client)) == 1

    world.run(scenario, max_queue=1)


def test_a_caller_that_waits_for_a_limited_time_is_told_when_it_is_over(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        held = threading.Event()
        running = asyncio.create_task(replica._batcher.run_in_thread(held.wait))
        try:
            late = await client.post("", json={"inputs": "hello"}, headers={"x-request-timeout-ms": "30"})
            assert late.status_code == 408
            assert late.json()["error"] == "no answer within 30 ms, as x-request-timeout-ms demands"
        finally:
            held.set()
            await running
        in_time = await client.post("", json={"inputs": "hello"}, headers={"x-request-timeout-ms": "60000"})
        assert in_time.status_code == 200

    world.run(scenario)


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5", "3600001", "²", "9" * 5000])
def test_a_limit_that_is_no_time_is_refused_with_what_is_allowed(world, value):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await client.post("", json={"inputs": "hello"}, headers=[(b"x-request-timeout-ms", value.encode("latin-1"))])
        assert answer.status_code == 422
        assert f"x-request-timeout-ms: {value[:12]!r}; allowed: whole numbers from 1 to 3600000" in answer.json()["error"]

    world.run(scenario)


def test_a_champion_of_another_task_is_not_served_and_the_reason_says_so(empty):
    """It used to answer every request with 500 (review H12)."""
    force(empty.registry, "m", empty.publish(1).number)
    changed = replace(empty, settings=empty.settings.model_copy(update={"task": "ner"}))

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        answer = await client.post("", json={"inputs": "Anna lives in Oslo"})
        assert answer.status_code == 503
        assert "v1 has the task classification, but m is declared with ner; train a version" in answer.json()["error"]

    changed.run(scenario)


def test_without_a_champion_it_says_how_to_get_one(empty):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        for answer in (await ask(client), await client.get("/health")):
            assert answer.status_code == 503
            assert answer.json() == {"error": "m has no champion yet; train one: baton train m --wait"}
            assert answer.headers["retry-after"] == "1"
        assert (await client.get("/info")).json()["version"] is None
        assert (await client.post("", content=b"{", headers=JSON)).status_code == 400

    empty.run(scenario)


def test_a_mistake_of_ours_is_told_without_its_details_and_harms_no_neighbour(world, monkeypatch):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        def broken(*_: object) -> bytes:
            raise RuntimeError("secret detail")

        with monkeypatch.context() as patch:
            patch.setattr("services.replica.protocols.huggingface.render", broken)
            answer = await ask(client)
        assert answer.status_code == 500
        assert answer.json() == {"error": "internal error (RuntimeError)"}
        assert version_of(await ask(client)) == 1

    world.run(scenario)


# --- hand-over -----------------------------------------------------------------------------------------------------------


def test_prepare_tells_an_outage_of_the_storage_from_a_version_that_cannot_be_loaded(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        place = Path(world.storage.url)
        shutil.move(place, place.with_name("unmounted"))
        state = await replica.prepare(2)
        assert "is not there; is its volume mounted" in state.error
        assert (state.unavailable, state.version, state.prepared) == (True, 1, ())
        assert version_of(await ask(client)) == 1
        shutil.move(place.with_name("unmounted"), place)
        spoiled = place / "models" / "m" / "versions" / "2" / "model.safetensors"
        spoil(spoiled)
        assert (await replica.prepare(2)).unavailable is False
        spoil(spoiled)  # the same byte back
        state = await replica.prepare(2)
        assert (state.error, state.unavailable, state.prepared) == (None, False, (2,))

    world.run(scenario)


def test_no_log_quotes_what_a_replica_was_asked_whatever_goes_wrong(world, monkeypatch, caplog):
    secret = "Xanthippe"

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        def broken(outputs: object, task: object, single: object) -> bytes:
            raise RuntimeError(f"cannot render {secret}")

        await client.post("", content=f'{{"inputs": "{secret}', headers=JSON)
        await client.post("", json={"inputs": secret, "parameters": {"top_k": secret}})
        await client.post(f"/{secret}", json={"inputs": secret})
        with monkeypatch.context() as patch:
            patch.setattr("services.replica.protocols.huggingface.render", broken)
            assert (await ask(client, secret)).status_code == 500
        await ask(client, secret)

    serve = logging.getLogger("ray.serve")  # it does not propagate
    serve.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG, logger="ray.serve"):
            world.run(scenario)
    finally:
        serve.removeHandler(caplog.handler)
    [failure] = [record for record in caplog.records if record.exc_info]
    assert (failure.model, failure.version) == ("m", 1)
    assert "builtins.RuntimeError" in failure.exc_text
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert secret not in json.dumps(lines) + caplog.text


def test_prepare_loads_beside_the_serving_version_and_commit_swaps(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        state = await replica.prepare(2)
        assert (state.error, state.version, state.prepared) == (None, 1, (2,))
        assert version_of(await ask(client)) == 1
        state = await replica.commit(2, 2)
        assert (state.error, state.version, state.sequence, state.prepared) == (None, 2, 2, (1,))  # 1 waits for a rollback
        assert version_of(await ask(client)) == 2
        assert (await client.get("/health")).json()["version"] == 2

    world.run(scenario)


def test_a_trial_that_begins_while_the_registry_is_read_goes_on(world, monkeypatch):
    """The answer «no trial» is then older than the trial."""

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        proposed = world.registry.rollouts.propose("m", 2, 1, mode=RolloutMode.CANARY, percent=50.0)
        rollout = replace(proposed, state=RolloutState.CANARY)
        await replica.prepare(2)
        loop = asyncio.get_running_loop()

        def begin_and_know_nothing(model: str) -> None:
            asyncio.run_coroutine_threadsafe(replica.try_out(rollout), loop).result(60)

        monkeypatch.setattr(replica._registry.rollouts, "active", begin_and_know_nothing)
        await replica._follow_trial()
        assert (await replica.state()).trial == 2
        monkeypatch.setattr(replica._registry.rollouts, "active", lambda model: None)
        await replica._follow_trial()
        assert (await replica.state()).trial is None

    world.run(scenario)


def test_a_rollback_is_a_commit_of_the_old_version_with_a_later_move(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        await replica.prepare(2)
        await replica.commit(2, 2)
        await replica.prepare(1)
        state = await replica.commit(1, 3)
        assert (state.version, state.sequence) == (1, 3)
        assert version_of(await ask(client)) == 1

    world.run(scenario)


def test_a_commit_without_a_prepare_loads_first(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        state = await replica.commit(2, 2)
        assert (state.error, state.version) == (None, 2)
        assert version_of(await ask(client)) == 2

    world.run(scenario)


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_a_commit_of_an_older_or_the_same_move_is_ignored(world, sequence):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        await replica.commit(2, 2)
        await replica.prepare(1)
        state = await replica.commit(1, sequence)
        assert (state.version, state.sequence) == (2, 2)
        assert version_of(await ask(client)) == 2

    world.run(scenario)


def test_preparing_what_serves_already_changes_nothing(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        state = await replica.prepare(1)
        assert (state.error, state.version, state.prepared) == (None, 1, ())
        assert version_of(await ask(client)) == 1

    world.run(scenario)


def test_a_corrupt_version_cannot_be_prepared_and_the_old_one_goes_on_serving(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        content = spoil(world.weights(2))
        state = await replica.prepare(2)
        assert "model.safetensors was altered: its SHA-256 is not the manifest's" in state.error
        assert (state.version, state.prepared) == (1, ())
        assert version_of(await ask(client)) == 1
        state = await replica.commit(2, 2)
        assert (state.version, state.sequence) == (1, 1)
        assert "was altered" in state.error
        assert version_of(await ask(client)) == 1
        world.weights(2).write_bytes(content)
        assert (await replica.commit(2, 2)).error is None
        assert version_of(await ask(client)) == 2

    world.run(scenario)


@pytest.mark.parametrize("version", [3, 99])
def test_a_version_that_does_not_exist_cannot_be_prepared(world, version):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert f"m has no version {version}; its versions go from 1 to 2" in (await replica.prepare(version)).error
        assert version_of(await ask(client)) == 1

    world.run(scenario)


def test_requests_during_a_hand_over_are_all_answered_by_one_version_each(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        versions: list[int] = []
        done = asyncio.Event()

        async def keep_asking() -> None:
            while not done.is_set():
                versions.append(version_of(await ask(client)))

        async def asked(more: int) -> None:
            goal = len(versions) + more

            async def enough() -> bool:
                return len(versions) >= goal

            await until(enough, "requests go on being answered")

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(keep_asking())
            await asked(20)
            assert set(versions) == {1}
            await replica.prepare(2)
            await replica.commit(2, 2)
            after = await ask(client)
            await asked(20)
            done.set()
        assert version_of(after) == 2
        assert set(versions) == {1, 2}
        assert versions == sorted(versions)

    world.run(scenario)


# --- truth is in the registry --------------------------------------------------------------------------------------------


def test_the_same_request_again_is_answered_from_the_cache_and_logged_until_another_version_serves(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        body = {"inputs": ["where is my invoice?", "a crash"]}
        first = await client.post("", json=body, headers={"x-request-id": "r1"})
        again = await client.post("", json=body, headers={"x-request-id": "r2"})
        assert float(first.headers["x-inference-ms"]) > 0
        assert (again.headers["x-inference-ms"], again.content) == ("0.00", first.content)
        assert counted(replica)["baton_batch_inputs_sum"] == 2

        async def written() -> Any:
            return logged(world, "r2", 1)

        assert (await until(written, "the second request in the log")).label == first.json()[1][0]["label"]
        assert (await replica.prepare(2)).error is None
        await replica.commit(2, force(world.registry, "m", 2).sequence)
        after = await client.post("", json=body)
        assert (after.headers["x-model-version"], after.json() != first.json()) == ("2", True)
        assert float(after.headers["x-inference-ms"]) > 0

    world.run(scenario, cache=100)


def test_a_promotion_made_behind_its_back_is_followed(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert version_of(await ask(client)) == 1
        force(world.registry, "m", 2)

        async def followed() -> bool:
            return version_of(await ask(client)) == 2

        await until(followed, "version 2 serves")
        assert (await replica.state()).sequence == 2

    world.run(scenario, poll_seconds=0.02)


def test_a_replica_without_a_champion_takes_up_the_first_one(empty):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await ask(client)).status_code == 503
        empty.publish(1)
        force(empty.registry, "m", 1)

        async def serves() -> bool:
            return (await ask(client)).status_code == 200

        await until(serves, "the first champion serves")
        assert version_of(await ask(client)) == 1

    empty.run(scenario, poll_seconds=0.02)


def test_a_replica_born_with_a_corrupt_champion_says_so_and_recovers_when_it_is_repaired(world):
    content = spoil(world.weights(1))

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        for answer in (await ask(client), await client.get("/health")):
            assert answer.status_code == 503
            assert "model.safetensors was altered" in answer.json()["error"]
        assert "was altered" in (await replica.state()).error
        world.weights(1).write_bytes(content)

        async def serves() -> bool:
            return (await ask(client)).status_code == 200

        await until(serves, "it recovers")
        assert version_of(await ask(client)) == 1
        assert (await replica.state()).error is None

    world.run(scenario, poll_seconds=0.02)


def test_a_replica_born_with_a_corrupt_champion_serves_the_next_one(world):
    spoil(world.weights(1))

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await replica.prepare(2)).error is None
        assert (await replica.commit(2, 2)).error is None
        assert version_of(await ask(client)) == 2

    world.run(scenario)


def test_a_champion_that_turns_out_corrupt_leaves_the_old_one_in_service(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        spoil(world.weights(2))
        force(world.registry, "m", 2)

        async def complained() -> bool:
            return "was altered" in ((await replica.state()).error or "")

        await until(complained, "the reason is in the replica's state")
        assert version_of(await ask(client)) == 1

    world.run(scenario, poll_seconds=0.02)


def test_a_registry_that_cannot_be_reached_at_birth_is_the_reason_given(world, tmp_path):
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/other.db"
        async with served(world.settings, url, world.storage) as (_, client):
            answer = await ask(client)
            assert answer.status_code == 503
            assert "the registry's database does not answer: no such table" in answer.json()["error"]

    asyncio.run(main())


def test_a_replica_that_loses_the_registry_goes_on_serving_and_follows_once_it_is_back(world, tmp_path, monkeypatch):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        looked = 0
        honest = Registry.champion

        def lost(registry: Registry, model: str) -> Champion:
            nonlocal looked
            looked += 1
            return honest(Registry(f"sqlite:///{tmp_path}/empty.db"), model)

        with monkeypatch.context() as patch:
            patch.setattr(Registry, "champion", lost)

            async def tried() -> bool:
                return looked >= 2

            await until(tried, "it looked and looked again")
            assert version_of(await ask(client)) == 1
        force(world.registry, "m", 2)

        async def followed() -> bool:
            return version_of(await ask(client)) == 2

        await until(followed, "version 2 serves")

    world.run(scenario, poll_seconds=0.02)


def test_a_move_during_a_look_at_the_registry_leaves_the_version_it_replaces_in_memory(world, monkeypatch):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        honest = Registry.previous_champion
        prepared: list[tuple[int, ...]] = []  # at the end of each look's read

        async def move() -> None:
            assert (await replica.prepare(2)).error is None
            await replica.commit(2, force(world.registry, "m", 2).sequence)

        def overtaken(registry: Registry, model: str) -> int | None:
            previous = honest(registry, model)
            if not prepared:
                assert previous is None
                asyncio.run_coroutine_threadsafe(move(), loop).result(60)
            prepared.append(asyncio.run_coroutine_threadsafe(replica.state(), loop).result(60).prepared)
            return previous

        monkeypatch.setattr(Registry, "previous_champion", overtaken)

        async def looked_twice() -> bool:
            return len(prepared) >= 2

        await until(looked_twice, "it looked and looked again")
        assert prepared[:2] == [(1,), (1,)]

    world.run(scenario, poll_seconds=0.02)


# --- the prediction log --------------------------------------------------------------------------------------------------


def logged(world: World, request_id: str, position: int = 0) -> Any:
    name = AnswerName(None, request_id, position)
    return world.registry.predictions.find("m", [name]).get(name)


def test_an_answer_is_logged_under_its_request_id(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        headers = {"x-request-id": "r1"}
        answer = await client.post("", json={"inputs": ["my invoice", "a crash"]}, headers=headers)

        async def written() -> Any:
            return logged(world, "r1", 1)

        second = await until(written, "the second answer in the log")
        first = logged(world, "r1")
        assert [it.version for it in (first, second)] == [1, 1]
        assert [it.input["text"] for it in (first, second)] == ["my invoice", "a crash"]
        best = [choices[0] for choices in answer.json()]
        assert [(it.label, it.confidence) for it in (first, second)] == [
            (choice["label"], pytest.approx(choice["score"])) for choice in best
        ]

    world.run(scenario)


def test_a_version_on_trial_can_be_asked_by_its_path_in_the_open_inference_protocol(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["one"]}
        wanted = {"name": "label", "parameters": {"classification": 3}}
        before = await client.post("/v2/models/m/versions/2/infer", json={"inputs": [tensor]})
        assert (before.status_code, before.json()["error"]) == (404, "version '2' of m does not run here; those that do: 1")
        proposed = world.registry.rollouts.propose("m", 2, 1, mode=RolloutMode.SHADOW, percent=1.0)
        await replica.prepare(2)
        await replica.try_out(replace(proposed, state=RolloutState.SHADOW))
        assert (await client.get("/v2/models/m")).json()["versions"] == ["1", "2"]
        for number in (1, 2):
            path = f"/v2/models/m/versions/{number}/infer"
            answer = (await client.post(path, json={"inputs": [tensor], "outputs": [wanted]})).json()
            assert answer["model_version"] == str(number)
            assert {item.split(":")[2] for item in answer["outputs"][0]["data"]} == set(LABELS[number - 1])

    world.run(scenario)


def test_what_a_shadow_answers_is_logged_under_the_request_id_and_judged_by_the_same_correction(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        proposed = world.registry.rollouts.propose("m", 2, 1, mode=RolloutMode.SHADOW, percent=100.0)
        await replica.prepare(2)
        await replica.try_out(replace(proposed, state=RolloutState.SHADOW))
        answer = await client.post("", json={"inputs": ["one", "two"]}, headers={"x-request-id": "r1"})
        assert version_of(answer) == 1
        wrong = Correction(client_id=None, request_id="r1", position=1, example={"text": "two", "label": "a"})
        world.registry.feedback.add("m", [wrong])

        async def paired() -> Any:
            return world.registry.predictions.corrected_pairs("m", 1, 2, 10)

        [pair] = await until(paired, "both versions' answers in the registry")
        assert (pair.answer.input["text"], pair.answer.version) == ("two", 1)
        assert [set(output["labels"]) for output in (pair.answer.output, pair.shadow_output)] == [set(it) for it in LABELS]

    world.run(scenario)


def test_answers_that_wait_are_written_when_the_replica_ends_and_failed_requests_are_not_logged(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await client.post("", json={"inputs": "late"}, headers={"x-request-id": "late"})).status_code == 200
        assert (await client.post("", json={"inputs": " "}, headers={"x-request-id": "bad"})).status_code == 422
        assert (await client.post("", json={"inputs": "nameless"})).status_code == 200

    world.run(scenario)
    assert [it.input["text"] for it in recent(world.registry.predictions, "m", 1, 10)] == ["nameless", "late"]


def test_personal_data_is_masked_and_nothing_is_logged_where_the_log_is_off(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        await client.post("", json={"inputs": "it is Clara"}, headers={"x-request-id": "r1"})

    for settings, expected in (({"log": 0.0}, []), ({"redact": ("Clara",)}, ["it is █████"])):
        feedback = world.settings.feedback.model_copy(update=settings)
        replace(world, settings=world.settings.model_copy(update={"feedback": feedback})).run(scenario)
        assert [it.input["text"] for it in recent(world.registry.predictions, "m", 1, 10)] == expected


def test_answers_that_could_not_be_logged_are_counted_where_operators_look(world, monkeypatch):
    def refuse(predictions: Any) -> None:
        raise ValueError("no such thing can be stored")

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(replica._registry.predictions, "log", refuse)
        assert (await client.get("/info")).json()["unlogged"] == 0
        await client.post("", json={"inputs": ["one", "two"]}, headers={"x-request-id": "r1"})

        async def counted() -> bool:
            return (await client.get("/info")).json()["unlogged"] == 1

        await until(counted, "one request whose answers are not logged")

    world.run(scenario)


def test_a_database_that_is_away_keeps_no_answer_back(world, monkeypatch):
    def away(predictions: Any) -> None:
        raise RegistryError("the registry's database does not answer")

    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(replica._registry.predictions, "log", away)
        for number in range(3):
            answer = await client.post("", json={"inputs": "hello"}, headers={"x-request-id": f"r{number}"})
            assert answer.status_code == 200

    world.run(scenario)
    assert recent(world.registry.predictions, "m", 1, 10) == []


# --- metrics -------------------------------------------------------------------------------------------------------------


def counted(replica: ModelReplica) -> dict[str, float]:
    """The replica's samples, by name and what follows the model and the replica in their labels."""
    samples = replica._telemetry.samples(replica._batcher.version, replica._batcher.waiting)
    return {" ".join((name, *labels[2:])): value for name, labels, value in samples}


def test_what_the_proxy_refused_is_counted_and_the_answers_say_whether_there_is_room_while_it_refuses(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert ROOM not in (await ask(client)).headers
        answer = await client.post("", json={"inputs": "hello"}, headers={REFUSED: "7"})
        assert answer.status_code == 200
        for nonsense in ("-1", "x", "9" * 100):
            await client.post("", json={"inputs": "hello"}, headers={REFUSED: nonsense})
        assert counted(replica)["baton_errors_total 429 overloaded"] == 7
        await client.post("", json={"inputs": "hello"}, headers={REFUSED: "999999999"})
        assert counted(replica)["baton_errors_total 429 overloaded"] == 7 + MOST_REFUSED
        replica._batcher._short._note_refusal()
        assert int((await ask(client)).headers[ROOM]) > 0
        assert ROOM in (await client.post("", json={"inputs": 7})).headers
        assert ROOM not in (await client.get("/health")).headers

    world.run(scenario)


def test_requests_count_by_what_became_of_them_and_probes_do_not(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        await asyncio.gather(*(ask(client) for _ in range(3)))
        assert (await client.post("", content=b"{")).status_code == 400
        assert (await client.post("", json={"inputs": 7})).status_code == 422
        assert (await client.get("/nowhere")).status_code == 404
        for probe in ("/health", "/info"):
            assert (await client.get(probe)).status_code == 200
            assert (await client.post(probe)).status_code == 405
        found = counted(replica)
        requests = {name: count for name, count in found.items() if name.startswith("baton_requests_total")}
        assert requests == {"baton_requests_total 1 2xx": 3, "baton_requests_total 1 4xx": 3, "baton_requests_total 1 5xx": 0}
        assert found["baton_errors_total 400 malformed request"] == found["baton_errors_total 404 not found"] == 1
        assert found["baton_request_seconds_count"] == 3
        assert found["baton_request_seconds_sum"] >= found["baton_inference_seconds_sum"] + found["baton_queue_seconds_sum"] > 0
        assert found["baton_batch_inputs_sum"] == 3
        assert found["baton_serving_version"] == 1

    world.run(scenario)


def test_a_request_without_a_champion_counts_for_no_version(empty):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert (await ask(client)).status_code == 503
        assert counted(replica)["baton_requests_total none 5xx"] == counted(replica)["baton_errors_total 503 not ready"] == 1
        assert counted(replica)["baton_serving_version"] == 0

    empty.run(scenario)


def test_tokens_and_padding_go_on_counting_across_a_swap(world):
    async def scenario(replica: ModelReplica, client: httpx.AsyncClient) -> None:
        assert counted(replica)["baton_model_tokens_total"] == 0  # warming up is no work
        await client.post("", json={"inputs": ["hi", "where is my invoice and when will my parcel come to me?"]})
        before = counted(replica)
        assert before["baton_model_tokens_total"] > before["baton_padding_tokens_total"] > 0
        promotion = force(world.registry, "m", 2)
        await replica.prepare(2)
        assert counted(replica) == before
        await replica.commit(2, promotion.sequence)
        await ask(client)
        after = counted(replica)
        assert after["baton_model_tokens_total"] > before["baton_model_tokens_total"]
        assert after["baton_swaps_total"] == 1
        assert after["baton_requests_total 2 2xx"] == 1

    world.run(scenario)
