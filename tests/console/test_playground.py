"""The playground without a browser: what a form means, what is marked, and what is said when something is not possible."""

from __future__ import annotations

import pytest
from starlette.datastructures import ImmutableMultiDict

from baton.client import Prediction
from baton.config.model_settings import ModelSettings
from baton.errors import InvalidInput
from baton.keys import Scope
from services.console.playground import answer_of, correction_text, inputs_of, kinds_of, spans_of
from services.log_sampling import new_answer_id
from tests.support.browsing import Browser, keys_for, words
from tests.support.local_control import configured
from tests.support.waiting import free_port

PLAYGROUND = "/console/models/m/playground"
FEEDBACK = "/console/models/m/feedback"


def settings(task: str) -> ModelSettings:
    return ModelSettings.model_validate({"name": "m", "task": task, "base_model": "tiny", "data": {"train": "t.jsonl"}})


ANSWER = new_answer_id("")


def prediction(outputs) -> Prediction:
    return Prediction(outputs=outputs, answer_id="a", request_id="r", version=1, queue_ms=0.0, inference_ms=1.0)


@pytest.fixture
def unanswered(browser: Browser) -> Browser:
    """A service whose models do not answer."""
    http = browser.control.config.http.model_copy(update={"port": free_port()})
    browser.control.config = browser.control.config.model_copy(update={"http": http})
    return browser


def test_a_model_that_does_not_answer_is_told_and_the_text_is_kept(unanswered):
    assert "Ask the model" in unanswered.text(PLAYGROUND)
    answer = unanswered.post(PLAYGROUND, text="hello <there>")
    assert answer.status_code == 503
    assert "hello &lt;there&gt;" in answer.text
    assert 'role="alert"' in answer.text
    assert unanswered.get(f"{PLAYGROUND}?text=hello").status_code == 503


def test_a_correction_is_stored_once_and_the_last_one_counts(browser):
    browser.get(PLAYGROUND)
    for label in ("a", "a", "b"):
        answer = browser.post(FEEDBACK, text="hello", label=label, answer_id=ANSWER)
        assert f"Stored as feedback: {label} . 1 correction for the next run" in words(answer.text)
    [feedback] = browser.registry.feedback.newest("m", 10)
    assert (feedback.example["label"], feedback.client_id) == ("b", f"console:{ANSWER}")


def test_a_correction_that_cannot_be_used_says_why(unanswered):
    unanswered.get(PLAYGROUND)
    answer = unanswered.post(FEEDBACK, text="hello", label="", answer_id=ANSWER)
    assert answer.status_code >= 400
    assert "label" in words(answer.text)
    assert unanswered.registry.feedback.newest("m", 10) == []


def test_a_model_that_takes_no_feedback_says_so(browser, tmp_path):
    config = configured(tmp_path, "m").models[0]
    silent = config.model_copy(update={"feedback": config.feedback.model_copy(update={"accept": False})})
    browser.control.config = browser.control.config.model_copy(update={"models": (silent,)})
    browser.get(PLAYGROUND)
    answer = browser.post(FEEDBACK, text="hello", label="a", answer_id=ANSWER)
    assert (answer.status_code, "takes no feedback" in answer.text) == (409, True)


def test_a_key_that_only_predicts_cannot_correct(closed):
    browser = Browser(closed)
    browser.log_in(keys_for(closed)(Scope.PREDICT))
    browser.get(PLAYGROUND)
    answer = browser.post(FEEDBACK, text="hello", label="a", answer_id=ANSWER)
    assert (answer.status_code, "lacks the scope" in answer.text) == (403, True)
    assert closed.registry.feedback.newest("m", 10) == []


