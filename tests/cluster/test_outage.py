"""A service on PostgreSQL and S3: the loop works there, while one of them is gone every prediction is answered, and its logs
say in JSON what happened, and no text.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml

from services.demo.traffic import Traffic, failed
from tests.cluster.conftest import LABELS, TEXT, TRAINING, Service, baton, write_rows
from tests.support.stores import S3, Postgres
from tests.support.tiny import keyword_rows
from tests.support.waiting import free_port, until
from training.__main__ import HEARTBEAT_SECONDS

pytestmark = pytest.mark.cluster

MODEL = "stored"
CLIENTS, PAUSE = 8, 0.05
"""Who asks all the time, and how many seconds after each answer: there is something left for the runs."""

MEANWHILE = 200
"""Predictions that must have been answered during an outage before it ends."""


@pytest.fixture(scope="module")
def stored(
    stoppable_postgres: Postgres, stoppable_s3: S3, tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service, up, with two versions that it trained; the first serves."""
    directory = tmp_path_factory.mktemp("stored")
    model = {
        "name": MODEL,
        "task": "classification",
        "base_model": str(tiny_base),
        "data": {"train": str(data / "large.jsonl"), "holdout": str(data / "holdout.jsonl")},
        "training": TRAINING,
        "gate": {"min_f1": 0.02},
        "serving": {"poll_seconds": 1.0},
    }
    content = {
        "http": {"host": "127.0.0.1", "port": free_port()},
        "database": stoppable_postgres.url(stoppable_postgres.create()),
        "storage": stoppable_s3.url(),
        "logging": {"format": "json", "requests": True},
        "models": [model],
    }
    file = directory / "baton.yaml"
    file.write_text(yaml.safe_dump(content))
    service = Service(file)
    try:
        # lines are written at once, not a thousand at a time
        service.baton("up", "--detach", RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE="1", **stoppable_s3.environment)
        first = service.await_run(service.start_run(MODEL))
        assert (first.state.value, first.reason) == ("succeeded", None)
        service.await_replicas(MODEL, 1)
        more = write_rows(directory / "more.jsonl", keyword_rows(420, LABELS, seed=7))
        second = service.await_run(
            service.start_run(MODEL, f"data.train={more}", "training.few_shot=true", "training.validation=null")
        )
        assert (second.state.value, second.version) == ("succeeded", 2)
        service.force(MODEL, 1)
        service.await_replicas(MODEL, 1)
        yield service
    finally:
        baton("down", "-c", file, **stoppable_s3.environment)
        service.close()


@contextmanager
def load(service: Service) -> Iterator[Traffic]:
    """Clients that never stop asking; in the end, every one of their requests must have been answered."""
    with Traffic(f"{service.url}/models/{MODEL}", [TEXT], CLIENTS, pause=PAUSE) as traffic:
        until(lambda: len(traffic.exchanges) > MEANWHILE, 60, "load")
        yield traffic
        answered_after(traffic)
    assert failed(traffic.exchanges) == 0


def answered_after(traffic: Traffic) -> None:
    """Until predictions sent from now on have been answered."""
    now = time.perf_counter()
    until(lambda: sum(it.sent > now for it in traffic.exchanges[-2 * MEANWHILE :]) > MEANWHILE, 60, "more predictions")


