"""Versions: the table, and of one version the gate's decision with the conditions that held."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import sqlalchemy as sa

from baton.artifacts.storage import Storage
from baton.store.records import Decision, DecisionKind, HistoryKind, Verdict
from services.console.versions import conditions
from services.report.words import Words
from tests.report.cases import hostile
from tests.support.local_control import decide, publish


def states(page: str) -> list[str]:
    return re.findall(r'<li class="(passed|failed|unjudged)">', page)


def test_the_table_shows_scores_decisions_and_what_became_of_each_version(browser):
    text = browser.text("/console/models/m/versions")
    assert "v3 0.500 – reject" in text
    assert "v2 champion 0.900 – promote" in text
    assert "v1 former champion 0.600 – promote" in text
    assert browser.text("/console/models/other/versions").endswith("All times are UTC.")
    browser.registry.history.add_incident("m", HistoryKind.REJECTED, "too <b>rude</b>", 3)
    assert "v3 rejected" in browser.text("/console/models/m/versions")
    assert "too &lt;b&gt;rude&lt;/b&gt;" in browser.get("/console/models/m/versions/3").text


def test_pages_of_versions_follow_each_other(browser):
    for _ in range(50):
        publish(browser.registry, "m", 50)
    browser.text("/console/models/m/versions")
    [before] = re.findall(r'href="\?before=(\d+)"', browser._page)
    assert "v2 champion" in browser.text(f"/console/models/m/versions?before={before}")
    for wrong in ("x", "0", "-1", "9" * 30, "²"):
        assert browser.get(f"/console/models/m/versions?before={wrong}").status_code == 422, wrong


def test_the_statements_of_the_table_do_not_grow_with_the_versions(browser):
    def statements() -> int:
        told = []
        note = lambda *found: told.append(found[2])  # noqa: E731
        sa.event.listen(browser.registry._engine, "before_cursor_execute", note)
        browser.text("/console/models/m/versions")
        sa.event.remove(browser.registry._engine, "before_cursor_execute", note)
        return len(told)

    few = statements()
    for right in (50, 60, 70, 80):
        publish(browser.registry, "m", right)
        decide(browser.registry, "m", len(browser.registry.versions.list("m")))
    assert statements() == few > 5


def test_a_version_shows_what_each_condition_required_and_measured(browser):
    text = browser.text("/console/models/m/versions/2")
    assert set(states(browser._page)) == {"passed", "unjudged"}
    assert "m v2 champion" in text
    assert browser.registry.newest_gate_decision("m", 2).sentence in text
    assert "All rows 0.900 0.600 +0.300" in text
    assert "gain more than 0 · +0.300" in text
    browser.text("/console/models/m/versions/3")
    assert "failed" in states(browser._page)
    browser.text("/console/models/m/versions/1")
    assert states(browser._page)[-1] == "unjudged", "a first version has no champion to beat"
    chinese = browser.get("/console/models/m/versions/2", headers={"accept-language": "zh"}).text
    assert Words("zh")("condition.gain") in chinese


def test_a_decision_of_another_version_of_baton_has_no_conditions(browser):
    decision = browser.registry.newest_gate_decision("m", 2)
    assert conditions(decision, "en")
    assert conditions(replace(decision, numbers={"compared": True}), "en") == []


def test_a_version_that_nobody_judged_says_so(browser):
    publish(browser.registry, "m", 70)
    assert "The gate has not judged this version." in browser.text("/console/models/m/versions/4")
    for wrong in ("9", "0", "99999999999", "x"):
        assert browser.get(f"/console/models/m/versions/{wrong}").status_code == 404, wrong
    assert browser.get("/console/models/nobody/versions").status_code == 404


def test_a_version_shows_the_report_of_its_decision_in_the_language_of_the_page(browser):
    item = hostile()
    path = "models/m/reports/1.json"
    Storage(browser.control.config.storage).write_report(path, json.dumps(item["report"]).encode())
    browser.registry.add_decision(
        Decision(
            model="m",
            candidate=3,
            champion=2,
            champion_sequence=2,
            kind=DecisionKind.GATE,
            verdict=Verdict(item["decision"]["verdict"]),
            sentence=item["decision"]["sentence"],
            numbers={**item["decision"]["numbers"], "report": path},
            policy=item["decision"]["policy"],
        )
    )
    browser.text("/console/models/m/versions/3")
    assert '<article class="baton-report"' in browser._page
    assert states(browser._page) == [], "the report has the conditions"
    assert "<script>" not in browser._page.replace("<script src=", "")
    assert "style=" not in browser._page, "no Content-Security-Policy of ours allows it"
    assert "/report.css" in browser._page
    chinese = browser.get("/console/models/m/versions/3", headers={"accept-language": "zh"}).text
    assert Words("zh")("conditions") in chinese
    assert Words("en")("conditions") not in chinese
