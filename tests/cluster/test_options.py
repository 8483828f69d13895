"""Runs that go on from the champion, and one that registers a version from elsewhere, through the whole loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from baton.wording import counted
from tests.cluster.conftest import LABELS, TEXT, WORKER, Service, publish, write_rows
from tests.support.tiny import keyword_rows
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def test_a_run_goes_on_from_the_champion_with_adapters_survives_a_killed_worker_and_serves(
    runs: Service, data: Path, tmp_path: Path
) -> None:
    champion = runs.registry.champion_version("runs")
    assert champion is not None
    known = [json.loads(line) for line in (data / "large.jsonl").read_text().splitlines()]
    rows = write_rows(tmp_path / "more.jsonl", [*known, *keyword_rows(120, LABELS, seed=9)])
    run_id = runs.start_run(
        "runs",
        f"data.train={rows}",
        "training.start_from=champion",
        "training.replay=2.0",
        "training.tune=lora",
        "training.learning_rate=2.0e-3",
        "training.accumulation=2",
        "training.schedule=cosine",
        "training.augment.noise=0.05",
        "training.workers=2",
        "training.epochs=4",
        "training.prune={units: 0.25}",
        "training.distil={weight: 0.5}",
    )
    runs.await_training(run_id, 1.0)
    workers = until(lambda: runs.processes(WORKER), 30, "training processes")
    assert len(workers) == 2
    workers[0].kill()
    run = runs.await_run(run_id)
    assert (run.state.value, run.reason) == ("succeeded", None)

    version = runs.registry.versions.get("runs", run.version)
    start = version.lineage["start"]
    assert version.lineage["parent"] == start["parent"] == champion.number
    assert 0 < start["new_rows"] <= 120
    assert start["replayed_rows"] == 2 * start["new_rows"]
    new = counted(start["new_rows"], "new row")
    said = f"from v{champion.number}: {new}, {start['replayed_rows']:,} of {start['known_rows']:,} known"
    events = [event for event in runs.events(run_id) if event["stage"] == "training"]
    assert any(event.get("start", "").startswith(said) for event in events if "epoch" in event)
    assert version.lineage["distillation"] == {"teacher": f"v{champion.number}"}
    assert version.lineage["pruning"]["parameters"] < version.lineage["pruning"]["parameters_before"]
    assert version.metrics["f1"] > 0.95

    runs.force("runs", version.number)
    runs.await_replicas("runs", version.number)
    answer = runs.predict("runs")
    assert (answer.headers["x-model-version"], answer.json()[0][0]["label"]) == (str(version.number), "billing"), TEXT
    runs.force("runs", champion.number)


def test_a_directory_is_registered_over_http_beats_the_champion_and_answers(
    runs: Service, checkpoints: list[Path], tmp_path: Path
) -> None:
    champion = runs.registry.champion("runs").version
    assert champion is not None
    weak = publish(runs, "runs", checkpoints[0]).number
    runs.force("runs", weak)
    own = shutil.copytree(checkpoints[-1], tmp_path / "own")
    answer = runs.http.post("/api/models/runs/versions", json={"source": str(own)})
    assert (answer.status_code, answer.json()["source"]["location"]) == (202, str(own))
    ended = runs.await_run(answer.json()["id"])
    assert (ended.state.value, ended.reason) == ("succeeded", None)
    version = ended.version
    assert version is not None
    assert runs.http.get(f"/api/runs/{ended.id}").json()["decision"]["verdict"] == "promote"
    runs.await_replicas("runs", version)
    answer = runs.predict("runs")
    assert (answer.headers["x-model-version"], answer.json()[0][0]["label"]) == (str(version), "billing"), TEXT
    evaluated = runs.http.post(f"/api/models/runs/versions/{weak}/evaluations").json()
    assert evaluated["evaluation"]["metrics"]["f1"] < evaluated["champion_evaluation"]["metrics"]["f1"]
    again = json.loads(runs.baton("register", "runs", own, "--wait", "--json").stdout)
    assert (again["version"], again["decision"]) == (version, None)
    runs.force("runs", champion)