@pytest.mark.parametrize(
    ("task", "fields", "answer"),
    [
        ("classification", [("label", "a")], {"label": "a"}),
        ("classification", [("label", "a"), ("other", " b ")], {"label": "b"}),
        ("multi_label", [("label", "a"), ("label", "b"), ("other", "c")], {"label": ["a", "b", "c"]}),
        ("multi_label", [("label", "a"), ("other", "a")], {"label": ["a"]}),
        ("multi_label", [], {"label": []}),
        ("ner", [("keep", "0:3:PER:X")], {"entities": [{"start": 0, "end": 3, "label": "PER:X"}]}),
        (
            "ner",
            [("words", "Ann"), ("kind", "PER"), ("words-start", "8")],
            {"entities": [{"start": 8, "end": 11, "label": "PER"}]},
        ),
        (
            "ner",
            [("words", "Ann"), ("kind", "PER"), ("words-start", "5")],
            {"entities": [{"start": 0, "end": 3, "label": "PER"}]},
        ),
        ("ner", [("more", "met = X\n\nAnn=PER")], None),
        ("qa", [("words", "met")], {"answers": {"text": ["met"], "answer_start": [4]}}),
        ("qa", [("words", "met"), ("none", "1")], {"answers": {"text": [], "answer_start": []}}),
        ("seq2seq", [("target", " Ann\r\nmet ")], {"target": "Ann\nmet"}),
    ],
)
def test_a_form_becomes_the_answer_of_a_row(task, fields, answer):
    inputs = {"text": "Ann met Ann", "context": "Ann met Ann", "question": "who?"}
    found = answer_of(settings(task), inputs, ImmutableMultiDict(fields))
    if answer is None:
        assert [(it["start"], it["label"]) for it in found["entities"]] == [(0, "PER"), (4, "X")]
    else:
        assert found == answer


@pytest.mark.parametrize(
    "fields", [[("keep", "x")], [("keep", "0:y:PER")], [("words", "Bob"), ("kind", "PER")], [("kind", "PER")]]
)
def test_entities_that_are_not_in_the_text_are_refused(fields):
    with pytest.raises(InvalidInput):
        answer_of(settings("ner"), {"text": "Ann met Ann"}, ImmutableMultiDict(fields))


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_places_are_those_of_the_stored_text_however_its_lines_end(line_end):
    text = line_end.join(["a", "Clara met Clara", "Rome"])
    selected = len("a\nClara met ")  # as browsers count, which show each line end as one character
    told = ImmutableMultiDict([("words", "Clara"), ("kind", "PER"), ("words-start", str(selected))])
    [entity] = answer_of(settings("ner"), {"text": text}, told)["entities"]
    assert (entity["start"], text[entity["start"] : entity["end"]]) == (text.rindex("Clara"), "Clara")
    answers = answer_of(settings("qa"), {"question": "?", "context": text}, told)["answers"]
    assert answers == {"text": ["Clara"], "answer_start": [text.rindex("Clara")]}
    several = ImmutableMultiDict([("more", "Rome = LOC")])
    [entity] = answer_of(settings("ner"), {"text": text}, several)["entities"]
    assert text[entity["start"] : entity["end"]] == "Rome"


def test_marks_stand_where_the_model_put_them():
    entity = {"entity_group": "PER", "score": 0.9, "word": "Ann", "start": 2, "end": 5}
    other = {**entity, "entity_group": "LOC", "start": 6, "end": 9}
    pieces = spans_of(settings("ner"), {"text": "😀 Ann Bob!"}, prediction([other, entity]))
    assert "".join(piece.text for piece in pieces) == "😀 Ann Bob!"
    assert [(piece.text, piece.label, piece.kind) for piece in pieces if piece.marked] == [("Ann", "PER", 1), ("Bob", "LOC", 0)]
    answer = {"answer": "Bob", "score": 0.5, "start": 4, "end": 7}
    [mark] = [it for it in spans_of(settings("qa"), {"question": "?", "context": "Ann Bob"}, prediction(answer)) if it.marked]
    assert mark.text == "Bob"
    assert (
        spans_of(settings("qa"), {"question": "?", "context": "Ann"}, prediction({**answer, "answer": ""}))[0].marked is False
    )
    assert spans_of(settings("classification"), {"text": "x"}, prediction([])) == []


def test_lines_are_counted_as_the_model_counts_them():
    assert inputs_of(settings("ner"), {"text": "a\r\nb\rc"}) == {"text": "a\nb\nc"}
    assert inputs_of(settings("qa"), {"question": "q"}) == {"question": "q", "context": ""}
    assert inputs_of(settings("seq2seq"), {"source": "q", "text": "no"}) == {"source": "q"}


def test_corrections_are_told_in_words():
    assert correction_text({"label": ["a", "b"]}) == "a, b"
    assert correction_text({"text": "Ann", "entities": [{"start": 0, "end": 3, "label": "PER"}]}) == "Ann (PER)"
    assert correction_text({"answers": {"text": ["x"]}}) == "x"
    assert correction_text({"source": "x", "target": "y"}) == "y"
    assert kinds_of(["O", "B-PER", "I-PER", "LOC"]) == ["LOC", "PER"]
