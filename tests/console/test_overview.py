"""The first page: what serves, what is going on, what waits."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from baton.store.feedback.audit import Drawn
from baton.store.feedback.correction import Correction
from baton.store.records import RunStage, RunState
from services.console.charts import Point, line_chart
from services.console.overview import VERSIONS_DRAWN
from tests.support.answers import correct_answers
from tests.support.browsing import Browser
from tests.support.local_control import configured, control_of, publish


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


def statements_of_a_look(directory: Path, models: int) -> int:
    """The number of statements of the second look at the first page of a service with so many models."""
    control = control_of(configured(directory, *(f"m{number}" for number in range(models))))
    for number in range(models):
        publish(control.registry, f"m{number}", 90)
    browser, statements = Browser(control), []
    browser.text("/")
    sa.event.listen(control.registry._engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    browser.text("/")
    control.registry.close()
    return len(statements)


def test_the_statements_of_the_first_page_do_not_grow_with_the_models(tmp_path):
    assert statements_of_a_look(tmp_path / "few", 2) == statements_of_a_look(tmp_path / "many", 9) > 5


def test_the_first_page_of_forty_models_weighs_at_most_150_kb(tmp_path):
    control = control_of(configured(tmp_path, *(f"m{number}" for number in range(4))))
    for number in range(4):
        for right in range(60, 60 + VERSIONS_DRAWN):
            publish(control.registry, f"m{number}", right)
        correct_answers(control.registry, f"m{number}", [(VERSIONS_DRAWN, "a", "a")])
    page = Browser(control).get("/").content
    control.registry.close()
    assert page.count(b"<circle") >= 4 * VERSIONS_DRAWN
    assert len(page) < 150_000 / 10


def test_a_glance_says_what_each_store_says_of_its_model(control):
    registry = control.registry
    correct_answers(registry, "m", [(2, "a", "a"), (2, "b", "a")])
    registry.audit.draw("m", [Drawn(keys=(it,), content_hash=it, input={"text": it}) for it in ("x", "y", "z")])
    registry.audit.mark_undecidable("m", 1)
    registry.retrain.pause("m", "a holiday")
    run = registry.runs.create("m", {}, None, started=True)
    registry.runs.finish(registry.runs.create("other", {}, None, started=True).id, RunState.FAILED, reason="no data")
    registry.rollouts.propose("m", 3, champion=2)
    found = registry.overview.read(["m", "other"], 2)
    glance, champion = found["m"], registry.champion_version("m")
    assert (glance.champion, glance.f1) == (2, champion.metrics["f1"])
    assert glance.scores == {it.number: it.metrics["f1"] for it in registry.versions.list("m", limit=2)}
    assert glance.promoted == registry.past_champions("m")
    assert (glance.run, glance.rollout) == (registry.runs.get(run.id), registry.rollouts.active("m"))
    assert (glance.paused, glance.corrections, glance.to_label) == ("a holiday", registry.feedback.count_after("m", 0), 2)
    assert [glance.newest] == registry.history.list("m", limit=1)
    assert (found["other"].champion, found["other"].scores, found["other"].corrections) == (None, {}, 0)
    assert [found["other"].newest] == registry.history.list("other", limit=1)


def test_batches_of_the_audit_are_counted_in_the_order_of_the_draw(control):
    audit = control.registry.audit
    audit.draw("m", [Drawn(keys=(f"{it:02}",), content_hash=f"{it:02}", input={"text": str(it)}) for it in range(7)])
    example = {"text": "0", "label": "a"}
    control.registry.feedback.add(
        "m", [Correction(client_id=None, request_id=None, position=0, example=example, audited_as="00")]
    )
    audit.mark_undecidable("m", 2)
    audit.forget("m", datetime.now(UTC) + timedelta(days=1))
    counted = [(it.texts, it.labelled, it.undecidable, it.deleted, it.done) for it in audit.count("m", 3)]
    assert counted == [(3, 1, 1, 1, 2), (3, 0, 0, 3, 0), (1, 0, 0, 1, 0)]
    assert audit.count("other", 3) == []


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


def test_the_axis_of_a_value_that_cannot_be_larger_ends_there():
    best = [("f1", "f1", [Point(x=1, y=1.0, title="v1")])]
    bounded, free = line_chart(best, limit=1.0), line_chart(best)
    assert bounded is not None
    assert free is not None
    assert [tick.text for tick in bounded.up] == ["0.90", "0.95", "1.00"]
    assert [tick.text for tick in free.up] == ["0.90", "1.00", "1.10"]
    [line] = bounded.lines
    assert line.points[0].y == min(tick.at for tick in bounded.up)
