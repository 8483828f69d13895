"""No page of the console shuts anybody out: axe-core, the tester of accessibility, finds no serious problem in any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import store_suspects
from baton.store.feedback.audit import Drawn
from baton.store.records import RunStage, RunState
from baton.text.normal_form import fingerprint
from services.console.pages import TABS
from tests.console.test_browser import chromium, page_of
from tests.support.console import Service, console_service
from tests.support.dialects import LABELS
from tests.support.growing import SMALL_HOLDOUT, SMALL_TRAIN, GrowingData, correct, freeze_recorded
from tests.support.programs.npm import npm_install

__all__ = ["chromium"]  # a fixture

ONE = "classification"
"""The model that has suspect rows and data sets."""

AXE = "axe-core@4.14.1"
SEEN = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "a phone, in Chinese": {"viewport": {"width": 390, "height": 844}, "locale": "zh-CN"},
}


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    return (npm_install(AXE, tmp_path_factory.mktemp("axe")) / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def service(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A model of each task with something on every page."""
    with console_service(tiny_base, tmp_path_factory.mktemp("accessible")) as (service, _):
        registry = service.control.registry
        for task in LABELS:
            run = registry.runs.create(task, {}, None, started=True)
            for step in (1, 2):
                progress = {"epoch": step / 2, "epochs": 1, "step": step, "steps": 2, "f1": step / 10}
                registry.runs.report(run.id, RunStage.TRAINING, progress)
            registry.runs.finish(run.id, RunState.FAILED, reason="out of memory")
            text = {"question": "Who?", "context": "Anna met Bob."} if task == "qa" else {"text": "Anna met Bob in Rome."}
            item = Drawn(keys=(fingerprint(task),), content_hash=fingerprint(task), input=text)
            registry.audit.draw(task, [item])
        storage = Storage(service.control.config.storage)
        notes = {"_suggested": "bug", "_margin": 0.5, "_where": "train.csv line 3"}
        store_suspects(storage, ONE, [{"text": "a suspect row", "label": "billing", **notes}])
        growing = GrowingData(tmp_path_factory.mktemp("growing"), storage)
        growing.train, growing.holdout = list(SMALL_TRAIN), list(SMALL_HOLDOUT)
        for label in ("shipping", "new"):
            settings = service.control.config.model(ONE).model_copy(update={"data": growing.data()})
            freeze_recorded(registry, settings, storage)
            correct(registry, ONE, {"text": "refund, please", "label": label})
            growing.train.append({"text": "a parcel more", "label": "shipping"})
        yield service


def paths(service: Service) -> list[str]:
    """Every page: the overview, and those of each model."""
    runs = service.control.registry.runs
    pages = [*(tab for tab, _, _ in TABS), "versions/1", "compare?a=1&b=1", "runs/{run}", "data/diff"]
    return [
        "/",
        *(f"/console/models/{ONE}/{page}" for page in ("review?queue=suspect", "data/2")),
        *(f"/console/models/{task}/{page.format(run=runs.list(task)[0].id)}" for task in sorted(LABELS) for page in pages),
    ]


def problems(page: Any, axe: str) -> list[str]:
    """What axe-core finds serious or critical in a page that is open."""
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{it['impact']}: {it['help']}: {node['html'][:160]}"
        for it in found
        if it["impact"] in ("serious", "critical")
        for node in it["nodes"]
    ]


@pytest.mark.parametrize("options", SEEN.values(), ids=SEEN)
def test_no_page_has_a_serious_problem(service, chromium, axe, options):
    with page_of(chromium, **options) as page:
        found = {}
        for path in paths(service):
            page.goto(f"{service.url}{path}")
            if serious := problems(page, axe):
                found[path] = serious
    assert found == {}


def test_an_answer_has_none_either(service, chromium, axe):
    with page_of(chromium) as page:
        for task in sorted(LABELS):
            page.goto(f"{service.url}/console/models/{task}/playground?text=Anna+met+Bob&question=Who%3F&context=Anna+met+Bob")
            assert problems(page, axe) == [], task


def test_a_form_that_came_too_late_has_none_either(service, chromium, axe):
    with page_of(chromium) as page:
        page.goto(f"{service.url}/console/models/{ONE}/playground")
        page.evaluate("document.querySelectorAll('[name=form_token]').forEach((field) => { field.value = 'old'; })")
        page.fill("#text", "Anna met Bob")
        page.click("text=Ask the model")
        page.wait_for_selector(".sent")
        assert problems(page, axe) == []


def test_what_is_wrong_would_be_found(service, chromium, axe):
    with page_of(chromium) as page:
        page.goto(service.url)
        page.evaluate(
            "document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=\"/favicon.svg\"><button></button>')"
        )
        assert [line.partition(":")[0] for line in problems(page, axe)] == ["critical", "critical"]
