"""The review: texts of the audit are labelled, skipped or marked, one after the other."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import MOST_SUSPECTS, store_suspects, stored_suspects
from baton.errors import StorageError
from baton.keys import Scope
from baton.store.feedback.audit import Drawn
from baton.text.normal_form import fingerprint
from tests.support.answers import logged
from tests.support.browsing import Browser, keys_for

REVIEW = "/console/models/m/review"


def draw(browser, *texts: str) -> None:
    browser.registry.audit.draw("m", [drawn(text) for text in texts])


def drawn(text: str) -> Drawn:
    return Drawn(keys=(fingerprint(text),), content_hash=fingerprint(text), input={"text": text})


def label(browser, **fields):
    [source], [item] = (set(re.findall(rf'name="{name}" value="([^"]+)"', browser._page)) for name in ("source", "id"))
    [action] = set(re.findall(r'action="(\?queue=[^"]*)"', browser._page))
    return browser.post(REVIEW + unescape(action), source=source, id=item, **fields)


@pytest.fixture
def waiting(browser) -> Browser:
    draw(browser, "first <b>text</b>", "second text", "third text")
    browser.get(REVIEW)
    return browser


def test_without_texts_there_is_nothing_to_do(browser):
    assert "Nothing waits to be labelled." in browser.text(REVIEW)


def test_texts_are_labelled_in_the_order_of_the_draw_without_the_models_answer(waiting):
    text = waiting.text(REVIEW)
    assert "Audit 3 Least certain answers 0 Suspect rows 0" in text
    assert "Batch 1: 0 of 45 needed" in text
    assert "first <b>text</b> 1 a 2 b" in text
    assert 'data-key="1"' in waiting._page
    answer = label(waiting, label="b")
    assert answer.status_code == 303
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
    for source in ("", "audit", "unsure", "suspect", "else"):
        for wrong in ("", "x", "99", "x:0"):
            assert waiting.post(REVIEW, source=source, id=wrong, label="a").status_code == 404
    assert waiting.get(f"{REVIEW}?after=x").status_code == 200


def test_a_label_carries_the_key_of_whoever_gave_it(closed):
    browser = Browser(closed)
    draw(browser, "a text")
    browser.log_in(keys_for(closed)(Scope.LABEL))
    browser.get(REVIEW)
    assert label(browser, label="a").status_code == 303
    [feedback] = browser.registry.feedback.newest("m", 1)
    assert feedback.sender == closed.registry.keys.live()[0].id


def answered(browser, *answers: tuple[str, str, float], version: int = 2) -> None:
    """Log answers of a version: text, label and score."""
    browser.registry.predictions.log(
        [
            replace(
                logged(None, answer_id=f"{version:016}{place:016}", version=version, text=text, label=label), confidence=score
            )
            for place, (text, label, score) in enumerate(answers)
        ]
    )


def newest(browser):
    return browser.registry.feedback.newest("m", 1)[0]


def test_after_the_audit_come_the_least_certain_answers_with_their_scores(browser):
    draw(browser, "audited")
    answered(browser, ("sure", "a", 0.99), ("<i>unsure</i>", "a", 0.41), ("audited", "b", 0.2), ("less sure", "b", 0.6))
    answered(browser, ("of an old version", "a", 0.1), version=1)
    assert "Audit 1 Least certain answers 3 Suspect rows 0" in browser.text(REVIEW)
    text = browser.text(label(browser, label="a").headers["location"])
    assert "v2 answered this with a score of 0.410" in text
    assert "<i>unsure</i> The model's answer: a Right" in text
    assert "<i>" not in browser._page
    assert 'data-key="Enter">Right' in browser._page
    answer = label(browser, right="1")
    found = newest(browser)
    assert (found.example, found.version) == ({"text": "<i>unsure</i>", "label": "a"}, None)
    assert found.answer_id is None, "answers that are chosen for their low scores must not lower live F1"
    assert "less sure" in browser.text(answer.headers["location"])
    answer = label(browser, label="b")
    assert newest(browser).example == {"text": "less sure", "label": "b"}
    answer = label(browser) if "sure" in browser.text(answer.headers["location"]) else answer
    assert answer.status_code == 422, "neither right nor another label"


def test_a_least_certain_answer_is_asked_about_once(browser):
    answered(browser, ("twice", "a", 0.5), ("twice", "a", 0.5), ("other", "b", 0.6))
    assert "Least certain answers 2" in browser.text(REVIEW)
    assert label(browser, other="c").status_code == 303
    assert "Least certain answers 1" in browser.text(REVIEW)
    answer = label(browser, skip="1")
    assert "No more texts after the skipped ones." in browser.text(answer.headers["location"])
    assert "other" in browser.text(REVIEW)


def test_suspects_are_confirmed_or_corrected_and_do_not_come_again(browser):
    row = {"_suggested": "b <u>", "_margin": 0.7, "_where": "train.csv line 3"}
    storage = Storage(browser.control.config.storage)
    store_suspects(storage, "m", [{"text": f"row {place}", "label": "a", **row} for place in range(3)])
    text = browser.text(REVIEW)
    assert "A model that never saw it says b <u>; the margin is 0.700. train.csv line 3 row 0 The label in the data: a" in text
    assert "<u>" not in browser._page
    skipped = label(browser, skip="1").headers["location"]
    assert "row 1" in browser.text(skipped)
    after = label(browser, right="1").headers["location"]
    assert newest(browser).example == {"text": "row 1", "label": "a"}
    assert "row 2" in browser.text(after)
    after = label(browser, label="b").headers["location"]
    assert newest(browser).example == {"text": "row 2", "label": "b"}
    assert "No more texts after the skipped ones." in browser.text(after)
    assert "Suspect rows 1" in browser.text(REVIEW)


def test_suspects_that_cannot_be_read_do_not_hide_the_other_texts(waiting, monkeypatch):
    def away(*_: object) -> None:
        raise StorageError("cannot read from storage: gone")

    monkeypatch.setattr(Storage, "read_report", away)
    text = waiting.text(REVIEW)
    assert "cannot read from storage: gone" in text
    assert "first <b>text</b>" in text


def test_at_most_so_many_suspects_are_kept(tmp_path):
    storage = Storage(str(tmp_path))
    assert stored_suspects(storage, "m") == []
    store_suspects(storage, "m", [{"text": "\u2028" + str(place)} for place in range(MOST_SUSPECTS + 1)])
    assert [row["text"][1:] for row in stored_suspects(storage, "m")] == [str(place) for place in range(MOST_SUSPECTS)]


def test_who_may_not_correct_sees_the_audit_only(closed):
    browser = Browser(closed)
    answered(browser, ("unsure", "a", 0.4))
    browser.log_in(keys_for(closed)(Scope.LABEL))
    assert "Least certain answers 0" in browser.text(REVIEW)
    draw(browser, "a text")
    browser.get(REVIEW)
    assert browser.post(REVIEW, source="unsure", id=f"{2:016}{0:016}:0", right="1").status_code == 404
    both = Browser(closed)
    both.log_in(keys_for(closed)(Scope.LABEL, Scope.FEEDBACK))
    assert "Least certain answers 1" in both.text(REVIEW)
