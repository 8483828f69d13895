"""The review: texts of the audit are labelled, skipped or marked, one after the other."""

from __future__ import annotations

import re

import pytest

from baton.keys import Scope
from baton.store.feedback.audit import Drawn
from baton.text.normal_form import fingerprint
from tests.support.browsing import Browser, keys_for

REVIEW = "/console/models/m/review"


def draw(browser, *texts: str) -> None:
    browser.registry.audit.draw("m", [drawn(text) for text in texts])


def drawn(text: str) -> Drawn:
    return Drawn(keys=(fingerprint(text),), content_hash=fingerprint(text), input={"text": text})


def label(browser, **fields):
    [item] = set(re.findall(r'name="id" value="(\d+)"', browser._page))
    return browser.post(REVIEW, id=item, **fields)


@pytest.fixture
def waiting(browser) -> Browser:
    draw(browser, "first <b>text</b>", "second text", "third text")
    browser.get(REVIEW)
    return browser


def test_without_texts_there_is_nothing_to_do(browser):
    assert "Nothing waits to be labelled." in browser.text(REVIEW)


def test_texts_are_labelled_in_the_order_of_the_draw_without_the_models_answer(waiting):
    text = waiting.text(REVIEW)
    assert "3 answers to label · batch 1: 0 of 45 needed" in text
    assert "first <b>text</b> 1 a 2 b" in text
    assert 'data-key="1"' in waiting._page
    answer = label(waiting, label="b")
    assert (answer.status_code, "last=1" in answer.headers["location"]) == (303, True)
    assert waiting.registry.audit.get("m", 1).example["label"] == "b"
    assert "second text" in waiting.text(answer.headers["location"])
    label(waiting, label="", other="a new label")
    assert waiting.registry.audit.get("m", 2).example["label"] == "a new label"
    waiting.get(REVIEW)
    label(waiting, undecidable="1")
    assert waiting.registry.audit.get("m", 3).undecidable
    assert "Nothing waits to be labelled." in waiting.text(REVIEW)


def test_a_skipped_text_comes_again_from_the_beginning(waiting):
    answer = label(waiting, skip="1")
    assert "second text" in waiting.text(answer.headers["location"])
    for _ in range(2):
        answer = label(waiting, skip="1")
        waiting.get(answer.headers["location"])
    assert "No more texts after the skipped ones." in waiting.text(answer.headers["location"])
    assert "first <b>text</b>" in waiting.text(REVIEW)


def test_a_label_that_cannot_be_stored_says_why_and_stays_on_its_text(waiting):
    answer = label(waiting, label="")
    assert answer.status_code == 422
    assert "first &lt;b&gt;text" in answer.text
    for wrong in ("", "x", "99"):
        assert waiting.post(REVIEW, id=wrong, label="a").status_code in (404, 422)
    assert waiting.get(f"{REVIEW}?after=x").status_code == 200


def test_a_label_carries_the_key_of_whoever_gave_it(closed):
    browser = Browser(closed)
    draw(browser, "a text")
    browser.log_in(keys_for(closed)(Scope.LABEL))
    browser.get(REVIEW)
    assert label(browser, label="a").status_code == 303
    [feedback] = browser.registry.feedback.newest("m", 1)
    assert feedback.sender == closed.registry.keys.live()[0].id