def unavailable(answer: httpx.Response, reason: str) -> None:
    """A problem document that says what is down."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert reason in answer.json()["detail"]


def control_calls(service: Service) -> list[Callable[[], httpx.Response]]:
    correction = {"text": TEXT, "label": "billing"}
    return [
        lambda: service.http.get(f"/api/models/{MODEL}"),
        lambda: service.http.get(f"/api/models/{MODEL}/versions"),
        lambda: service.http.post(f"/api/models/{MODEL}/runs", json={}),
        lambda: service.http.post(f"/api/models/{MODEL}/feedback", json=correction),
        lambda: service.promote(MODEL, 2, force=True, reason="during an outage"),
        lambda: service.http.get("/readyz"),
    ]


def test_a_run_on_postgresql_and_s3_publishes_there_and_leaves_no_checkpoint(stored: Service, stoppable_s3: S3) -> None:
    import s3fs

    files = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=stoppable_s3.endpoint, use_listings_cache=False)
    root = stored.config.storage.removeprefix("s3://")
    names = {
        path.removeprefix(f"{root}/models/{MODEL}/versions/1/") for path in files.find(f"{root}/models/{MODEL}/versions/1")
    }
    assert {"baton.json", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert files.find(f"{root}/runs") == []
    version = stored.registry.versions.get(MODEL, 1)
    assert version.uri == f"{stored.config.storage}/models/{MODEL}/versions/1"
    assert version.metrics["f1"] > 0.5
    assert stored.predict(MODEL).headers["x-model-version"] == "1"


@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_without_its_database_every_prediction_is_answered_and_everything_resumes_by_itself(
    stored: Service, stoppable_postgres: Postgres, how: str
) -> None:
    begin, end = {
        "stop": (stoppable_postgres.stop, stoppable_postgres.start),
        "freeze": (stoppable_postgres.freeze, stoppable_postgres.thaw),
    }[how]
    with load(stored) as traffic:
        begin()
        try:
            for call in control_calls(stored):
                unavailable(call(), "the registry's database does not answer: ")
            answer = stored.predict(MODEL)
            assert answer.status_code == 200
            answered_after(traffic)
        finally:
            end()
        until(lambda: stored.model(MODEL).get("champion") == 1, 60, "the control plane has its database again")
        correction = {"request_id": answer.headers["x-request-id"], "label": "billing"}

        def accepted() -> bool:
            """The answer was given while nothing could be logged, and waited for that."""
            return stored.http.post(f"/api/models/{MODEL}/feedback", json=correction).status_code == 200

        until(accepted, 60, "the answer of the time of the outage is in the log")
        assert stored.http.get("/readyz").status_code == 200


def test_without_its_storage_every_prediction_is_answered_and_a_version_takes_over_afterwards(
    stored: Service, stoppable_s3: S3
) -> None:
    with load(stored) as traffic:
        stoppable_s3.freeze()
        try:
            unavailable(stored.promote(MODEL, 2, force=True, reason="during an outage"), "cannot read from storage s3://")
            unavailable(stored.http.get(f"/api/models/{MODEL}/datasets/2/diff"), "cannot read from storage s3://")
            assert stored.predict(MODEL).headers["x-model-version"] == "1"
            answered_after(traffic)
        finally:
            stoppable_s3.thaw()
        moved = stored.promote(MODEL, 2, force=True, reason="after an outage")
        assert moved.status_code == 200, moved.text
        stored.await_replicas(MODEL, 2)
        back = stored.rollback(MODEL)
        assert back.status_code == 200, back.text
    assert all(entry.what != "rollout failed" for entry in stored.registry.history.list(MODEL))


def test_a_run_goes_on_through_an_outage_of_the_database_and_of_the_storage(
    stored: Service, stoppable_postgres: Postgres, stoppable_s3: S3
) -> None:
    run_id = stored.start_run(MODEL, "training.epochs=8", "training.batch_size=1", "training.seed=3")
    stored.await_training(run_id, 0.2)
    stoppable_postgres.stop()
    try:
        began = time.monotonic()
        with Traffic(f"{stored.url}/models/{MODEL}", [TEXT], CLIENTS, pause=PAUSE) as traffic:
            until(lambda: time.monotonic() > began + HEARTBEAT_SECONDS, 60, "the driver has missed its registry")
            answered_after(traffic)
    finally:
        stoppable_postgres.start()
    assert failed(traffic.exchanges) == 0
    stored.await_training(run_id, 1.2)
    stoppable_s3.freeze()
    try:
        with Traffic(f"{stored.url}/models/{MODEL}", [TEXT], CLIENTS, pause=PAUSE) as traffic:
            ends = math.floor(stored.registry.runs.get(run_id).progress["epoch"]) + 1
            until(lambda: stored.registry.runs.get(run_id).progress["epoch"] >= ends, 60, "a checkpoint that is to be written")
            answered_after(traffic)
    finally:
        stoppable_s3.thaw()
    assert failed(traffic.exchanges) == 0
    assert not stored.registry.runs.get(run_id).state.final
    run = stored.await_run(run_id)
    assert (run.state.value, run.reason) == ("succeeded", None)


# --- logs ----------------------------------------------------------------------------------------------------------------

SECRET = "Xanthippe lives at number 7"


def log_files(service: Service) -> dict[Path, str]:
    """Everything that the service's processes have written about themselves."""
    roots = (Path(service.instance.directory), service.file.parent / ".baton" / "logs")
    found = {}
    for path in (path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        with suppress(FileNotFoundError):  # Ray replaces some of its files by renaming a temporary one
            found[path] = path.read_bytes().decode(errors="replace")
    return found


def test_no_text_of_a_request_stands_in_any_log(stored: Service, tmp_path: Path) -> None:
    model, feedback = f"/models/{MODEL}", f"/api/models/{MODEL}/feedback"
    long = {"text": SECRET, "label": "billing", "id": f"{SECRET} {'x' * 200}"}
    answers = [
        stored.http.post(model, json={"inputs": SECRET}),
        stored.http.post(model, json={"inputs": [SECRET, SECRET]}),
        stored.http.post(model, content=f'{{"inputs": "{SECRET}'),
        stored.http.post(model, json={"inputs": {"txet": SECRET}}),
        stored.http.post(model, json={"inputs": SECRET, "parameters": {"top_k": SECRET}}),
        stored.http.post(model, json={SECRET: SECRET}),
        stored.http.post(model, json={"inputs": f"{SECRET} \x00"}),
        stored.http.post(model, content=SECRET, headers={"content-type": "text/plain"}),
        stored.http.post(feedback, json={"text": SECRET, "label": "billing"}),
        stored.http.post(feedback, json={"text": f"{SECRET} \x00", "label": "billing"}),
        stored.http.post(feedback, json=long),
        stored.http.post(feedback, json={"text": SECRET, "label": {"no": SECRET}}),
        stored.http.post(feedback, json={"txet": SECRET}),
        stored.http.post(feedback, content=f'[{{"text": "{SECRET}"'),
        stored.http.post(f"/api/models/{MODEL}/promotions", json={"version": SECRET}),
        stored.http.post(f"/api/models/{MODEL}/runs", json={"set": [f"training.epochs={SECRET}"]}),
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:2] == [200, 200]
    assert 500 not in statuses
    assert sum(status >= 400 for status in statuses) >= 11
    run = stored.await_run(stored.start_run(MODEL, "training.epochs=1"))  # it reads what was corrected
    assert (run.state.value, run.reason) == ("succeeded", None)
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "a crash", "label": {"no": SECRET}}])
    failed = stored.await_run(stored.start_run(MODEL, f"data.train={bad}"))
    assert failed.state.value == "failed"
    assert "Xanthippe" in failed.reason  # the record of a run may quote its data

    request_id = answers[0].headers["x-request-id"]
    until(lambda: any(request_id in text for text in log_files(stored).values()), 30, "the request in a log")
    files = log_files(stored)
    assert "the record of run" in files[next(path for path in files if path.name == f"job-driver-{failed.id}.log")]
    assert [str(path) for path, text in files.items() if "Xanthippe" in text] == []
    assert [str(path) for path, text in files.items() if stored.config.database in text] == []  # it may hold a password


