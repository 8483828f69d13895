"""Logins, scopes, cookies, forms of strangers, and the headers of every page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import pytest
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.routing import Route

from baton.errors import Unauthenticated
from baton.keys import Scope
from services.console import gate
from services.console.app import Console
from services.console.kept import MOST_KEPT
from services.console.pages import HEADERS, MAX_FORM_BYTES, TABS, TOKEN_FIELD
from services.console.sessions import MOST_SESSIONS, SESSION_SECONDS, Sessions
from services.control.control_metrics import ControlMetrics
from tests.support.browsing import Browser, keys_for, words
from tests.support.local_control import LocalControl

ROOT = Path(__file__).parents[2]
OPEN_PATHS = {"/console/static/{name}", "/console/login", "/console/language"}


def routes(control: LocalControl) -> list[tuple[str, str]]:
    """Method and filled path of every page that the console really has."""
    console = Console(None, control, ControlMetrics(control))  # type: ignore[arg-type]
    values = {"model": "m", "number": "2", "move": "promote", "run_id": "m-1", "name": "console.css"}
    found = []
    for route in console._answer.routes:
        assert isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}:
            found.append((method, re.sub(r"\{(\w+)(:\w+)?\}", lambda part: values[part[1]], route.path), route.path))
    return [(method, path) for method, path, template in found if template not in OPEN_PATHS]


def test_every_page_asks_for_a_login_and_shows_nothing_before(closed):
    browser = Browser(closed)
    found = routes(closed)
    assert len(found) > 3
    for method, path in found:
        answer = browser.client.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert "Log in" in words(answer.text)
        assert "/console/models/other" not in answer.text


def test_a_path_that_is_no_page_is_closed_too(closed):
    browser = Browser(closed)
    for path in ("/console/nowhere", "/console/models/m/../../secret", "/console/static/../x", "/console/login"):
        assert browser.get(path).status_code in (401, 404), path
    assert browser.get("/api/models").headers["content-type"] == "application/problem+json"


def test_a_login_leads_back_to_the_page_that_was_asked_for_and_ends_with_the_logout(closed):
    key = keys_for(closed)(Scope.OPERATE)
    browser = Browser(closed)
    assert browser.get("/console/models/m?x=1").status_code == 401
    assert 'name="next" value="/console/models/m?x=1"' in browser._page
    before = browser.client.cookies["baton_console"]
    answer = browser.post("/console/login", key=f" {key} ", next="/console/models/m?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/models/m?x=1")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert browser.client.cookies["baton_console"] != before
    page = browser.get("/")
    assert page.status_code == 200
    assert key not in page.text
    assert key not in cookie
    session = browser.client.cookies["baton_console"]
    assert browser.post("/console/logout").status_code == 303
    assert browser.get("/").status_code == 401
    browser.client.cookies.set("baton_console", session, domain="localhost.local", path="/")
    assert Browser(closed).client.get("/", headers={"cookie": f"baton_console={session}"}).status_code == 401


@pytest.mark.parametrize("key", ["", "sesame", "ключ", f"baton_{'0' * 12}_{'x' * 43}"])
def test_a_wrong_key_is_refused_and_not_repeated_on_the_page(closed, key):
    browser = Browser(closed)
    answer = browser.log_in(key)
    assert answer.status_code == 401
    assert "API key" in words(answer.text)
    assert not key or f'"{key}"' not in answer.text
    assert browser.get("/").status_code == 401


@pytest.mark.parametrize("next_page", ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere", "/api/models", "x"])
def test_a_login_leads_nowhere_else(closed, next_page):
    browser = Browser(closed)
    browser.get("/")
    answer = browser.post("/console/login", key=keys_for(closed)(Scope.OPERATE), next=next_page)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/console/models/m/feedback", "/console/models/m/playground"),
        ("/console/models/m/runs/m-1/cancel", "/console/models/m/runs/m-1"),
        ("/console/models/m/review?after=7", "/console/models/m/review?after=7"),
        ("/console/models/feedback/playground", "/console/models/feedback/playground"),
        ("/console/logout", "/"),
    ],
)
def test_a_login_after_a_form_leads_to_the_page_of_the_form(closed, path, page):
    browser = Browser(closed)
    answer = browser.client.post(path, data={"text": "hello"})
    assert answer.status_code == 401
    assert f'name="next" value="{page}"' in answer.text


def test_a_second_try_to_log_in_still_leads_back(closed):
    browser = Browser(closed)
    browser.get("/console/models/m/history")
    answer = browser.post("/console/login", key="bat_wrong", next="/console/models/m/history")
    assert (answer.status_code, 'name="next" value="/console/models/m/history"' in answer.text) == (401, True)


def test_who_opens_the_path_of_a_form_gets_its_page(browser):
    answer = browser.get("/console/models/m/feedback")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/models/m/playground")
    assert browser.client.put("/console/models/m/history").status_code == 409
    answer = browser.post("/console/models/m/feedback", page="/console/models/m/playground", text="hello", label="a")
    assert 'name="next" value="/console/models/m/playground"' in answer.text, "the switch of languages comes back to a page"


def test_the_gate_reads_the_path_that_the_application_routes_by(closed):
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/console/models/m/move/force",
        "query_string": b"",
        "headers": [(b"host", b"x")],
    }
    request = Request(scope)
    request._url = URL("http://x/console/login?/console/models/m/move/force")  # what some versions of Starlette make of a Host
    found = gate.Gate(closed, Sessions())
    with pytest.raises(Unauthenticated):
        found.admit(request, found.visit(request))


OURS = {"sec-fetch-site": "same-origin"}


def test_a_form_of_an_ended_session_is_sent_again_after_the_login(closed):
    browser, key = Browser(closed), keys_for(closed)(Scope.OPERATE)
    browser.log_in(key)
    path = "/console/models/m/move/reject?version=3"
    browser.get(path)
    fields = {TOKEN_FIELD: browser.form_token, "version": "3", "reason": "too <b>rude</b>\r\nreally"}
    late = Browser(closed)
    origin = str(late.client.base_url).rstrip("/")
    others = [{}, {"origin": "null"}, {"origin": "http://other.example"}, {"origin": f"{origin}.example"}]
    for headers in (*others, *({"sec-fetch-site": site, "origin": origin} for site in ("cross-site", "same-site"))):
        assert "kept" not in late.client.post(path, data=fields, headers=headers).text, "words of others are not kept"
    assert "not stored, but kept" in late.client.post(path, data=fields, headers={"origin": origin}).text, "over plain HTTP"
    too_long = late.client.post(path, data={"reason": "x" * MOST_KEPT}, headers=OURS)
    assert (too_long.status_code, "kept" in too_long.text) == (401, False)
    late._page = late.client.post(path, data=fields, headers=OURS).text
    assert "not stored, but kept" in late._page
    carried = {name: unescape(re.findall(rf'name="{name}" value="([^"]*)"', late._page)[0]) for name in ("kept", "kept_path")}
    assert fields[TOKEN_FIELD] not in carried["kept"]
    wrong = late.post("/console/login", key="bat_wrong", **carried)
    assert (wrong.status_code, "not stored, but kept" in wrong.text) == (401, True)
    late._page = late.post("/console/login", key=key, **carried).text
    assert "too <b>rude</b>" in words(late._page)
    assert "too &lt;b&gt;" in late._page
    assert f'action="{path}"' in late._page
    assert closed.registry.history.rejection("m", 3) is None
    assert late.post(path, version="3", reason=fields["reason"]).status_code == 303
    assert "really" in closed.registry.history.rejection("m", 3)


@pytest.mark.parametrize(
    "path", ["https://elsewhere.example/", "//elsewhere.example", "/\\x", "/console/logout", "", "/api/models"]
)
def test_a_login_sends_nothing_again_to_elsewhere(closed, path):
    browser = Browser(closed)
    browser.get("/")
    answer = browser.post("/console/login", key=keys_for(closed)(Scope.OPERATE), next="/", kept_path=path, kept="a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_form_of_before_a_restart_is_sent_again_where_no_login_is_needed(browser):
    browser.get("/console/models/m/playground")
    old = {TOKEN_FIELD: browser.form_token, "text": "hello <b>", "label": "a"}
    restarted = Browser(browser.control, cookie=f"baton_console={browser.client.cookies['baton_console']}")
    answer = restarted.client.post("/console/models/m/feedback", data=old, headers=OURS)
    assert (answer.status_code, "hello &lt;b&gt;" in answer.text) == (403, True)
    assert restarted.registry.feedback.newest("m", 10) == []
    restarted._page = answer.text
    sent = restarted.post("/console/models/m/feedback", text="hello <b>", label="a")
    assert "Stored as feedback" in sent.text
    assert "hello" not in restarted.client.post("/console/models/m/feedback", data=old).text


def test_a_revoked_or_expired_key_ends_its_session(closed):
    browser, registry = Browser(closed), closed.registry
    assert browser.log_in(keys_for(closed)(Scope.OPERATE)).status_code == 303
    assert browser.get("/").status_code == 200
    registry.keys.revoke(registry.keys.live()[0].id)
    closed.keyring.refresh()
    assert browser.get("/").status_code == 401
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    short = keys_for(closed)(Scope.OPERATE, expires_at=soon)
    browser.log_in(short)
    while datetime.now(UTC) <= soon:
        pass
    assert browser.get("/").status_code == 401


SEES = {
    Scope.OPERATE: {"versions", "history", "runs", "review", "data"},
    Scope.PREDICT: {"playground"},
    Scope.LABEL: {"review"},
    Scope.FEEDBACK: set(),
    Scope.METRICS: set(),
}


@pytest.mark.parametrize("scope", Scope)
def test_a_key_sees_the_pages_of_its_scope_and_no_others(closed, scope):
    browser = Browser(closed)
    assert browser.log_in(keys_for(closed)(scope)).status_code == 303
    for page, _, _ in TABS:
        if (status := browser.get(f"/console/models/m/{page}").status_code) == 404:
            continue  # the page is not there, and whoever may see it is told so
        assert (status != 403) == (page in SEES[scope]), (page, status)
    start = browser.get("/")
    if scope is Scope.OPERATE:
        assert "Overview" in words(start.text)
        return
    assert start.status_code == 303
    first = browser.get(start.headers["location"])
    assert first.status_code == (303 if SEES[scope] else 403)


def test_a_key_for_one_model_sees_no_other(closed):
    browser = Browser(closed)
    browser.log_in(keys_for(closed)(Scope.OPERATE, models=["m"]))
    page = browser.get("/")
    assert page.status_code == 200
    assert "other" not in words(page.text)
    assert browser.get("/console/models/other/versions").status_code == 403
    assert browser.get("/console/models/nobody/versions").status_code == 403


def test_a_key_over_its_rate_is_told_when_to_come_again(closed):
    browser = Browser(closed)
    browser.log_in(keys_for(closed)(Scope.OPERATE, rate=1 / 3600))
    path = "/console/models/m/versions"
    browser.get(path)
    answer = browser.get(path)
    assert (answer.status_code, "retry-after" in answer.headers) == (429, True)


@pytest.mark.parametrize("path", ["/", "/console/models/m", "/console/nowhere", "/console/static/console.css"])
def test_every_answer_has_the_headers_that_keep_strangers_out(browser, closed, path):
    for answer in (browser.get(path), Browser(closed).get(path)):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_pages_have_neither_scripts_nor_styles_of_their_own(browser):
    page = browser.get("/").text
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?! src=)|javascript:", page)
    assert not re.search(r"(src|href|action)=\"(?!/)", page.replace('href="#main"', ""))


def test_static_files_are_kept_by_browsers_and_all_else_is_not(browser):
    page = browser.get("/")
    assert page.headers["cache-control"] == "no-store"
    urls = re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page.text)
    assert len(set(urls)) == 4
    answers = [browser.client.get(url) for url in set(urls)]
    assert all("immutable" in answer.headers["cache-control"] for answer in answers)
    assert all("set-cookie" not in answer.headers for answer in answers)
    assert len(page.content) + sum(len(answer.content) for answer in answers) < 150_000


def test_over_https_cookies_are_secure_and_of_this_host_alone(closed):
    browser = Browser(closed)
    answer = browser.get("/", headers={"x-forwarded-proto": "https"})
    assert answer.headers["set-cookie"].startswith("__Host-baton_console=")
    assert "Secure" in answer.headers["set-cookie"]


def test_a_form_without_the_token_of_its_browser_changes_nothing(closed):
    make = keys_for(closed)
    browser, other = Browser(closed), Browser(closed)
    browser.log_in(make(Scope.OPERATE))
    other.log_in(make(Scope.OPERATE))
    browser.get("/")
    other.get("/")
    for token in ("", "x", other.form_token, "ü"):
        answer = browser.client.post("/console/logout", data={"form_token": token})
        assert answer.status_code == 403, token
    assert browser.client.post("/console/login", data={"key": make(Scope.OPERATE)}).status_code == 403
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"), [(b"\xff", 400), (b"&".join([b"a=1"] * 2000), 400), (b"a=" + b"x" * MAX_FORM_BYTES, 413), (b"", 403)]
)
def test_a_body_that_is_no_form_is_refused(browser, body, status):
    assert browser.client.post("/console/language", content=body).status_code == status


def test_without_keys_pages_of_other_origins_can_neither_write_nor_read(browser):
    browser.get("/")
    fields = {"form_token": browser.form_token, "language": "zh"}
    answer = browser.client.post("/console/language", data=fields, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert browser.client.get("/", headers={"host": "rebound.example"}).status_code == 403


def test_whoever_follows_a_link_of_another_site_stays_logged_in(closed):
    browser = Browser(closed)
    browser.log_in(keys_for(closed)(Scope.OPERATE))
    stranger = Browser(closed)  # a browser holds its cookie back on such a request
    answer = stranger.get("/", headers={"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh" content="0"' in answer.text
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert browser.get("/").status_code == 200


def test_sessions_end_by_themselves_and_the_oldest_makes_room():
    now = 0.0
    sessions = Sessions(lambda: now)
    first = sessions.begin("k", "t")
    assert sessions.find(first) is not None
    now = SESSION_SECONDS
    assert sessions.find(first) is None
    cookies = [sessions.begin("k", "t") for _ in range(MOST_SESSIONS + 1)]
    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[1]) is not None
    assert "t" not in repr(sessions.find(cookies[1])).partition("ends_at")[0].replace("Session", "").replace("token", "")


def test_the_documentation_has_the_table_that_the_code_has():
    assert gate.table() in (ROOT / "docs/security.md").read_text()
