"""The console of a real service, through HAProxy: pages, the playground with a correction, roll-outs, runs while they train."""

from __future__ import annotations

import re

import httpx
import pytest

from baton.store.records import RunState
from services.console.pages import HEADERS, TOKEN_FIELD
from tests.cluster.conftest import TEXT, Service
from tests.support.browsing import words
from tests.support.chromium import needs_chromium, tab
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def post(visitor: httpx.Client, page: str, path: str, **fields: str) -> httpx.Response:
    """Send a form with the token of ``page``."""
    found = re.search(rf'name="{TOKEN_FIELD}" value="(\w+)"', visitor.get(page).text)
    assert found is not None
    return visitor.post(path, data={TOKEN_FIELD: found[1], **fields})


def test_the_console_shows_the_models_and_an_answer_that_is_corrected_there(steady: Service) -> None:
    steady.await_replicas("steady", 1)
    with httpx.Client(base_url=steady.url, timeout=60) as visitor:
        first = visitor.get("/")
        assert first.status_code == 200
        assert {*HEADERS.items()} <= {*first.headers.items()}
        assert "steady classification serving v1" in words(first.text)
        playground = "/console/models/steady/playground"
        answer = post(visitor, playground, playground, text=TEXT)
        assert answer.status_code == 200, words(answer.text)
        answer_id = re.search(r'name="answer_id" value="([^"]+)"', answer.text)
        label = re.search(r'name="label" value="([^"]+)"', answer.text)
        assert answer_id is not None
        assert label is not None
        fields = {"text": TEXT, "answer_id": answer_id[1], "label": label[1]}
        stored = post(visitor, playground, "/console/models/steady/feedback", **fields)
        assert f"Stored as feedback: {label[1]}" in words(stored.text)
        [feedback] = steady.registry.feedback.newest("steady", 1)
        assert feedback.answer_id == answer_id[1]
        assert feedback.example == {"text": TEXT, "label": label[1]}


@needs_chromium
def test_versions_are_promoted_tried_on_a_canary_and_rolled_back_in_a_browser(steady: Service) -> None:
    steady.force("steady", 1)
    steady.await_replicas("steady", 1)
    with tab() as opened:
        page = opened.page

        def move(name: str, version: int, *, sends: str, after: str, **fields: str) -> None:
            page.goto(f"{steady.url}/console/models/steady/versions/{version}")
            page.get_by_role("link", name=name, exact=True).click()
            for field, value in {"reason": f"a test: {name}", **fields}.items():
                page.fill(f"#{field}", value)
            page.get_by_role("button", name=sends, exact=True).click()
            page.get_by_text(after).wait_for()

        page.set_default_timeout(300_000)  # a promotion may evaluate both versions first
        move("Promote", 3, sends="Promote", after="It serves now.")
        assert steady.registry.champion("steady").version == 3
        move("Canary", 2, sends="Canary", after="The trial has begun.", percent="20")
        rollout = steady.registry.rollouts.active("steady")
        assert rollout is not None
        assert (rollout.version, rollout.percent) == (2, 20)
        page.get_by_role("link", name="End the trial", exact=True).click()
        page.fill("#reason", "a test has seen enough")
        page.get_by_role("button", name="End the trial", exact=True).click()
        until(lambda: steady.registry.rollouts.active("steady") is None, 60, "the end of the canary")
        move("Roll back to v1", 3, sends="Roll back", after="The earlier champion serves again.")
        assert steady.registry.champion("steady").version == 1
        steady.await_replicas("steady", 1)
        logbook = page.locator("main").inner_text()
        for reason in ("a test: Promote", "a test: Canary", "a test has seen enough", "a test: Roll back to v1"):
            assert reason in logbook
        assert opened.complaints == []


@needs_chromium
def test_a_run_is_started_and_watched_to_its_end_in_a_browser(runs: Service) -> None:
    with tab() as opened:
        page = opened.page
        page.goto(f"{runs.url}/console/models/runs/runs")
        page.get_by_text("Start a run").first.click()  # unfolds the form
        page.fill("[name=set]", "training.epochs=1")
        page.get_by_role("button", name="Start a run").click()
        page.get_by_text("The run has begun.").wait_for()
        run_id = page.url.rpartition("/")[2].partition("?")[0]
        page.locator(".notice span[lang=en]").wait_for(timeout=600_000)  # the gate's sentence, without loading the page again
        run = runs.registry.runs.get(run_id)
        assert run.state is RunState.SUCCEEDED, run.reason
        assert runs.registry.decision(run.decision_id or 0).sentence in page.locator("main").inner_text()
        assert opened.complaints == []


def test_the_console_starts_a_run_and_shows_its_progress_and_its_log(runs: Service) -> None:
    path = "/console/models/runs/runs"
    with httpx.Client(base_url=runs.url, timeout=60) as visitor:
        begun = post(visitor, path, path, once="console", set="training.batch_size=1 training.epochs=3")
        assert begun.status_code == 303, words(begun.text)
        page = begun.headers["location"]
        run_id = page.rpartition("/")[2].partition("?")[0]
        runs.await_training(run_id, epoch=0.0)
        until(lambda: "<progress" in visitor.get(page).text, 60, "the page shows how much of the run is done")
        until(lambda: '<pre class="log"' in visitor.get(page).text, 60, "the page shows the log of the run's job")
        cancelled = post(visitor, page, f"{path}/{run_id}/cancel")
        assert cancelled.status_code == 303
        assert runs.registry.runs.get(run_id).state is RunState.CANCELLED
        assert "The run was cancelled. Status cancelled" in words(visitor.get(cancelled.headers["location"]).text)
