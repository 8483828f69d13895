"""The routes that register and evaluate versions, with the real work of their jobs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from baton.config.file import BatonConfig
from services.control.retrain import RUNS_SEEN
from tests.control.test_api import Api, problem
from tests.support.local_control import LocalControl, configured, control_of, loops_of, register_at_once
from tests.support.tiny import keyword_rows, save_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = ("billing", "bug", "cancel", "shipping")


def control(directory: Path, **settings: Any) -> LocalControl:
    """Model ``m`` with a holdout of 60 rows and nothing to train on, unless ``settings`` say otherwise."""
    (directory / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in keyword_rows(60, LABELS, seed=2)))
    raw = configured(directory, "m").model_dump(mode="json")
    raw["models"][0] |= {
        "data": {"holdout": str(directory / "holdout.jsonl")},
        "gate": {"min_f1": 0.0, "confidence": 0.5},
        "serving": {"precision": "fp32", "device": "cpu"},
        **settings,
    }
    made = control_of(BatonConfig.model_validate(raw))
    register_at_once(made)
    return made


def roll_out(made: LocalControl) -> None:
    async def look() -> None:
        loops = loops_of(made)
        await loops._start_roll_outs()
        await asyncio.gather(*loops._moving.values())

    asyncio.run(look())


@pytest.fixture
def own(tiny_base: Path, tmp_path: Path) -> Path:
    """A directory with somebody's own classifier."""
    return save_classifier(tiny_base, LABELS, tmp_path / "own")


def test_a_registered_version_is_a_run_and_rolls_out_when_the_gate_agrees(tmp_path, own):
    api = Api(control(tmp_path))
    answer = api.post("/api/models/m/versions", {"source": str(own)})
    assert answer.status_code == 202
    queued = answer.json()
    assert queued["source"] == {"location": str(own), "labels": None, "by": None}
    run = api.get(f"/api/runs/{queued['id']}").json()
    assert (run["state"], run["version"], run["decision"]["verdict"]) == ("succeeded", 1, "promote")
    roll_out(api.control)
    assert api.get("/api/models/m").json()["champion"] == 1
    [version] = api.get("/api/models/m/versions").json()["items"]
    assert version["lineage"]["source"]["location"] == str(own)


def test_a_source_that_cannot_be_used_ends_the_run_with_the_reason(tmp_path):
    api = Api(control(tmp_path))
    run = api.post("/api/models/m/versions", {"source": str(tmp_path)}).json()["id"]
    ended = api.get(f"/api/runs/{run}").json()
    assert (ended["state"], ended["version"]) == ("failed", None)
    assert "has no config.json: it is not a Hugging Face model" in ended["reason"]


def test_one_run_at_a_time_and_a_repeated_request_finds_its_run(tmp_path, own):
    api = Api(control(tmp_path))
    api.control.jobs.on_run = lambda run_id: None
    ask = {"source": str(own)}
    first = api.post("/api/models/m/versions", ask, headers={"Idempotency-Key": "k"}).json()["id"]
    assert api.post("/api/models/m/versions", ask, headers={"Idempotency-Key": "k"}).json()["id"] == first
    assert f"run {first} is active" in problem(api.post("/api/models/m/versions", ask), 409)
    assert api.post(f"/api/runs/{first}/cancel").json()["state"] == "cancelled"
    problem(api.post("/api/models/m/versions", {"source": ""}), 422)
    for relative in ("./own", "~/own", "models/my/own", " "):
        told = problem(api.post("/api/models/m/versions", {"source": relative}), 422)
        assert told.startswith(f"source: {relative!r} is not allowed; a relative path means another directory on each node")
    problem(api.post("/api/models/nope/versions", ask), 404)


def test_a_model_without_train_data_is_not_trained(tmp_path):
    api = Api(control(tmp_path))
    told = problem(api.post("/api/models/m/runs"), 422)
    assert "m declares no data.train, so that no version of it can be trained" in told
    assert "`baton register m DIRECTORY`" in told


