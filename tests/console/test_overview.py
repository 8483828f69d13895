"""The first page: what serves, what is going on, what waits."""

from __future__ import annotations

import re

from baton.store.records import RunStage
from services.console.charts import Point, line_chart
from tests.support.answers import correct_answers
from tests.support.local_control import publish


def test_the_first_page_shows_what_serves_and_how_well(browser):
    text = browser.text("/")
    assert "m classification serving v2 Held-out F1 0.900 Live F1 – Replicas 1 / 1" in text
    assert "other classification no version yet" in text
    assert "refused v3" in text
    marks = re.findall(r'<circle[^>]*class="mark"><title>([^<]*)', browser._page)
    assert marks == ["v1: F1 0.600, promoted", "v2: F1 0.900, promoted"]


def test_the_first_page_shows_live_f1_and_what_waits(browser):
    correct_answers(browser.registry, "m", [(2, "a", "a"), (2, "b", "a"), (2, "b", "b")])
    text = browser.text("/")
    assert re.search(r"Live F1 0\.\d{3} of 3 corrected", text)
    assert "3 corrections for the next run" in text
    assert "live F1 " in browser._page


def test_the_first_page_shows_a_run_and_a_roll_out(browser):
    registry = browser.registry
    run = registry.runs.create("m", {}, None, started=True)
    registry.runs.report(run.id, RunStage.TRAINING, {"epoch": 1.0, "epochs": 3, "step": 5, "steps": 15})
    publish(registry, "other", 90)
    registry.rollouts.propose("m", 3, champion=2, mode="shadow", percent=20.0, minutes=None, decision_id=None, owner="local")
    text = browser.text("/")
    assert f"Run {run.id} : training" in text
    assert "shadow v3 · 20%: proposed" in text


def test_the_first_page_survives_a_database_that_is_away(browser, monkeypatch):
    from baton.errors import RegistryError

    def away(*_: object, **__: object) -> None:
        raise RegistryError("the registry's database does not answer: gone")

    monkeypatch.setattr(browser.registry.versions, "list", away)
    answer = browser.get("/")
    assert answer.status_code == 503
    assert "does not answer" in answer.text


def test_a_chart_places_its_points_between_round_numbers():
    assert line_chart([("F1", "f1", [])]) is None
    chart = line_chart([("F1", "f1", [Point(x=1, y=0.61, title="a"), Point(x=3, y=0.88, title="b", mark=True)])], x_prefix="v")
    assert chart is not None
    assert [tick.text for tick in chart.up] == ["0.60", "0.75", "0.90"]
    assert [tick.text for tick in chart.across] == ["v1", "v3"]
    first, last = chart.lines[0].points
    assert chart.left == first.x < last.x == chart.width - chart.right
    assert chart.up[0].at > first.y > last.y > chart.up[2].at
    [line] = line_chart([("F1", "f1", [Point(x=7, y=0.5, title="alone")])]).lines
    assert 0 < line.points[0].x < 360
    many = line_chart([("F1", "f1", [Point(x=x, y=0.5 + x / 100, title="") for x in range(40)])])
    assert len(many.across) <= 8
    assert many.across[-1].text == "39"
