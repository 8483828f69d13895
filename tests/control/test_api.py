"""The control API: every route, every refusal, over a real registry and the real control plane."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from baton import __version__
from baton.artifacts.frozen import QUARANTINE, to_lines
from baton.artifacts.storage import Storage
from baton.quality.trials import TrialCounts
from baton.store import database
from baton.store.records import RunState
from services.control.api import runs as run_routes
from services.control.api.app import build_api
from tests.report.cases import win
from tests.support.growing import three_versions
from tests.support.local_control import LocalControl, configured, control_of, publish


@contextlib.asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


class Api:
    """The application over a control plane, one request at a time."""

    def __init__(self, control: LocalControl) -> None:
        self.control = control
        self.registry = control.registry
        self.application = build_api(control, nothing)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.application, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self("POST", path, json=body, **options)

    def promote(self, version: int, **body: Any) -> httpx.Response:
        return self.post("/api/models/m/promotions", {"version": version, **body})


@pytest.fixture
def api(tmp_path: Path) -> Api:
    """Models ``m`` and ``other``, without versions."""
    return Api(control_of(configured(tmp_path, "m", "other")))


@pytest.fixture
def champion(api: Api) -> Api:
    """Versions 1 (60 % right, champion), 2 (90 %) and 3 (50 %) of ``m``."""
    for right in (60, 90, 50):
        publish(api.registry, "m", right)
    assert api.promote(1).status_code == 200
    return api


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem document that is as RFC 9457 wants it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert (content["type"], content["status"]) == ("about:blank", status)
    assert content["title"]
    assert content["error"] == content["detail"]
    detail: str = content["detail"]
    return detail


# --- health --------------------------------------------------------------------------------------------------------------


def test_health_is_told_with_the_version_of_the_code(api):
    assert api.get("/healthz").json() == {"status": "ok", "version": __version__}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_health_is_told_to_head_and_its_methods_to_options(api, path):
    assert api("HEAD", path).status_code == 200
    answer = api("OPTIONS", path)
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def test_a_service_without_champions_is_ready(api):
    assert api.get("/readyz").json() == {"status": "ready"}


def test_a_champion_that_no_replica_serves_makes_the_service_not_ready(champion):
    assert champion.get("/readyz").status_code == 200
    champion.control.replicas.serving["m"] = 3
    assert "m: no replica serves the champion v1: it is still loading" in problem(champion.get("/readyz"), 503)


def test_the_root_of_the_open_inference_protocol_tells_what_is_ready(champion):
    assert champion.get("/v2").json()["name"] == "baton"
    assert champion.get("/v2/health/live").json() == {"live": True}
    assert champion.get("/v2/health/ready").json() == {"ready": True}
    index = champion.post("/v2/repository/index").json()
    assert index[0] == {"name": "m", "version": "1", "state": "READY", "reason": ""}
    assert {entry["state"] for entry in index[1:]} <= {"UNAVAILABLE"}
    assert champion.post("/v2/repository/index", {"ready": True}).json() == index[:1]
    assert "is not allowed; allowed:" in problem(champion.post("/v2/repository/index", {"ready": 1}), 422)
    champion.control.replicas.serving["m"] = 3
    answer = champion.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})


def test_the_interface_describes_itself(api):
    paths = api.get("/openapi.json").json()["paths"]
    expected = {
        "/healthz": {"get"},
        "/readyz": {"get"},
        "/v2": {"get"},
        "/v2/health/live": {"get"},
        "/v2/health/ready": {"get"},
        "/v2/repository/index": {"post"},
        "/api/models": {"get"},
        "/api/models/{model}": {"get"},
        "/api/models/{model}/versions": {"get"},
        "/api/models/{model}/versions/{number}": {"get"},
        "/api/models/{model}/history": {"get"},
        "/api/models/{model}/runs": {"get", "post"},
        "/api/runs/{run_id}": {"get"},
        "/api/runs/{run_id}/data": {"get"},
        "/api/runs/{run_id}/events": {"get"},
        "/api/runs/{run_id}/cancel": {"post"},
        "/api/models/{model}/promotions": {"get", "post"},
        "/api/models/{model}/rollback": {"post"},
        "/api/models/{model}/rollout": {"get", "post", "delete"},
        "/api/models/{model}/rollouts": {"get"},
        "/api/models/{model}/datasets": {"get"},
        "/api/models/{model}/datasets/{number}": {"get"},
        "/api/models/{model}/datasets/{number}/diff": {"get"},
    }
    assert {path: set(paths.get(path, {})) & set(methods) for path, methods in expected.items()} == expected
    assert api.get("/docs").status_code == 200


# --- roll-outs -----------------------------------------------------------------------------------------------------------


def test_a_canary_begins_is_shown_with_what_was_measured_and_ends(champion):
    champion.control.replicas.measured["m"] = TrialCounts(answers=9, champion_answers=81, compared=2, agreed=1, shift=0.5)
    path = "/api/models/m/rollout"
    begun = champion.post(path, {"version": 2, "mode": "canary", "percent": 10})
    assert begun.status_code == 200, begun.text
    assert {key: begun.json()[key] for key in ("version", "champion", "mode", "state", "percent", "minutes")} == {
        "version": 2,
        "champion": 1,
        "mode": "canary",
        "state": "canary",
        "percent": 10.0,
        "minutes": None,
    }
    shown = champion.get(path).json()
    assert (shown["measured"]["answers"], shown["measured"]["champion_answers"], shown["measured"]["errors"]) == (9, 81, 0)
    judges = {"champion_errors": 0, "judges": True}
    assert shown["feedback"] == {"wrong": 0, "champion_wrong": 0, "f1": None, "champion_f1": None, "pairs": None, **judges}
    assert champion.get("/api/models/m").json()["rollout"] == {
        "version": 2,
        "mode": "canary",
        "state": "canary",
        "percent": 10.0,
    }
    other = champion.post(path, {"version": 3, "mode": "shadow", "percent": 5})
    assert problem(other, 409) == "m: the roll-out of v2 is active (canary); `baton rollout m --stop` ends it"
    for blank in ("", "   "):
        assert "the end of a trial needs a reason" in problem(champion("DELETE", path, json={"reason": blank}), 422)
    ended = champion("DELETE", path, json={"reason": "seen enough"})
    assert (ended.status_code, ended.json()["state"], ended.json()["reason"]) == (200, "rolled back", "seen enough")
    assert "no canary and no shadow" in problem(champion("DELETE", path), 404)
    assert champion.get("/api/models/m").json()["rollout"] is None
    listed = champion.get("/api/models/m/rollouts").json()["items"]
    assert [(item["version"], item["mode"], item["state"]) for item in listed] == [
        (2, "canary", "rolled back"),
        (1, "direct", "settled"),
    ]
    assert "evidence" not in listed[0]


def test_a_trial_that_makes_no_sense_is_refused_with_what_is_allowed(champion):
    path = "/api/models/m/rollout"
    assert "already the champion" in problem(champion.post(path, {"version": 1, "mode": "canary", "percent": 10}), 409)
    problem(champion.post(path, {"version": 9, "mode": "canary", "percent": 10}), 404)
    for body, expected in (
        ({"percent": 0}, "percent: 0 is not allowed; above 0"),
        ({"percent": 51}, "percent: 51 is not allowed for a canary; at most 50"),
        ({"percent": 101}, "percent: 101 is not allowed for a canary; at most 50"),
        ({"percent": 101, "mode": "shadow"}, "percent: 101 is not allowed for a shadow; at most 100"),
        ({"mode": "direct"}, "mode: 'direct' is not allowed; input should be 'canary' or 'shadow'"),
        ({"minutes": 0}, "minutes: 0 is not allowed; above 0"),
        ({"minute": 1}, "minute: unknown key; did you mean 'minutes'? allowed: version, mode, percent, minutes, reason"),
    ):
        assert problem(champion.post(path, {"version": 2, "mode": "canary", "percent": 10, **body}), 422) == expected
    assert "other has had no roll-out" in problem(champion.get("/api/models/other/rollout"), 404)
    publish(champion.registry, "other", 60)
    no_champion = champion.post("/api/models/other/rollout", {"version": 1, "mode": "canary", "percent": 10})
    assert "other has no champion to compare v1 with; promote it" in problem(no_champion, 409)


# --- models and versions -------------------------------------------------------------------------------------------------


def test_models_are_listed_with_champion_score_and_replicas(champion):
    first, second = champion.get("/api/models").json()["items"]
    assert (first["name"], first["task"], first["champion"], first["sequence"]) == ("m", "classification", 1, 1)
    assert first["f1"] == pytest.approx(0.6, abs=0.05)
    assert [state["version"] for state in first["replicas"]] == [1]
    assert (first["rollout"], first["active_run"]) == (None, None)
    assert (second["name"], second["champion"], second["f1"]) == ("other", None, None)
    assert champion.get("/api/models/m").json() == first


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/models/nope"),
        ("GET", "/api/models/nope/versions"),
        ("GET", "/api/models/nope/versions/1"),
        ("GET", "/api/models/nope/history"),
        ("GET", "/api/models/nope/runs"),
        ("POST", "/api/models/nope/runs"),
        ("GET", "/api/models/nope/promotions"),
        ("POST", "/api/models/nope/promotions"),
        ("POST", "/api/models/nope/rollback"),
        ("GET", "/api/models/nope/datasets"),
        ("GET", "/api/models/nope/datasets/1"),
        ("GET", "/api/models/nope/datasets/2/diff"),
    ],
)
def test_an_unknown_model_is_told_the_declared_ones(api, method, path):
    body = {"version": 1} if path.endswith("promotions") else None
    answer = api(method, path, json=body) if method == "POST" else api(method, path)
    assert problem(answer, 404) == "unknown model 'nope'; declared models: m, other"


def test_a_declared_model_whose_route_the_proxy_does_not_know_yet_is_starting_not_unknown(api):
    answer = api("POST", "/models/m", json={"inputs": "a"})
    assert problem(answer, 503) == "m is starting; try again"
    assert answer.headers["retry-after"] == "1"


def test_versions_are_listed_newest_first_in_brief_and_one_is_told_in_full(champion):
    items = champion.get("/api/models/m/versions").json()["items"]
    assert [(item["number"], item["champion"]) for item in items] == [(3, False), (2, False), (1, True)]
    assert set(items[0]["metrics"]) == {"f1", "accuracy"}
    whole = champion.get("/api/models/m/versions/1").json()
    assert whole["champion"]
    assert whole["metrics"]["confusion"] == [[25]]
    assert whole["lineage"]["dataset"]["train_rows"] == 400


def test_an_unknown_version_is_told_the_known_ones(champion):
    assert problem(champion.get("/api/models/m/versions/9"), 404) == "m has no version 9; its versions go from 1 to 3"
    assert problem(champion.get("/api/models/other/versions/1"), 404) == "other has no version 1; it has no versions yet"
    assert "m has no version 9" in problem(champion.promote(9), 404)


def test_lists_are_paged_by_next(api):
    for right in range(50, 55):
        publish(api.registry, "m", right)
    pages, before = [], None
    while True:
        page = api.get("/api/models/m/versions", params={"limit": 2} | ({"before": before} if before else {})).json()
        pages.append([item["number"] for item in page["items"]])
        before = page["next"]
        if before is None:
            break
    assert pages == [[5, 4], [3, 2], [1]]


def test_runs_and_promotions_are_paged_by_next(champion):
    champion.promote(2)
    champion.promote(3, force=True, reason="a test")
    runs = []
    for _ in range(3):
        run = champion.post("/api/models/m/runs").json()
        runs.insert(0, run["id"])
        champion.post(f"/api/runs/{run['id']}/cancel")
    for path, key, expected in (("runs", "id", runs), ("promotions", "version", [3, 2, 1])):
        first = champion.get(f"/api/models/m/{path}", params={"limit": 2}).json()
        assert [item[key] for item in first["items"]] == expected[:2]
        second = champion.get(f"/api/models/m/{path}", params={"limit": 2, "before": first["next"]}).json()
        assert [item[key] for item in second["items"]] == expected[2:]
        assert second["next"] is None


def test_the_history_tells_what_happened_newest_first(champion):
    champion.promote(3)
    champion.promote(2)
    champion.post("/api/models/m/rollback", {"reason": "customers complained"})
    items = champion.get("/api/models/m/history").json()["items"]
    assert [(item["what"], item["version"]) for item in items] == [
        ("rolled back", 1),
        ("promoted", 2),
        ("refused", 3),
        ("promoted", 1),
    ]
    assert "customers complained" in items[0]["text"]
    assert len(champion.get("/api/models/m/history", params={"limit": 1}).json()["items"]) == 1


# --- runs ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_queued_submitted_and_watched(api):
    answer = api.post("/api/models/m/runs", {"set": ["training.epochs=7"]})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["model"], run["state"], run["spec"]["training"]["epochs"]) == ("m", "queued", 7)
    assert api.control.jobs.submitted == [run["id"]]
    assert api.get("/api/models/m").json()["active_run"] == run["id"]
    assert api.get(f"/api/runs/{run['id']}").json() == {**run, "decision": None}
    assert [item["id"] for item in api.get("/api/models/m/runs").json()["items"]] == [run["id"]]


def test_a_run_needs_no_body(api):
    assert api("POST", "/api/models/m/runs").status_code == 202


def test_a_second_run_of_a_model_waits_for_the_first_and_other_models_do_not(api):
    first = api.post("/api/models/m/runs").json()["id"]
    assert f"run {first} is active; wait for it or cancel it" in problem(api.post("/api/models/m/runs"), 409)
    assert api.post("/api/models/other/runs").status_code == 202
    assert api.post(f"/api/runs/{first}/cancel").status_code == 200
    assert api.post("/api/models/m/runs").status_code == 202


def test_the_same_idempotency_key_is_the_same_run_even_when_it_is_over(api):
    key = {"Idempotency-Key": "nightly-17"}
    first = api.post("/api/models/m/runs", {}, headers=key).json()
    assert api.post("/api/models/m/runs", {}, headers=key).json()["id"] == first["id"]
    api.post(f"/api/runs/{first['id']}/cancel")
    again = api.post("/api/models/m/runs", {}, headers=key)
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (202, first["id"], "cancelled")
    assert api.control.jobs.submitted == [first["id"]]
    other = api.post("/api/models/m/runs", {}, headers={"Idempotency-Key": "nightly-18"}).json()
    assert other["id"] != first["id"]


def test_the_trace_of_the_request_is_remembered_with_its_run(api):
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    run = api.post("/api/models/m/runs", {}, headers={"traceparent": trace}).json()["id"]
    assert [event.data for event in api.control.registry.runs.events(run)] == [{"stage": "queued", "traceparent": trace}]
    other = api.post("/api/models/other/runs", {}, headers={"traceparent": "nonsense"}).json()["id"]
    assert api.control.registry.runs.events(other) == []


def test_a_run_is_cancelled_once(api):
    run = api.post("/api/models/m/runs").json()["id"]
    assert api.post(f"/api/runs/{run}/cancel").json()["state"] == "cancelled"
    assert problem(api.post(f"/api/runs/{run}/cancel"), 409) == f"run {run} is over: cancelled"


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/data"), ("GET", "/events"), ("POST", "/cancel")])
def test_an_unknown_run_is_told_how_to_find_the_known_ones(api, method, path):
    assert "no run 'm-1'; `baton runs MODEL` lists them" in problem(api(method, f"/api/runs/m-1{path}"), 404)


def test_a_finished_run_is_told_with_its_decision(champion):
    run = champion.post("/api/models/m/runs").json()["id"]
    champion.registry.runs.start(run)
    [decision] = [item["decision_id"] for item in champion.get("/api/models/m/promotions").json()["items"]]
    champion.registry.runs.finish(run, RunState.SUCCEEDED, version=1, decision_id=decision)
    told = champion.get(f"/api/runs/{run}").json()
    assert (told["state"], told["version"], told["decision"]["verdict"]) == ("succeeded", 1, "promote")


def test_a_run_tells_what_it_found_in_its_data(api):
    run = api.post("/api/models/m/runs").json()["id"]
    assert (
        problem(api.get(f"/api/runs/{run}/data"), 404)
        == f"run {run} has no report about its data: it is queued, and froze none"
    )
    api.registry.runs.start(run)
    report = {"task": "classification", "splits": [], "findings": []}
    api.registry.runs.report(run, "preparing", {"data": report})
    api.registry.runs.report(run, "training", {"epoch": 1})
    assert api.get(f"/api/runs/{run}/data").json() == report


def events_of(text: str) -> list[dict[str, str]]:
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [dict(line.split(": ", 1) for line in block) for block in blocks]


def test_the_events_of_a_run_are_streamed_until_it_ends(api, monkeypatch):
    monkeypatch.setattr(run_routes, "EVENT_SECONDS", 0.01)
    run = api.post("/api/models/m/runs").json()["id"]
    api.registry.runs.start(run)
    api.registry.runs.report(run, "training", {"epoch": 1})
    seen = threading.Event()
    read = api.registry.runs.events

    def spy(run_id: str, after: int = 0) -> Any:
        found = read(run_id, after)
        if after:  # the stream has sent what there was, and looks again
            seen.set()
        return found

    monkeypatch.setattr(api.registry.runs, "events", spy)

    def work() -> None:
        assert seen.wait(30)
        api.registry.runs.report(run, "training", {"epoch": 2})
        api.registry.runs.finish(run, RunState.FAILED, reason="out of luck")

    worker = threading.Thread(target=work)
    worker.start()
    answer = api.get(f"/api/runs/{run}/events")
    worker.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [event["event"] for event in events] == ["progress", "progress", "progress", "end"]
    assert [json.loads(event["data"]).get("epoch") for event in events[:2]] == [1, 2]
    last = json.loads(events[-1]["data"])
    assert (last["id"], last["state"], last["reason"]) == (run, "failed", "out of luck")


def test_a_stream_goes_on_after_the_last_event_that_was_seen(api):
    run = api.post("/api/models/m/runs").json()["id"]
    api.registry.runs.start(run)
    for epoch in (1, 2, 3):
        api.registry.runs.report(run, "training", {"epoch": epoch})
    api.registry.runs.finish(run, RunState.CANCELLED)
    whole = events_of(api.get(f"/api/runs/{run}/events").text)
    rest = events_of(api.get(f"/api/runs/{run}/events", headers={"Last-Event-ID": whole[1]["id"]}).text)
    assert rest == whole[2:]
    assert rest[-1]["event"] == "end"


# --- promotions ----------------------------------------------------------------------------------------------------------


def test_a_version_that_wins_takes_over_and_the_answer_holds_the_decision(champion):
    answer = champion.promote(2)
    assert answer.status_code == 200
    content = answer.json()
    assert (content["decision"]["verdict"], content["decision"]["candidate"], content["decision"]["champion"]) == (
        "promote",
        2,
        1,
    )
    assert (content["promotion"]["version"], content["promotion"]["previous"], content["promotion"]["sequence"]) == (2, 1, 2)
    assert content["promotion"]["decision_id"] == content["decision"]["id"]
    assert champion.get("/api/models/m").json()["champion"] == 2


def test_a_version_that_loses_is_refused_with_the_decision_and_nothing_moves(champion):
    answer = champion.promote(3)
    detail = problem(answer, 409)
    decision = answer.json()["decision"]
    assert answer.json()["title"] == "refused by the gate"
    assert (decision["verdict"], decision["candidate"], decision["champion"]) == ("reject", 3, 1)
    assert detail == decision["sentence"]
    assert decision["numbers"]["gain"] < 0
    assert champion.get("/api/models/m").json()["champion"] == 1
    assert len(champion.get("/api/models/m/promotions").json()["items"]) == 1


def test_a_match_that_was_played_is_not_played_again(champion):
    champion.promote(3)
    champion.promote(3)
    assert len([job for job in champion.control.jobs.submitted if job.startswith("judge-m-3-")]) == 1


def test_a_first_version_below_min_f1_is_refused(api):
    publish(api.registry, "m", 40)
    assert "the first version, F1 0.4" in problem(api.promote(1), 409)


def test_a_match_that_was_won_holds_again_after_a_rollback_to_its_champion(champion):
    assert champion.promote(2).status_code == 200
    champion.post("/api/models/m/rollback", {"reason": "to see"})
    assert champion.registry.champion("m").version == 1
    jobs = len(champion.control.jobs.submitted)
    decision = champion.promote(2).json()["decision"]
    assert (decision["champion_sequence"], decision["numbers"]["match"]) == (3, 1)
    assert len(champion.control.jobs.submitted) == jobs


def test_a_decision_is_read_with_its_policy_and_its_numbers(champion):
    decision = champion.promote(2).json()["decision"]
    assert champion.get(f"/api/decisions/{decision['id']}").json() == decision
    assert decision["policy"]["max_drop"] == 0.02
    assert {"p", "p_swap", "p_normal", "allowed", "match", "left", "parts", "labels"} <= decision["numbers"].keys()
    problem(champion.get("/api/decisions/999"), 404)
    problem(champion.get("/api/decisions/0"), 422)


def test_a_report_is_read_with_its_newest_decision_and_its_absence_is_explained(champion):
    assert "the gate has not judged m v2" in problem(champion.get("/api/models/m/versions/2/report"), 404)
    decision = champion.promote(2).json()["decision"]
    told = problem(champion.get("/api/models/m/versions/2/report"), 404)
    assert f"decision {decision['id']} on m v2 has no report" in told
    problem(champion.get("/api/models/m/versions/99/report"), 404)
    stored = champion.registry.decision(decision["id"])
    path = "models/m/reports/one.json"
    Storage(champion.control.config.storage).write_report(path, b'{"rows": []}')
    newer = champion.registry.add_decision(replace(stored, id=None, numbers={**stored.numbers, "report": path}))
    answer = champion.get("/api/models/m/versions/2/report").json()
    assert (answer["decision"]["id"], answer["report"]) == (newer.id, {"rows": []})


def test_the_report_is_a_page_that_runs_no_script_in_two_languages(champion):
    url = "/api/models/m/versions/2/report.html"
    assert "the gate has not judged m v2" in problem(champion.get(url), 404)
    path = "models/m/reports/one.json"
    Storage(champion.control.config.storage).write_report(path, json.dumps(win()["report"]).encode())
    stored = champion.registry.decision(champion.promote(2).json()["decision"]["id"])
    champion.registry.add_decision(replace(stored, id=None, numbers={**stored.numbers, "report": path}))
    answer = champion.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert policy.endswith("frame-ancestors 'none'")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert stored.sentence in answer.text
    assert 'lang="zh-Hans"' in champion.get(url, params={"language": "zh"}).text
    assert "'xx' is not allowed" in problem(champion.get(url, params={"language": "xx"}), 422)
    problem(champion.get("/api/models/m/versions/99/report.html"), 404)
    problem(champion.get("/api/models/nobody/versions/1/report.html"), 404)


def test_versions_tell_how_they_became_champion(champion):
    champion.promote(3, force=True, reason="a hotfix")
    champion.post("/api/models/m/rollback", {"reason": "it was none"})
    moves = {item["number"]: item["moves"] for item in champion.get("/api/models/m/versions").json()["items"]}
    assert moves == {1: ["gate", "rollback"], 2: [], 3: ["force"]}
    items = champion.get("/api/models/m/versions").json()["items"]
    assert [item["number"] for item in items if item["rolled_back"]] == [3]


def test_a_model_tells_how_often_its_champion_was_challenged(champion):
    assert champion.get("/api/models/m").json()["matches"]["played"] == 0
    champion.promote(3)
    told = champion.get("/api/models/m").json()["matches"]
    assert (told["played"], told["left"]) == (1, pytest.approx(0.025))


def test_force_passes_the_gate_with_a_reason_that_stays(champion):
    answer = champion.promote(3, force=True, reason="the holdout is wrong")
    assert answer.status_code == 200
    decision = answer.json()["decision"]
    assert (decision["kind"], decision["reason"], decision["sentence"]) == (
        "force",
        "the holdout is wrong",
        "Forced v3 in place of v1.",
    )
    assert champion.get("/api/models/m/promotions").json()["items"][0]["kind"] == "force"


@pytest.mark.parametrize("reason", [None, ""])
def test_force_without_a_reason_is_refused(champion, reason):
    told = problem(champion.promote(3, force=True, reason=reason), 422)
    assert told == "force needs a reason; it stays in the history"
    assert champion.get("/api/models/m").json()["champion"] == 1


def test_promoting_the_champion_is_a_conflict(champion):
    assert problem(champion.promote(1), 409) == "v1 is already the champion of m"


def test_a_version_that_no_replica_can_load_is_a_conflict_and_the_champion_stays(champion):
    champion.control.replicas.broken[2] = "altered"
    assert problem(champion.promote(2), 409) == (
        "m: v2 cannot take over: 1 of 1 replica cannot load it: altered; the champion stays"
    )
    assert champion.get("/api/models/m").json()["champion"] == 1
    assert champion.get("/api/models/m/history").json()["items"][0]["what"] == "rollout failed"


def test_a_rollback_brings_the_previous_champion_back(champion):
    champion.promote(2)
    answer = champion("POST", "/api/models/m/rollback")
    assert answer.status_code == 200
    assert (answer.json()["promotion"]["version"], answer.json()["decision"]["kind"]) == (1, "rollback")
    assert champion.get("/api/models/m").json()["champion"] == 1


def test_a_rollback_to_a_version_that_never_was_champion_is_a_conflict(champion):
    told = problem(champion.post("/api/models/m/rollback", {"version": 3}), 409)
    assert told == "v3 has never been champion of m; use promote"


def test_a_rollback_without_an_earlier_champion_is_a_conflict(champion):
    assert problem(champion.post("/api/models/m/rollback", {}), 409) == "m has no earlier champion to roll back to"


# --- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/api/models/m/promotions", {}, "version: missing; it has no default"),
        (
            "POST",
            "/api/models/m/promotions",
            {"version": 0},
            "version: 0 is not allowed; at least 1",
        ),
        (
            "POST",
            "/api/models/m/promotions",
            {"version": "two"},
            "version: 'two' is not allowed; input should be a valid integer",
        ),
        (
            "POST",
            "/api/models/m/promotions",
            {"version": 1, "forced": True},
            "forced: unknown key; did you mean 'force'? allowed: version, force, reason",
        ),
        ("POST", "/api/models/m/promotions", {"version": 10**20}, f"version: {10**20} is not allowed; at most "),
        ("POST", "/api/models/m/rollback", {"version": 10**20}, f"version: {10**20} is not allowed; at most "),
        ("POST", "/api/models/m/rollback", {"reason": ""}, "a rollback needs a reason"),
        (
            "POST",
            "/api/models/m/runs",
            {"set": "training.epochs=5"},
            "set: 'training.epochs=5' is not allowed; input should be a valid list",
        ),
        ("POST", "/api/models/m/runs", {"epochs": 5}, "epochs: unknown key; allowed: set"),
        ("POST", "/api/models/m/runs", {"set": ["training.epochs=x"]}, "training.epochs: 'x' is not allowed"),
        ("POST", "/api/models/m/runs", {"set": ["training.epoch=5"]}, "training.epoch: unknown key; did you mean 'epochs'?"),
        ("GET", "/api/models/m/versions/two", None, "path.number: 'two' is not allowed; input should be a valid integer"),
        ("GET", f"/api/models/m/versions/{10**20}", None, "path.number: "),
        ("GET", "/api/models/m/versions?limit=0", None, "query.limit: '0' is not allowed; at least 1"),
        ("GET", "/api/models/m/versions?limit=501", None, "query.limit: '501' is not allowed; at most 500"),
        ("GET", f"/api/models/m/versions?before={10**20}", None, "query.before: "),
        ("GET", f"/api/models/m/promotions?before={10**20}", None, "query.before: "),
        ("GET", "/api/models/m/history?before=0001-01-01T00:00:00%2B14:00", None, "query.before: "),
    ],
)
def test_a_value_that_is_not_allowed_is_told_with_its_place(champion, method, path, body, expected):
    assert expected in problem(champion(method, path, json=body), 422)


def test_several_mistakes_are_told_at_once(api):
    told = problem(api.post("/api/models/m/promotions", {"version": "two", "force": "perhaps"}), 422)
    assert "version: 'two' is not allowed" in told
    assert "force: 'perhaps' is not allowed" in told


def test_a_body_that_is_not_json_is_malformed(api):
    answer = api("POST", "/api/models/m/runs", content=b"{", headers={"content-type": "application/json"})
    assert answer.json()["title"] == "malformed request"
    assert problem(answer, 400).startswith("the body is not JSON: Expecting property name")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/api/nowhere", 404), ("DELETE", "/api/models/m", 405)])
def test_paths_and_methods_that_do_not_exist_are_problems_too(api, method, path, status):
    assert problem(api(method, path), status).endswith(f": {method} {path}")


@pytest.mark.parametrize("path", ["/models/nope", "/models/nope/health", "/models/"])
def test_predictions_of_an_unknown_model_are_told_the_declared_ones(api, path):
    assert problem(api("POST", path, json={"inputs": "a"}), 404).endswith("; declared models: m, other")


def test_a_registry_that_does_not_answer_is_told_as_such(tmp_path):
    api = Api(LocalControl(configured(tmp_path, "m")))
    for path in ("/api/models", "/api/models/m/versions"):
        assert "the registry's database does not answer" in problem(api.get(path), 503)
    for answer in (api.get("/readyz"), api.post("/api/models/m/runs")):
        assert "the database is at schema None" in problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
    assert api.get("/healthz").status_code == 200


def test_nothing_is_written_in_a_schema_that_is_newer_than_the_code(api):
    with database.writing(api.registry._engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for answer in (
        api.post("/api/models/m/runs"),
        api.post("/api/models/m/promotions", {"version": 1}),
        api.post("/api/models/m/feedback", {"text": "a", "label": "b"}),
        api.get("/readyz"),
    ):
        assert "at schema '9999', which this version of Baton" in problem(answer, 503)
        assert problem(answer, 503).endswith("does not know; upgrade Baton")
    assert api.get("/api/models/m").status_code == 200
    assert api.registry.runs.list() == []


def test_a_mistake_of_ours_is_a_problem_without_its_details(api, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(api.registry.versions, "list", broken)
    answer = api.get("/api/models/m/versions")
    assert problem(answer, 500) == "internal error (RuntimeError)"
    assert "secret" not in answer.text


# --- data sets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def growing(api: Api, tmp_path: Path) -> Api:
    """Data sets 1 to 3 of ``m``; see `three_versions`."""
    three_versions(api.control, tmp_path)
    return api


def test_data_sets_are_listed_newest_first_in_pages_without_texts(growing):
    whole = growing.get("/api/models/m/datasets").json()
    assert ([item["number"] for item in whole["items"]], whole["next"]) == ([3, 2, 1], None)
    second = whole["items"][1]
    assert (second["train_rows"], second["train_feedback"], second["holdout_rows"], second["corrections"]) == (5, 2, 3, 1)
    assert (second["set_aside"], second["quarantined_rows"], second["previous"]) == (1, 1, 1)
    assert second["conflicts"] == {"policy": "latest", "texts": 1, "dropped": 1}
    assert "quarantined" not in second
    page = growing.get("/api/models/m/datasets", params={"limit": 2}).json()
    assert ([item["number"] for item in page["items"]], page["next"]) == ([3, 2], 2)
    rest = growing.get("/api/models/m/datasets", params={"limit": 2, "before": page["next"]}).json()
    assert ([item["number"] for item in rest["items"]], rest["next"]) == ([1], None)
    assert growing.get("/api/models/other/datasets").json() == {"items": [], "next": None}


def test_one_data_set_is_told_with_its_counts_conflicts_and_quarantine(growing):
    told = growing.get("/api/models/m/datasets/2").json()
    assert told == json.loads(json.dumps(asdict(growing.registry.datasets.get("m", 2))))
    assert told["counts"]["train"]["feedback"] == {"billing": 1, "shipping": 1}
    [conflict] = told["conflicts"]["examples"]
    assert (conflict["text"], conflict["kept"]) == ("Refund, please", {"label": "shipping"})
    [quarantined] = told["quarantined"]
    assert quarantined["where"] == "feedback 5"
    assert quarantined["reason"].startswith("field 'label' is missing")


def test_the_rows_in_quarantine_are_told_with_their_reasons_in_pages(growing):
    assert growing.get("/api/models/m/datasets/1/quarantine").json() == {"items": [], "next": None}
    told = growing.get("/api/models/m/datasets/2").json()
    assert growing.get("/api/models/m/datasets/2/quarantine").json() == {"items": told["quarantined"], "next": None}
    many = [{"where": f"feedback {number}", "reason": "because"} for number in range(5)]
    Storage(growing.control.config.storage).write_dataset(told["uri"], {}, {QUARANTINE: to_lines(many)})
    page = growing.get("/api/models/m/datasets/2/quarantine", params={"limit": 3}).json()
    assert page == {"items": many[:3], "next": 3}
    rest = growing.get("/api/models/m/datasets/2/quarantine", params={"limit": 2, "after": page["next"]}).json()
    assert rest == {"items": many[3:], "next": None}
    assert "m has no data set 9" in problem(growing.get("/api/models/m/datasets/9/quarantine"), 404)


def test_a_data_set_is_compared_with_the_one_before_or_with_any_other(growing):
    told = growing.get("/api/models/m/datasets/2/diff").json()
    assert (told["model"], told["number"], told["against"]) == ("m", 2, 1)
    train, holdout = told["train"], told["holdout"]
    assert (train["rows_before"], train["rows"], train["added"], train["removed"]) == (4, 5, {"billing": 1}, {})
    assert train["relabelled"] == {"billing → shipping": 1}
    assert (holdout["rows_before"], holdout["rows"], holdout["added"]) == (2, 3, {"billing": 1})
    assert [change["what"] for change in train["changes"]] == ["relabelled", "added"]
    assert growing.get("/api/models/m/datasets/3/diff").json()["train"]["removed"] == {"shipping": 1}
    backwards = growing.get("/api/models/m/datasets/1/diff", params={"against": 3}).json()
    assert (backwards["against"], backwards["train"]["removed"], backwards["train"]["added"]) == (
        3,
        {"billing": 1},
        {"shipping": 1},
    )
    same = growing.get("/api/models/m/datasets/2/diff", params={"against": 2}).json()
    assert (same["train"]["changes"], same["holdout"]["changes"]) == ([], [])


def test_what_cannot_be_compared_or_does_not_exist_is_told(growing):
    assert "data set 1 is the first of m" in problem(growing.get("/api/models/m/datasets/1/diff"), 422)
    expected = "m has no data set 9; its data sets go from 1 to 3"
    for path in ("9", "9/diff", "3/diff?against=9"):
        assert problem(growing.get(f"/api/models/m/datasets/{path}"), 404) == expected
    assert "it has none yet" in problem(growing.get("/api/models/other/datasets/1"), 404)


@pytest.mark.parametrize("path", ["/0", "/x", f"/{2**31}", "?limit=0", "?limit=501", "?before=-1", "/2/diff?against=0"])
def test_numbers_of_data_sets_that_cannot_be_are_refused(growing, path):
    problem(growing.get(f"/api/models/m/datasets{path}"), 422)


def test_a_frozen_data_set_that_was_altered_is_not_compared(growing, tmp_path):
    uri = growing.registry.datasets.get("m", 2).uri
    with (tmp_path / "storage" / uri / "train.jsonl").open("a") as file:
        file.write('{"text": "smuggled in", "label": "bug"}\n')
    assert "was altered" in growing.get("/api/models/m/datasets/2/diff").json()["detail"]


def test_a_data_set_of_another_task_is_not_compared(growing):
    config = growing.control.config
    settings = config.model("m").model_copy(update={"task": "qa"})
    growing.control.config = config.model_copy(update={"models": (settings,)})
    told = problem(growing.get("/api/models/m/datasets/2/diff"), 422)
    assert "the data set was frozen for another task than qa" in told


def test_a_data_set_whose_files_are_gone_is_a_problem_of_the_storage(growing, tmp_path):
    (tmp_path / "storage" / growing.registry.datasets.get("m", 1).uri / "holdout.jsonl").unlink()
    assert "cannot read from storage" in problem(growing.get("/api/models/m/datasets/2/diff"), 503)


def test_a_match_that_was_played_on_another_holdout_than_the_newest_promotes_nothing(growing):
    """The matches of `local_control` are played on a holdout that is none of the model's data sets."""
    publish(growing.registry, "m", 60)
    told = problem(growing.promote(1), 503)
    assert told == "v1 was evaluated, but the champion or the data of m changed in the meantime; try again"
    assert growing.registry.champion("m").version is None


def test_every_answer_has_the_common_headers_unexpected_errors_and_unknown_paths_included(api, monkeypatch):
    monkeypatch.setattr(api.control, "describe", lambda _: 1 / 0)
    answers = [api.get("/healthz"), api.get("/api/models/m"), api.get("/api/models/nope"), api.get("/nothing")]
    assert [answer.status_code for answer in answers] == [200, 500, 404, 404]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