def test_a_version_is_evaluated_on_the_newest_holdout_and_nothing_moves(tmp_path, own, tiny_base):
    api = Api(control(tmp_path))
    api.post("/api/models/m/versions", {"source": str(own)})
    roll_out(api.control)
    other = save_classifier(tiny_base, LABELS, tmp_path / "other", spread=3.0)
    api.post("/api/models/m/versions", {"source": str(other)})
    (tmp_path / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in keyword_rows(50, LABELS, seed=9)))
    api.post("/api/models/m/versions", {"source": str(save_classifier(tiny_base, LABELS, tmp_path / "third", spread=4.0))})
    matches = api.registry.matches.played("m", 1)
    found = api.post("/api/models/m/versions/2/evaluations").json()
    assert (found["version"], found["holdout_rows"], found["champion"]) == (2, 50, 1)
    assert 0 <= found["evaluation"]["metrics"]["f1"] <= 1
    assert found["evaluation"]["metrics"]["per_class"].keys() == set(LABELS)
    assert "reference" not in found["evaluation"]["metrics"]
    assert found["champion_evaluation"]["metrics"]["f1"] >= 0
    assert found["report"] is None, "the gate has judged it on another holdout"
    assert api.registry.matches.played("m", 1) == matches
    assert api.get("/api/models/m").json()["champion"] == 1
    jobs = len(api.control.jobs.submitted)
    assert api.post("/api/models/m/versions/2/evaluations").json() == found
    assert len(api.control.jobs.submitted) == jobs, "it is stored"
    third = api.post("/api/models/m/versions/3/evaluations").json()
    assert third["report"]["candidate"] == third["decision"]["candidate"] == 3
    page, numbers = api.get("/api/models/m/versions/3/report.html").text, third["decision"]["numbers"]
    manifests = [api.registry.versions.get("m", number).manifest_sha256 for number in (3, 1)]
    assert numbers["manifests"] == manifests
    for told in (*manifests, numbers["dataset"]["hash"], third["report"]["labels"][0]["name"]):
        assert told in page
    assert api.promote(2, force=True, reason="a test wants it").status_code == 200
    third = api.post("/api/models/m/versions/3/evaluations").json()
    assert (third["champion"], third["decision"], third["report"]) == (2, None, None), "its match was against v1"
    problem(api.post("/api/models/m/versions/9/evaluations"), 404)


def test_without_data_a_version_serves_by_force_alone(tmp_path, own):
    api = Api(control(tmp_path, data={}))
    run = api.post("/api/models/m/versions", {"source": str(own)}).json()["id"]
    ended = api.get(f"/api/runs/{run}").json()
    assert (ended["state"], ended["version"], ended["decision"]) == ("succeeded", 1, None)
    assert "m declares no data, so that there is no holdout" in ended["reason"]
    for answer in (api.promote(1), api.post("/api/models/m/versions/1/evaluations")):
        assert "`baton promote m 1 --force --reason …`" in problem(answer, 409)
    assert api.promote(1, force=True, reason="it serves elsewhere already").status_code == 200
    assert api.get("/api/models/m").json()["champion"] == 1


def test_registered_versions_neither_hurry_nor_delay_automatic_retraining(tmp_path, own):
    made = control(tmp_path, data={"train": "t.jsonl", "holdout": str(tmp_path / "holdout.jsonl")}, retrain={"on_drift": True})
    made.jobs.on_run = lambda run_id: None
    api = Api(made)
    for _ in range(3):
        run = api.post("/api/models/m/versions", {"source": str(own)}).json()["id"]
        situation, _ = made.retrainer.assess(made.config.model("m"))
        assert situation.active == run, "they hold back a run while they are active"
        made.registry.runs.finish(run, made.registry.runs.get(run).state.FAILED, reason="no")
    situation, _ = made.retrainer.assess(made.config.model("m"))
    assert (situation.runs_without_champion, situation.last_run_ended) == (0, None)
    assert RUNS_SEEN > 3


# --- a changed task ------------------------------------------------------------------------------------------------------


def test_after_a_changed_task_every_answer_explains_and_a_first_version_of_it_takes_over(tmp_path, own, tiny_base):
    """Every run failed once its training was done, and every answer was 500 (issue 18, fault 6)."""
    before = Api(control(tmp_path))
    before.post("/api/models/m/versions", {"source": str(own)})
    roll_out(before.control)
    assert before.get("/api/models/m").json()["champion"] == 1

    rows = [{"text": row["text"], "label": [row["label"]]} for row in keyword_rows(60, LABELS, seed=2)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    api = Api(control(tmp_path, task="multi_label", data={"holdout": str(tmp_path / "many.jsonl")}))
    for path in ("", "/versions", "/versions/1", "/history", "/retrain", "/live"):
        assert api.get(f"/api/models/m{path}").status_code == 200, path
    assert api.get("/metrics").status_code == 200
    for answer in (api.promote(1, force=False), api.post("/api/models/m/versions/1/evaluations")):
        problem(answer, 409)
    told = problem(api.post("/api/models/m/versions/1/evaluations"), 409)
    assert "v1 has the task classification, and m is declared with multi_label" in told

    run = api.post("/api/models/m/versions", {"source": str(save_classifier(tiny_base, LABELS, tmp_path / "many"))}).json()[
        "id"
    ]
    decision = api.get(f"/api/runs/{run}").json()["decision"]
    assert "v2, the first version of its task (v1 has another one), F1 " in decision["sentence"]
    roll_out(api.control)
    assert api.get("/api/models/m").json()["champion"] == 2