def test_each_line_of_the_services_logs_is_a_json_object_that_says_what_it_is_about(stored: Service) -> None:
    answer = stored.predict(MODEL)
    request_id, version = answer.headers["x-request-id"], int(answer.headers["x-model-version"])

    def mine() -> list[dict[str, object]]:
        """The lines about that request."""
        texts = [
            text for path, text in log_files(stored).items() if path.parent.name == "serve" and path.name.startswith("replica")
        ]
        return [json.loads(line) for text in texts for line in text.splitlines() if request_id in line]

    [line] = until(mine, 30, "the request in a replica's log")
    assert (line["request_id"], line["model"], line["version"], line["levelname"]) == (request_id, MODEL, version, "INFO")
    assert (line["name"], line["message"].startswith("POST")) == ("ray.serve", True)

    run = next(run for run in stored.registry.runs.list(MODEL) if run.decision_id is not None)
    for path, text in log_files(stored).items():
        if path.parent.name == "serve" and path.suffix == ".log" and path.name.startswith(("replica", "controller", "proxy")):
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines()), path
        if path.name == f"job-driver-{run.id}.log":
            said = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            assert said[-1]["run_id"] == run.id
            assert said[-1]["model"] == MODEL
            assert said[-1]["message"] == stored.registry.decision(run.decision_id).sentence
    up = (stored.file.parent / ".baton" / "logs" / "up.log").read_text()
    assert [json.loads(line)["levelname"] for line in up.splitlines()][-1] == "INFO"
