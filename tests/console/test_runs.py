"""Runs: the list, one run while it goes on and when it is over, start and cancel."""

from __future__ import annotations

import asyncio
import re

from baton.store.records import RunEvent, RunStage, RunState
from services.console.runs import MOST_POINTS, curve, opened, share_done
from services.control.api.runs import event_stream
from tests.support.browsing import words
from tests.support.local_control import decide, publish

RUNS = "/console/models/m/runs"


def start(browser, **fields):
    browser.get(RUNS)
    [once] = re.findall(r'name="once" value="(\w+)"', browser._page)
    return browser.post(RUNS, **{"once": once, **fields})


def test_a_run_is_started_once_however_often_its_form_is_sent(browser):
    assert "No runs yet." in browser.text(RUNS)
    answer = start(browser, set="training.epochs=5")
    assert answer.status_code == 303
    [run] = browser.registry.runs.list("m")
    assert answer.headers["location"] == f"{RUNS}/{run.id}?done=started"
    assert run.spec["training"]["epochs"] == 5
    [once] = re.findall(r'name="once" value="(\w+)"', browser._page)
    again = browser.post(RUNS, once=once, set="training.epochs=5")
    assert again.headers["location"] == answer.headers["location"]
    assert start(browser, set="").status_code == 409
    assert len(browser.registry.runs.list("m")) == 1


def test_an_override_that_is_not_valid_says_why_and_starts_nothing(browser):
    answer = start(browser, set="training.epochs=many")
    assert answer.status_code >= 400
    assert "training.epochs" in words(answer.text)
    assert 'value="training.epochs=many"' in answer.text
    assert browser.post(RUNS, set="").status_code == 422
    assert browser.registry.runs.list("m") == []


def test_a_run_that_goes_on_shows_its_progress_its_curves_and_the_end_of_its_log(browser):
    registry = browser.registry
    location = start(browser, set="").headers["location"]
    [run] = registry.runs.list("m")
    registry.runs.start(run.id)
    for step, f1 in ((10, 0.5), (20, 0.7), (30, 0.8)):
        progress = {"epoch": step / 10, "epochs": 4, "step": step, "steps": 40, "loss": 1 / step, "f1": f1, "seconds_left": 70}
        registry.runs.report(run.id, RunStage.TRAINING, progress)
    text = browser.text(location)
    assert "The run has begun. Status training" in text
    assert "Epoch 3.0 / 4 Loss 0.033 F1 0.800 Left 1 min 10 s" in text
    assert '<progress max="1" value="0.750"' in browser._page
    assert re.findall(r"<title>(\d+: [\d.]+)</title>", browser._page)[:3] == ["10: 0.500", "20: 0.700", "30: 0.800"]
    assert 'data-refresh="2"' in browser._page
    assert f"first line of {run.id} last line <b>of it</b>" in text
    assert "last line &lt;b&gt;" in browser._page


def test_the_events_of_a_run_begin_after_the_last_one_that_the_page_has(browser):
    registry = browser.registry
    run = registry.runs.create("m", {}, None, started=True)
    for step in (1, 2, 3):
        registry.runs.report(run.id, RunStage.TRAINING, {"epoch": step / 3, "step": step, "steps": 3})
    browser.text(f"{RUNS}/{run.id}")
    [url] = re.findall(r'data-events="([^"]+)"', browser._page)
    ids = [event.id for event in registry.runs.events(run.id)]
    assert url == f"{RUNS}/{run.id}/events?after={ids[-1]}"
    registry.runs.finish(run.id, RunState.FAILED, reason="x")
    whole = browser.client.get(f"{RUNS}/{run.id}/events")
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert re.findall(r"id: (\d+)", whole.text)[: len(ids)] == [str(number) for number in ids]
    assert "event: end" in whole.text
    rest = browser.client.get(f"{RUNS}/{run.id}/events?after={ids[0]}", headers={"last-event-id": str(ids[1])})
    assert re.findall(r"id: (\d+)", rest.text)[0] == str(ids[2])
    assert browser.client.get(f"{RUNS}/{run.id}/events?after=x").status_code == 200
    browser.text(f"{RUNS}/{run.id}")
    assert "data-events" not in browser._page
    assert browser.client.get(f"/console/models/other/runs/{run.id}/events").status_code == 404


