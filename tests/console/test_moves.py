"""Promote, canary, shadow, roll back and reject from the console, and the history that they leave."""

from __future__ import annotations

import re

import pytest

from baton.keys import Scope
from baton.quality.trials import TrialCounts
from baton.store.records import HistoryKind, RolloutMode
from tests.support.browsing import Browser, keys_for, words
from tests.support.local_control import publish

MOVE = "/console/models/m/move"


def carry_out(browser: Browser, name: str, **fields):
    return browser.post(f"{MOVE}/{name}", page=f"{MOVE}/{name}?version={fields.get('version', 3)}", **fields)


def test_a_version_is_promoted_only_if_the_gate_agrees(browser):
    assert "The champion is v2 now." in browser.text(f"{MOVE}/promote?version=3")
    refused = carry_out(browser, "promote", version="3", reason="let me try")
    assert refused.status_code == 409
    assert browser.registry.newest_gate_decision("m", 3).sentence in words(refused.text)
    assert 'value="3"' in refused.text
    assert "let me try" in refused.text
    publish(browser.registry, "m", 100)
    answer = carry_out(browser, "promote", version="4", reason="better")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/models/m/history?done=promote")
    assert browser.registry.champion("m").version == 4
    assert "It serves now." in browser.text(answer.headers["location"])


def test_force_and_rollback_leave_their_reason_in_the_history(browser):
    assert carry_out(browser, "force", version="3", reason="the board <i>wants</i> it").status_code == 303
    assert browser.registry.champion("m").version == 3
    assert carry_out(browser, "rollback", version="2", reason="complaints").status_code == 303
    assert browser.registry.champion("m").version == 2
    text = browser.text("/console/models/m/history")
    assert "rolled back v2 rollback" in text
    assert "Reason: complaints" in text
    assert "Reason: the board <i>wants</i> it" in text
    assert "<i>" not in browser._page


def test_a_rejected_version_is_marked_and_stays_out(browser):
    publish(browser.registry, "m", 100)
    assert carry_out(browser, "reject", version="4", reason="rude").status_code == 303
    assert "It was rejected: rude" in browser.text("/console/models/m/versions/4")
    assert "/move/reject" not in browser._page
    again = carry_out(browser, "promote", version="4", reason="but good")
    assert (again.status_code, "was rejected: rude" in again.text) == (409, True)


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_trial_is_begun_watched_and_ended(browser, mode):
    browser.control.replicas.measured["m"] = TrialCounts(answers=12, champion_answers=34, compared=10, agreed=9)
    assert carry_out(browser, mode, version="3", percent="20", minutes="", reason="look").status_code == 303
    active = browser.registry.rollouts.active("m")
    assert (active.mode, active.percent, active.minutes) == (RolloutMode(mode), 20.0, None)
    assert active.asked == "look"
    text = browser.text("/console/models/m/history")
    assert f"{mode} v3 {mode} 20% of the requests, beside v2" in text
    assert "20% of the requests until it is ended. Reason: look" in text
    assert carry_out(browser, "end-trial", reason="seen enough").status_code == 303
    assert browser.registry.rollouts.active("m") is None
    assert "seen enough" in browser.text("/console/models/m/history?done=end-trial")


@pytest.mark.parametrize(
    ("name", "fields", "status", "told"),
    [
        ("promote", {"version": "3", "reason": "  "}, 422, "reason: missing"),
        ("promote", {"version": "3", "reason": "x" * 501}, 422, "501 characters"),
        ("promote", {"version": "2", "reason": "x"}, 409, "already the champion"),
        ("reject", {"version": "2", "reason": "x"}, 409, "is the champion"),
        ("rollback", {"version": "3", "reason": "x"}, 409, ""),
        ("canary", {"version": "3", "percent": "60", "reason": "x"}, 422, "at most 50"),
        ("canary", {"version": "3", "percent": "x", "reason": "x"}, 422, ""),
        ("shadow", {"version": "3", "percent": "10", "minutes": "-1", "reason": "x"}, 422, ""),
        ("end-trial", {"reason": "x"}, 404, "no canary"),
    ],
)
def test_a_move_that_is_not_possible_says_why_and_keeps_what_was_entered(browser, name, fields, status, told):
    answer = carry_out(browser, name, **fields)
    assert answer.status_code == status, words(answer.text)
    assert told in words(answer.text)
    assert fields["reason"].strip()[:100] in answer.text
    assert browser.registry.champion("m").version == 2
    assert browser.registry.rollouts.active("m") is None


