"""English and Chinese: who gets which, and that every word of the pages stands in both."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from jinja2 import nodes

from baton.store.records import DecisionKind, HistoryKind, RolloutMode, RolloutState, RunStage, RunState, Verdict
from baton.tasks import TASKS
from services.console.language import chinese, chosen_language, translator
from services.console.pages import Pages
from services.console.sessions import Sessions
from tests.support.browsing import words

CONSOLE = Path(__file__).parents[2] / "services/console"


def words_of_templates(pages: Pages) -> set[str]:
    found = set()
    for path in (CONSOLE / "templates").glob("*.html"):
        tree = pages.environment.parse(path.read_text(encoding="utf-8"))
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "_" and isinstance(call.args[0], nodes.Const):
                found.add(call.args[0].value)
    return found


def words_of_code() -> set[str]:
    """What the modules hand to `translate`, and the words of tables that templates translate (marked by their type)."""
    found = set()
    for path in CONSOLE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("translate", "Words")
            if called and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def stored_words() -> set[str]:
    kinds = (DecisionKind, HistoryKind, RolloutMode, RolloutState, RunStage, RunState, Verdict)
    fields = {"text", "text_pair", "question", "context", "source"}
    return {kind.value for enum in kinds for kind in enum} | set(TASKS) | fields


def test_every_word_stands_in_both_languages(control):
    pages = Pages(control, Sessions())
    used = words_of_templates(pages) | words_of_code() | stored_words()
    assert len(used) > 60
    assert sorted(used - chinese().keys()) == []


def test_a_translation_has_the_same_values_in_its_braces():
    braces = {
        english: (set(re.findall(r"\{\w*\}", english)), set(re.findall(r"\{\w*\}", chinese)))
        for english, chinese in chinese().items()
    }
    assert {english: found for english, found in braces.items() if found[0] != found[1]} == {}


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "de,en;q=0.5,zh;q=0.4", "en"),
        (None, "de", "en"),
        (None, "zh;q=x,en;q=0.1", "en"),
        ("zh", "en", "zh"),
        ("xx", "zh-Hans", "zh"),
    ],
)
def test_a_visitor_gets_the_language_that_was_chosen_or_asked_for(cookie, accepted, language):
    assert chosen_language(cookie, accepted) == language


def test_unknown_words_stay_as_they_are():
    assert translator("zh")("a state of tomorrow") == "a state of tomorrow"


def test_the_switch_is_remembered(browser):
    assert "Overview" in browser.text("/")
    answer = browser.post("/console/language", language="zh", next="/console/models/m/versions")
    assert answer.headers["location"] == "/console/models/m/versions"
    page = browser.get("/")
    assert 'lang="zh-Hans"' in page.text
    assert "概览" in words(page.text)
    browser.post("/console/language", language="xx", next="/")
    assert "概览" in browser.text("/")
    browser.post("/console/language", language="en", next="/")
    assert "Overview" in browser.text("/")
