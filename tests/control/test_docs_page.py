"""The page at `/docs`: from files of the service itself, under a strict Content-Security-Policy, and for whom it was before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.control.api.app import build_api
from services.control.openapi.page import ASSETS
from tests.cli.test_cli import serving
from tests.control.test_api import Api, nothing
from tests.support.chromium import needs_chromium, tab
from tests.support.local_control import configured, control_of


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(control_of(configured(tmp_path, "m")))


def test_the_page_names_no_other_host_and_its_files_are_there(api):
    page = api.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    assert "style=" not in page.text
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {f"docs/{name}" for name in (*ASSETS, "start.js")} == set(named)
    for path in named:
        answer = api.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.content
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"].startswith("private")
    assert "http" not in api.get("/docs/start.js").text


def test_the_policy_allows_this_service_alone_and_nothing_inline(api):
    policy = dict(part.strip().split(" ", 1) for part in api.get("/docs").headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
    assert policy["frame-ancestors"] == "'none'"


def test_the_second_page_of_fastapi_leads_to_the_first(api):
    answer = api.get("/redoc")
    assert (answer.status_code, answer.headers["location"]) == (307, "docs")
    assert api.get("/docs/nothing.js").status_code == 404


@needs_chromium
def test_in_a_browser_the_page_shows_every_operation_and_asks_nobody_else(tmp_path):
    application = build_api(control_of(configured(tmp_path, "m")), nothing)
    described = sum(len(methods) for methods in application.openapi()["paths"].values())
    with serving(application) as url, tab() as opened:
        page = opened.page
        page.goto(f"{url}/docs")
        page.wait_for_function(f"document.querySelectorAll('.opblock').length === {described}")
        page.click("text=Predict, as KServe v1 does")
        page.click("text=Try it out")
        page.click("text=Execute")
        page.wait_for_selector(".responses-table.live-responses-table")
        told = page.inner_text(".live-responses-table")
        assert opened.asked
        assert all(asked.startswith((f"{url}/", "data:image/")) for asked in opened.asked), opened.asked
    assert "404" in told, "there is no replica behind this server"
    assert [text for text in opened.complaints if "404" not in text] == []
