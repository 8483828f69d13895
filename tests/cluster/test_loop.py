"""The loop: train, judge, swap in, refuse, roll back, promote again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient, constants

from tests.cluster.conftest import LABELS, TEXT, Service

pytestmark = pytest.mark.cluster


def history(service: Service) -> list[tuple[str, int]]:
    items = service.http.get("/api/models/loop/history").json()["items"]
    return [(item["what"], item["version"]) for item in items]


def test_the_loop_trains_judges_swaps_refuses_and_rolls_back(
    service: Service, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.http.get("/readyz").status_code == 200  # nobody has a champion yet, and nobody is missing one
    answer = service.predict("loop")
    assert answer.status_code == 503
    assert "loop has no champion yet; train one: baton train loop --wait" in answer.json()["error"]

    # The first version: from the command line, on few and noisy rows.
    done = service.baton("train", "loop", "--wait", "--set", f"data.train={data / 'small.jsonl'}", "--set", "training.epochs=6")
    assert "Promote: v1, the first version, F1 0." in done.stdout
    assert "v1 is serving." in done.stdout
    assert service.http.get("/readyz").json() == {"status": "ready"}
    answer = service.predict("loop")
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")

    # More data: a better version takes over by itself.
    done = service.baton("train", "loop", "--wait", "--json")
    run = json.loads(done.stdout)
    assert (run["state"], run["version"], run["rolled_out"]) == ("succeeded", 2, True)
    assert run["decision"]["sentence"].startswith("Promote: v2 (F1 ")
    assert " on 240 texts, " in run["decision"]["sentence"]
    assert [state["version"] for state in service.replicas("loop")] == [2, 2]

    # It answers over HTTP, on the command line, and to Hugging Face's own client.
    [scores] = service.predict("loop").json()
    assert scores[0]["label"] == "billing"
    assert {score["label"] for score in scores} == set(LABELS)
    predicted = json.loads(service.baton("predict", "loop", TEXT, "the app: a crash", "--top-k", "1", "--json").stdout)
    assert predicted["version"] == 2
    assert [[choice["label"] for choice in answer] for answer in predicted["answers"]] == [["billing"], ["bug"]]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # in offline mode the client refuses even a loopback address
    [choice, *_] = InferenceClient(base_url=f"{service.url}/models/loop").text_classification(TEXT, top_k=1)
    assert (choice.label, choice.score) == ("billing", pytest.approx(scores[0]["score"], abs=0.02))

    # Labels at random: refused, with the reason; what serves is left alone. A quick method makes this version.
    quick = ("--set", "training.few_shot=true", "--set", "training.validation=null")
    done = service.baton("train", "loop", "--wait", "--set", f"data.train={data / 'corrupted.jsonl'}", *quick)
    assert "Refused: v3 (F1 " in done.stdout
    assert "and more than 0 is required. v2 stays." in " ".join(done.stdout.split())
    assert service.predict("loop").headers["x-model-version"] == "2"
    answer = service.promote("loop", 3)
    assert answer.status_code == 409
    assert answer.json()["decision"]["verdict"] == "reject"
    assert answer.json()["detail"].startswith("Refused: v3 (F1 ")

    # Back, and forth again: the match against v1 has been played and is not played again.
    service.baton("rollback", "loop", "--reason", "to see whether it works")
    assert service.predict("loop").headers["x-model-version"] == "1"
    service.baton("promote", "loop", "2")
    assert service.predict("loop").headers["x-model-version"] == "2"
    assert history(service) == [("promoted", 2), ("rolled back", 1), ("refused", 3), ("promoted", 2), ("promoted", 1)]
    story = service.baton("history", "loop").stdout
    assert "Rolled back to v1 in place of v2. Reason: to see whether it works" in " ".join(story.split())