def test_a_move_that_does_not_exist_or_of_no_version_is_not_found(browser):
    assert browser.get(f"{MOVE}/destroy?version=3").status_code == 404
    assert browser.get(f"{MOVE}/promote?version=77").status_code == 404
    assert browser.get(f"{MOVE}/promote").status_code == 422


MOVES_OF_A_DAY = (
    ("promote", {"version": 4}, "better"),
    ("force", {"version": 3}, "I want it"),
    ("rollback", {"version": 4}, "complaints"),
    ("canary", {"version": 3, "percent": 20}, "look at it"),
    ("end-trial", {}, "seen enough"),
    ("shadow", {"version": 3, "percent": 20}, "look again"),
    ("reject", {"version": 3}, "rude"),
)
"""Every move, with its fields and its reason."""


def test_the_history_says_whose_key_moved_a_version_and_why(closed):
    browser = Browser(closed)
    browser.log_in(keys_for(closed)(Scope.OPERATE))
    publish(browser.registry, "m", 100)
    for name, fields, reason in MOVES_OF_A_DAY:
        assert carry_out(browser, name, reason=reason, **fields).status_code == 303, name
        assert f"{reason} (operate)" in browser.text("/console/models/m/history"), name


def test_calls_of_the_api_leave_the_name_of_their_key_in_the_same_history(closed):
    publish(closed.registry, "m", 100)
    api = Browser(closed, authorization=f"Bearer {keys_for(closed)(Scope.OPERATE)}").client
    paths = {"promote": "promotions", "force": "promotions", "rollback": "rollback", "reject": "versions/3/rejection"}
    for name, fields, reason in MOVES_OF_A_DAY:
        body = {**fields, "reason": reason} | ({"force": True} if name == "force" else {})
        body |= {"mode": name} if name in ("canary", "shadow") else {}
        body = {"reason": reason} if name == "reject" else body
        method = "DELETE" if name == "end-trial" else "POST"
        answer = api.request(method, f"/api/models/m/{paths.get(name, 'rollout')}", json=body)
        assert answer.status_code == 200, answer.text
        told = [entry["text"] for entry in api.get("/api/models/m/history").json()["items"]]
        assert any(f"{reason} (operate)" in text for text in told), (name, told)


def test_who_gives_no_reason_is_named_nevertheless_and_force_still_needs_one(closed):
    publish(closed.registry, "m", 100)
    api = Browser(closed, authorization=f"Bearer {keys_for(closed)(Scope.OPERATE)}").client
    assert api.post("/api/models/m/promotions", json={"version": 3, "force": True}).status_code == 422
    assert api.post("/api/models/m/rollback", json={"reason": " "}).status_code == 422
    assert api.post("/api/models/m/promotions", json={"version": 4}).status_code == 200
    newest = api.get("/api/models/m/history", params={"limit": 1}).json()
    assert newest["items"][0]["text"].endswith("Reason: none given (operate)")


def test_the_history_has_pages(browser):
    for number in range(60):
        browser.registry.history.add_incident("m", HistoryKind.DRIFT, f"drift {number}.")
    first = browser.text("/console/models/m/history")
    [older] = re.findall(r'href="(\?before=[^"]+)"', browser._page)
    second = browser.text(f"/console/models/m/history{older}")
    assert ("drift 59." in first, "drift 10." in first, "drift 9." in first) == (True, True, False)
    assert ("drift 10." in second, "drift 9." in second, "promoted v1" in second) == (False, True, True)
    assert 'class="pager"' not in browser._page
    assert "data-refresh" not in browser._page
    api = browser.client
    page = api.get("/api/models/m/history", params={"limit": 60}).json()
    rest = api.get("/api/models/m/history", params={"limit": 60, "before": page["next"]}).json()
    assert [entry["what"] for entry in rest["items"]] == ["refused", "promoted", "promoted"]
    assert rest["next"] is None
    for wrong in ("x", "2026-01-01", "1"):
        assert browser.get(f"/console/models/m/history?before={wrong}").status_code == 422, wrong


def test_a_form_of_a_stranger_moves_nothing(browser):
    browser.get(f"{MOVE}/force?version=3")
    answer = browser.client.post(f"{MOVE}/force", data={"version": "3", "reason": "x"})
    assert answer.status_code == 403
    assert browser.registry.champion("m").version == 2