def test_a_stream_of_events_ends_by_itself(browser):
    run = browser.registry.runs.create("m", {}, None, started=True)
    events = opened(event_stream(browser.registry, run.id, 0, seconds=0.0))

    async def all_of_it() -> list[str]:
        return [event async for event in events]

    assert asyncio.run(all_of_it()) == [":\n\n"]


def test_a_run_shows_what_it_found_in_its_data(browser):
    location = start(browser, set="").headers["location"]
    [run] = browser.registry.runs.list("m")
    browser.registry.runs.start(run.id)
    findings = [
        {"level": "warning", "what": "train: HTML", "rows": 1, "examples": ["train row 3: '<b>where</b>'"]},
        {"level": "note", "what": "t.csv: not read: 'id'", "rows": 0, "examples": []},
    ]
    browser.registry.runs.report(run.id, RunStage.PREPARING, {"data": {"findings": findings}})
    text = browser.text(location)
    assert "warning: 1 row: train: HTML (train row 3: '<b>where</b>')" in text
    assert "note: t.csv: not read: 'id'" in text


def test_a_run_is_cancelled(browser):
    start(browser, set="")
    [run] = browser.registry.runs.list("m")
    browser.get(f"{RUNS}/{run.id}")
    answer = browser.post(f"{RUNS}/{run.id}/cancel")
    assert answer.headers["location"] == f"{RUNS}/{run.id}?done=cancelled"
    assert browser.registry.runs.get(run.id).state is RunState.CANCELLED
    text = browser.text(answer.headers["location"])
    assert "The run was cancelled. Status cancelled" in text
    assert "data-refresh" not in browser._page
    browser.get(RUNS)
    assert browser.post(f"{RUNS}/{run.id}/cancel").status_code == 409


def test_a_run_that_is_over_shows_its_version_and_the_verdict(browser):
    registry = browser.registry
    run = registry.runs.create("m", {}, None, started=True)
    publish(registry, "m", 40, run.id)
    decision = decide(registry, "m", 4)
    registry.runs.finish(run.id, RunState.SUCCEEDED, version=4, decision_id=decision.id)
    assert decision.sentence in browser.text(f"{RUNS}/{run.id}")
    assert f"{run.id} succeeded v4 reject" in browser.text(RUNS)
    failed = registry.runs.create("m", {}, None, started=True)
    registry.runs.finish(failed.id, RunState.FAILED, reason="out of <memory>")
    assert "out of <memory>" in browser.text(f"{RUNS}/{failed.id}")
    assert "out of <memory>" in browser.text(RUNS)


def test_a_run_of_another_model_is_not_shown(browser):
    run = browser.registry.runs.create("other", {}, None)
    assert browser.get(f"{RUNS}/{run.id}").status_code == 404
    assert browser.get(f"{RUNS}/nobody").status_code == 404
    browser.get("/")
    assert browser.post(f"{RUNS}/{run.id}/cancel").status_code == 404
    assert browser.registry.runs.get(run.id).state is RunState.QUEUED


def test_pages_of_runs_follow_each_other(browser):
    for _ in range(51):
        run = browser.registry.runs.create("m", {}, None)
        browser.registry.runs.finish(run.id, RunState.CANCELLED, reason="x")
    first = browser.registry.runs.list("m", limit=None)[-1]
    assert first.id not in browser.text(RUNS)
    [before] = re.findall(r'href="\?before=([^"]+)"', browser._page)
    assert first.id in browser.text(f"{RUNS}?before={before}")


def test_a_long_curve_is_thinned_and_keeps_its_end():
    at = None
    events = [RunEvent(id=n, run_id="r", at=at, data={"step": n, "loss": 1 / (n + 1)}) for n in range(5000)]  # type: ignore[arg-type]
    [line] = curve(events, "loss").lines
    assert MOST_POINTS // 2 < len(line.points) <= MOST_POINTS
    assert line.points[-1].title.startswith("4999:")
    assert curve(events, "f1") is None
    assert (share_done({}), share_done({"done": 5, "total": 0}), share_done({"trial": 3, "trials": 2})) == (None, None, 1.0)
