"""Canaries of a running service with two replicas: who answers, what callers notice, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from services.demo.traffic import Traffic, failed, stale
from tests.cluster.conftest import LABELS, Service, publish
from tests.support.tiny import keyword_rows
from tests.support.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATH = "/api/models/steady/rollout"
CLIENTS = 4


@pytest.fixture
def champion(steady: Service) -> Service:
    """The service, with version 1 in every replica of ``steady`` and no trial."""
    steady.force("steady", 1)
    steady.await_replicas("steady", 1)
    return steady


def measured(service: Service) -> dict[str, int]:
    answer = service.http.get(PATH)
    return answer.json()["measured"] if answer.status_code == 200 else {"answers": 0, "champion_answers": 0}


def test_a_canary_answers_its_share_of_the_keys_until_it_is_ended(champion: Service) -> None:
    texts = [row["text"] for row in keyword_rows(200, LABELS, seed=5)]
    with Traffic(f"{champion.url}/models/steady", texts, CLIENTS) as traffic:
        said = champion.baton("canary", "steady", "2", "--percent", "50").stdout
        assert "v2 answers 50% of the requests, beside v1, until it is ended." in said
        until(lambda: measured(champion)["answers"] > 50 < measured(champion)["champion_answers"], 60, "both answer")

        def version(**headers: str) -> str:
            return champion.http.post("/models/steady", json={"inputs": texts[0]}, headers=headers).headers["x-model-version"]

        first = [version(**{"x-baton-key": f"caller {number}"}) for number in range(40)]
        assert set(first) == {"1", "2"}
        assert [version(**{"x-baton-key": f"caller {number}"}) for number in range(40)] == first
        assert [version(**{"x-baton-version": number}) for number in ("1", "2")] == ["1", "2"]
        assert champion.http.get("/api/models/steady").json()["rollout"]["state"] == "canary"
        shown = json.loads(champion.baton("rollout", "steady", "--json").stdout)
        assert (shown["version"], shown["champion"], shown["percent"]) == (2, 1, 50.0)
        assert "v2 (canary)" in champion.baton("rollout", "steady").stdout
        assert champion.http.request("DELETE", PATH, json={"reason": "seen enough"}).json()["state"] == "rolled back"
        ended = traffic.exchanges[-1].answered if traffic.exchanges else 0.0
        number = len(traffic.exchanges) + 100
        until(lambda: len(traffic.exchanges) > number, 60, "requests after the end")
    assert failed(traffic.exchanges) == 0
    assert {exchange.version for exchange in traffic.exchanges} == {1, 2}
    assert stale(traffic.exchanges, 1, since=ended + 1) == 0
    assert "seen enough" in champion.baton("history", "steady").stdout


RARE = "qx"
"""A token that neither the holdout nor the task's samples have."""


@pytest.fixture
def failing(champion: Service, checkpoints: list[Path], tmp_path: Path) -> int:
    """A good version, but for one token that training has spoilt: texts with it give numbers that are not finite."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints[2])
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[2])
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(RARE)] = torch.nan
    model.save_pretrained(tmp_path / "failing")
    tokenizer.save_pretrained(tmp_path / "failing")
    return publish(champion, "steady", tmp_path / "failing").number


def test_a_canary_that_raises_goes_back_by_itself_and_no_caller_gets_an_error(champion: Service, failing: int) -> None:
    with Traffic(f"{champion.url}/models/steady", [f"{RARE} {number}" for number in range(50)], CLIENTS) as traffic:
        answer = champion.http.post(PATH, json={"version": failing, "mode": "canary", "percent": 20})
        assert answer.status_code == 200, answer.text
        until(lambda: champion.model("steady")["rollout"] is None, 120, "the canary goes back")
        number = len(traffic.exchanges) + 100
        until(lambda: len(traffic.exchanges) > number, 60, "requests after the end")
    assert failed(traffic.exchanges) == 0
    assert {exchange.version for exchange in traffic.exchanges} == {1}  # it never had an answer
    found = champion.http.get(PATH).json()
    assert (found["version"], found["state"]) == (failing, "rolled back")
    assert "raised an error" in found["reason"]
    assert found["measured"]["errors"] >= 3
    assert champion.model("steady")["champion"] == 1


def test_the_previous_champion_waits_in_memory_for_a_rollback(champion: Service) -> None:
    champion.force("steady", 2)
    assert all(1 in state["prepared"] for state in champion.replicas("steady"))
    assert champion.rollback("steady").json()["promotion"]["version"] == 1
    assert [state["version"] for state in champion.replicas("steady")] == [1, 1]
