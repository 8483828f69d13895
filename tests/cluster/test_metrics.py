"""A real service is watched from outside: by a Prometheus, whose every query of the dashboards and the alerts is answered under
load, and by a collector of traces."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.store.records import RunState
from services.demo.traffic import Traffic, failed
from tests.cluster.conftest import LABELS, TEXT, Service, baton, publish, write_config
from tests.support.programs.collector import Collector, collecting
from tests.support.queries import alerts, panel_queries
from tests.support.tiny import keyword_rows
from tests.support.waiting import free_port, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: apt-get install prometheus)"),
]

PAUSE = 0.02
"""Seconds from an answer to the next request of the same client."""

PATIENCE = 120.0
BAD = "{"
"""Not JSON: 400."""


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[Collector, str]]:
    """A collector of traces, and its URL."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def watched(
    tiny_base: Path,
    data: Path,
    checkpoints: list[Path],
    collected: tuple[Collector, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service of its own: ``good`` has versions 1, which serves on both replicas, and 2; ``empty`` has none.

    It traces what callers trace, and nothing else.
    """
    common = {
        "task": "classification",
        "base_model": str(tiny_base),
        "data": {"train": str(data / "small.jsonl"), "holdout": str(data / "holdout.jsonl")},
    }
    models = [{"name": "good", "serving": {"replicas": 2}, **common}, {"name": "empty", **common}]
    traces = {"endpoint": collected[1], "sample": 0}
    service = Service(write_config(tmp_path_factory.mktemp("watched"), free_port(), models, traces=traces))
    try:
        assert str(service.file.parent / ".baton" / "prometheus.yml") in service.baton("up", "--detach").stderr
        for checkpoint in checkpoints[1:]:
            publish(service, "good", checkpoint)
        service.force("good", 1)
        yield service
    finally:
        baton("down", "-c", service.file)
        service.close()


class Prometheus:
    """One that runs, over its HTTP API."""

    def __init__(self, port: int) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30)

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values, those left out that are no numbers (nothing divided by nothing)."""
        found = self.get("/query", query=expression)["result"]
        pairs = [(it["metric"], float(it["value"][1])) for it in found]
        return [(labels, value) for labels, value in pairs if not math.isnan(value)]

    def total(self, expression: str) -> float:
        return sum(value for _, value in self.query(expression))

    def ready(self) -> bool:
        try:
            return self.http.get(self.http.base_url.join("/-/ready")).status_code == 200
        except httpx.TransportError:
            return False

    def healthy_jobs(self) -> set[str]:
        targets = self.get("/targets")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    def active_alerts(self) -> dict[str, set[str]]:
        """State of each alert that is not inactive, with the models that it is about."""
        rules = [rule for group in self.get("/rules")["groups"] for rule in group["rules"]]
        assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
        assert len(rules) == len(alerts())
        return {
            f"{rule['name']} {rule['state']}": {alert["labels"].get("model", "") for alert in rule["alerts"]}
            for rule in rules
            if rule["state"] != "inactive"
        }


@contextmanager
def prometheus(service: Service, directory: Path) -> Iterator[Prometheus]:
    """A Prometheus with the configuration that `baton up` wrote, except that it looks every second."""
    written = (service.file.parent / ".baton" / "prometheus.yml").read_text()
    assert written.count("15s") == 2
    file, port = directory / "prometheus.yml", free_port()
    file.write_text(written.replace("15s", "1s"))
    directories = [f"--storage.tsdb.path={directory / 'data'}", f"--config.file={file}"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *directories, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
        watching = Prometheus(port)
        try:
            until(watching.ready, PATIENCE, "Prometheus is ready")
            yield watching
        finally:
            watching.http.close()
            process.terminate()
            process.wait(30)


def correct_some(service: Service) -> None:
    """Sixty answers with their corrections, by request id."""
    for row in keyword_rows(60, LABELS, seed=9):
        answer = service.predict("good", row["text"])
        correction = {"request_id": answer.headers["x-request-id"], "label": row["label"], "text": row["text"]}
        assert service.http.post("/api/models/good/feedback", json=correction).status_code == 200


def unanswered(watching: Prometheus) -> list[str]:
    """Panels whose query gets nothing."""
    return [where for where, query in panel_queries() if not watching.query(query)]


def test_every_query_of_every_panel_and_alert_is_answered_under_load(watched, tmp_path):
    empty, good = f"{watched.url}/models/empty", f"{watched.url}/models/good"
    with prometheus(watched, tmp_path) as watching:
        jobs = {"baton-control", "baton-nodes", "baton-haproxy"}
        until(lambda: watching.healthy_jobs() == jobs, PATIENCE, "all three targets are up")
        until(lambda: watching.query('baton_runs_total{model="good", state="failed"} == 0'), PATIENCE, "a count to start from")
        until(lambda: watching.query('ray_baton_serving_version{model="good"} == 1'), PATIENCE, "the replicas' own metrics")
        run = watched.registry.runs.create("good", {}, started=True)
        watched.registry.runs.finish(run.id, RunState.FAILED, reason="a test wants it")
        with Traffic(good, [TEXT, TEXT * 3], 3, pause=PAUSE) as answered, Traffic(empty, [TEXT], 1, pause=PAUSE) as refused:
            for _ in range(5):
                assert watched.http.post("/models/good", content=BAD).status_code == 400
            watched.force("good", 2)
            correct_some(watched)
            until(lambda: not unanswered(watching), PATIENCE, f"data in every panel: {unanswered(watching)}")
            wanted = {
                "BatonRunFailed firing": {"good"},
                "BatonNoChampion pending": {"empty"},
                "BatonErrors pending": {"empty"},
                "BatonUnreachable pending": {""},
                "BatonDrift pending": {"good"},  # two texts again and again are not what it was evaluated on
            }
            active = until_equal(watching, wanted)
        assert active == wanted
        assert failed(answered.exchanges) == 0
        assert failed(refused.exchanges) == len(refused.exchanges) > 0
        counts = {'model="good", status="2xx"': len(answered.exchanges) + 60, 'model="empty"': len(refused.exchanges)}
        counts |= {'model="good", status="4xx"': 5, 'model="good", status="5xx"': 0}
        for labels, count in counts.items():
            query = f"ray_baton_requests_total{{{labels}}}"
            until(lambda: watching.total(query) >= count, PATIENCE, f"{count} requests with {labels}")  # noqa: B023
            assert watching.total(query) == count
        versions = {labels["version"] for labels, _ in watching.query('ray_baton_requests_total{model="good"} > 0')}
        assert versions == {"1", "2"}
        assert [value for _, value in watching.query('ray_baton_swaps_total{model="good"}')] == [1, 1]
        assert len({labels["replica"] for labels, _ in watching.query('ray_baton_serving_version{model="good"}')}) == 2


def test_requests_and_runs_are_parts_of_their_callers_trace(watched, collected):
    collector, _ = collected
    assert collector.spans == [], "nobody has traced anything yet"
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    traced = {"traceparent": f"00-{trace}-{parent}-01"}
    assert watched.http.post("/models/good", json={"inputs": TEXT}, headers=traced).status_code == 200
    body = {"set": ["training.method=fine_tune", "training.epochs=1"]}
    started = watched.http.post("/api/models/good/runs", json=body, headers=traced)
    assert started.status_code == 202, started.text
    run = watched.await_run(started.json()["id"])
    assert run.state is RunState.SUCCEEDED, run.reason
    until(lambda: {"POST /models/good", "run good"} <= {span.name for span in collector.spans}, PATIENCE, "both traces")
    assert {span.trace for span in collector.spans} == {trace}
    request, whole = collector.named("POST /models/good"), collector.named("run good")
    assert (request.parent, whole.parent) == (parent, parent)
    assert whole.facts["baton.run"] == run.id
    parts = {span.name: span.parent for span in collector.spans if span.parent != parent}
    assert {name for name, above in parts.items() if above == request.id} == {"queue", "tokenize", "forward", "decode"}
    stages = [name for name, above in parts.items() if above == whole.id]
    assert stages == ["queued", "preparing", "training", "evaluating", "publishing", "deciding"]


def until_equal(watching: Prometheus, wanted: dict[str, set[str]]) -> dict[str, set[str]]:
    """The active alerts, once they are ``wanted``. How long requests take here is no matter of this test."""

    def active() -> dict[str, set[str]]:
        return {name: models for name, models in watching.active_alerts().items() if not name.startswith("BatonSlow")}

    until(lambda: active() == wanted, PATIENCE, f"alerts {wanted}; last: {active()}")
    return active()
