"""The console in a real browser, over a real control plane and a real replica of each task."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import store_suspects
from baton.keys import Scope
from baton.store.feedback.audit import Drawn
from baton.store.records import RunStage, RunState
from baton.tasks import task_type
from baton.text.normal_form import fingerprint
from services.console.pages import TABS
from tests.support.console import Service, console_service

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e '.[dev]')")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")

MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
"""What must be shown as text, wherever it comes from."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def service(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Four models, without keys."""
    with console_service(tiny_base, tmp_path_factory.mktemp("console")) as (service, _):
        yield service


@contextlib.contextmanager
def page_of(chromium: Any, **options: Any) -> Iterator[Any]:
    """A page of a new visitor. In the end, the browser must not have complained of anything."""
    context = chromium.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(60_000)
    yield page
    context.close()
    assert [text for text in complaints if "the server responded with a status of 4" not in text] == []


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    with page_of(chromium) as page:
        yield page


def stored(service: Service, model: str) -> list[Any]:
    return service.control.registry.feedback.newest(model, 10)


def test_an_answer_of_a_classifier_is_corrected_with_one_click_and_counted(service, page):
    page.goto(f"{service.url}/console/models/classification/playground")
    page.fill("#text", "my invoice is wrong")
    page.click("text=Ask the model")
    bars = page.locator(".bars > div")
    assert bars.count() == 3
    last = bars.last.locator(".name").inner_text()
    bars.last.locator("button").click()
    page.wait_for_selector(".notice.good")
    assert f"Stored as feedback: {last}. 1 correction for the next run" in page.inner_text(".notice")
    [feedback] = stored(service, "classification")
    assert feedback.example == {"text": "my invoice is wrong", "label": last}
    assert feedback.answer_id is not None
    page.goto(service.url)
    assert "1 correction for the next run" in page.inner_text("article:has-text('classification')")


def test_an_answer_that_is_too_unsure_to_act_on_says_so(service, page):
    for model, least in (("classification", "1.000"), ("ner", "1.000"), ("qa", None)):
        page.goto(f"{service.url}/console/models/{model}/playground?text=Clara+met+Bob&question=who&context=Clara")
        page.wait_for_selector("section.panel code")
        told = page.locator("section .notice.warn").all_inner_texts()
        assert len(told) == (least is not None), model
        assert least is None or f"Unsure: do not act on this answer. It has a score below {least}" in told[0]
    page.goto(f"{service.url}/console/models/ner/playground?text=Clara+met+Bob")
    assert page.locator("mark.unsure").count() == page.locator("mark").count()


def test_a_second_click_takes_the_place_of_the_first(service, page):
    page.goto(f"{service.url}/console/models/classification/playground?text=twice")
    url = page.url
    labels = page.locator(".bars .name").all_inner_texts()
    before = len(stored(service, "classification"))
    answer = page.locator("section code").inner_text()
    for label in labels[:2]:
        page.evaluate(
            """([label, answer]) => {
                const form = document.querySelector('section form');
                form.answer_id.value = answer;
                form.querySelector(`button[value="${label}"]`).click();
            }""",
            [label, answer],
        )
        page.wait_for_selector(".notice.good")
        page.goto(url)
    found = stored(service, "classification")
    assert len(found) == before + 1
    assert found[0].example["label"] == labels[1]


def test_labels_of_a_multi_label_answer_are_ticked_and_sent(service, page):
    page.goto(f"{service.url}/console/models/multi_label/playground?text=my+parcel")
    for box in page.locator(".bars input").all():
        box.set_checked(box.get_attribute("value") in ("bug", "billing"))
    page.click("text=These labels are right")
    page.wait_for_selector(".notice.good")
    assert sorted(stored(service, "multi_label")[0].example["label"]) == ["billing", "bug"]


def test_an_entity_is_selected_in_the_text_and_sent(service, page):
    text = "😀 Clara met Clara in Rome"
    page.goto(f"{service.url}/console/models/ner/playground?text=x")
    page.fill("#text", text)
    page.click("text=Ask the model")
    page.wait_for_selector(".marked")
    for box in page.locator("input[name=keep]").all():
        box.uncheck()
    page.evaluate(
        """() => {
            const marked = document.querySelector('.marked'), walker = document.createTreeWalker(marked, NodeFilter.SHOW_TEXT);
            let seen = '', range = document.createRange(), node;
            const place = seen => seen.lastIndexOf('Clara');
            const words = it => it.tagName === 'MARK' ? it.firstChild.textContent : it.textContent;
            const whole = [...marked.childNodes].map(words).join('');
            const start = place(whole), end = start + 5;
            while (node = walker.nextNode()) {
                if (node.parentNode.tagName === 'SMALL') continue;
                const length = node.textContent.length;
                if (seen.length <= start && start < seen.length + length) range.setStart(node, start - seen.length);
                if (seen.length < end && end <= seen.length + length) range.setEnd(node, end - seen.length);
                seen += node.textContent;
            }
            getSelection().removeAllRanges(); getSelection().addRange(range);
            marked.dispatchEvent(new MouseEvent('mouseup', {bubbles: true}));
        }"""
    )
    assert page.input_value("#words") == "Clara"
    page.fill("#kind", "PER")
    page.click("text=These entities are right")
    page.wait_for_selector(".notice.good")
    [entity] = stored(service, "ner")[0].example["entities"]
    start = text.rindex("Clara")
    assert (entity["start"], entity["end"], entity["label"]) == (start, start + 5, "PER")


def test_the_answer_to_a_question_is_typed_and_sent(service, page):
    page.goto(f"{service.url}/console/models/qa/playground")
    page.fill("#question", "what came?")
    page.fill("#context", "the parcel came\nyesterday")
    page.click("text=Ask the model")
    page.fill("#words", "parcel")
    page.click("text=This answer is right")
    page.wait_for_selector(".notice.good")
    assert stored(service, "qa")[0].example["answers"] == {"text": ["parcel"], "answer_start": [4]}
    page.goto(f"{service.url}/console/models/qa/playground?question=what&context=the+parcel+came")
    page.fill("#words", "a word that is not there")
    page.click("text=This answer is right")
    assert "is not in the text" in page.inner_text(".notice.bad")


@pytest.mark.parametrize("model", ["classification", "multi_label", "ner"])
def test_markup_in_a_text_is_shown_as_text(service, page, model):
    page.goto(f"{service.url}/console/models/{model}/playground")
    page.fill("#text", MARKUP)
    page.click("text=Ask the model")
    page.wait_for_selector("section.panel")
    assert page.input_value("#text") == MARKUP
    assert page.locator("main img, main b").count() == 0
    assert page.title() != "owned"


def test_markup_in_labels_reasons_and_the_history_is_shown_as_text(service, page):
    registry = service.control.registry
    page.goto(f"{service.url}/console/models/classification/playground?text=hello")
    page.fill("#other", MARKUP)
    page.click("text=Send")
    page.wait_for_selector(".notice.good")
    assert MARKUP in page.inner_text(".notice.good")
    registry.retrain.pause("ner", MARKUP)
    page.goto(service.url)
    assert MARKUP in page.inner_text("article:has-text('ner')")
    for tab, _, _ in TABS:
        page.goto(f"{service.url}/console/models/ner/{tab}")
        assert page.locator("main img, main b").count() == 0
    assert page.title() != "owned"


def test_a_shared_link_shows_the_answer_and_its_language_can_be_changed(service, page):
    page.goto(f"{service.url}/console/models/classification/playground?text=%E4%BD%A0%E5%A5%BD")
    assert page.input_value("#text") == "你好"
    assert page.locator(".bars > div").count() == 3
    page.click("text=简体中文")
    page.wait_for_selector("html[lang=zh-Hans]")
    assert page.input_value("#text") == "你好"
    assert "询问模型" in page.inner_text("main")


def test_everything_is_reached_by_keyboard(service, page):
    page.goto(service.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(f"{service.url}/console/models/classification/playground")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("hello")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".bars")


def test_pages_fit_a_telephone_and_read_without_scripts(service, chromium):
    with page_of(chromium, viewport={"width": 390, "height": 800}, java_script_enabled=False) as page:
        for path in ("/", *(f"/console/models/classification/{tab}" for tab, _, _ in TABS)):
            page.goto(service.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.goto(f"{service.url}/console/models/classification/playground")
        page.fill("#text", "no scripts")
        page.click("text=Ask the model")
        page.locator(".bars button").first.click()
        assert "Stored as feedback" in page.inner_text(".notice")


QUESTION = "what came?"


def draw(service: Service, model: str, texts: list[str]) -> None:
    """Let the audit draw texts that it has not drawn yet."""
    inputs = [{"question": QUESTION, "context": text} if model == "qa" else {"text": text} for text in texts]
    found = [(task_type(model).content(task_type(model).Input.model_validate(it)), it) for it in inputs]
    drawn = [Drawn(keys=(fingerprint(content),), content_hash=fingerprint(content), input=it) for content, it in found]
    assert service.control.registry.audit.draw(model, drawn) == len(texts)


def drawn_item(service: Service, model: str, text: str) -> Any:
    """Return what the audit has stored about a text."""
    items = service.control.registry.audit.items(model)
    [found] = [item for item in items if text in (item.input.get("text"), item.input.get("context"))]
    return found


AUDITED = "main:not(:has(input[name=source][value=audit]))"
"""A page without a text of the audit: all are labelled."""


def type_keys(page: Any, *keys: str) -> None:
    """Press keys one after the other; what is no name of a key is typed."""
    for key in keys:
        if key in ("Tab", "Enter", "Shift+Tab") or len(key) == 1:
            page.keyboard.press(key)
        else:
            page.keyboard.type(key)


BY_KEYBOARD: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "classification": (("2",), {"label": "bug"}),
    "multi_label": (("1", "3", "Enter"), {"label": ["billing", "shipping"]}),
    "ner": (("Clara", "Tab", "PER", "Enter"), {"entities": [{"start": 0, "end": 5, "label": "PER"}]}),
    "qa": (("parcel", "Enter"), {"answers": {"text": ["parcel"], "answer_start": [10]}}),
}
"""By task: the keys that label a text in the review, and what is stored then."""


@pytest.mark.parametrize("model", BY_KEYBOARD)
def test_ten_texts_are_labelled_with_the_keyboard_alone(service, page, model):
    keys, label = BY_KEYBOARD[model]
    texts = [f"Clara's {'b' if model == 'qa' else 'a'} parcel {number}" for number in range(10)]
    draw(service, model, texts)
    page.goto(f"{service.url}/console/models/{model}/review")
    for text in texts:
        page.wait_for_selector(f'.marked:text-is("{text}")')
        type_keys(page, *keys)
    page.wait_for_selector(AUDITED)
    for text in texts:
        example = drawn_item(service, model, text).example
        assert {name: example[name] for name in label} == label


def test_texts_are_skipped_and_marked_with_the_keyboard(service, page):
    draw(service, "classification", ["one", "two"])
    page.goto(f"{service.url}/console/models/classification/review")
    for key, shown in (("s", "one"), ("x", "two")):
        page.wait_for_selector(f".marked:text-is('{shown}')")
        page.keyboard.press(key)
    page.wait_for_selector(AUDITED)
    assert not drawn_item(service, "classification", "one").done
    assert drawn_item(service, "classification", "two").undecidable
    page.goto(f"{service.url}/console/models/classification/review")
    page.keyboard.press("x")
    page.wait_for_selector(AUDITED)


def test_answers_and_rows_in_doubt_are_judged_with_the_keyboard_alone(service, page):
    notes = {"_suggested": MARKUP, "_margin": 0.5, "_where": MARKUP}
    rows = [{"text": f"{MARKUP} {place}", "label": "billing", **notes} for place in range(3)]
    store_suspects(Storage(service.control.config.storage), "classification", rows)
    page.goto(f"{service.url}/console/models/classification/review?queue=suspect")
    for place, key in enumerate(("Enter", "s", "2")):
        page.wait_for_selector(f".marked:has-text('{place}')")
        assert page.inner_text(".marked") == f"{MARKUP} {place}"
        assert page.locator("main img, main b").count() == 0
        page.keyboard.press(key)
    page.wait_for_selector(".empty")
    labels = [it.example["label"] for it in stored(service, "classification") if MARKUP in it.example["text"]]
    assert labels[:2] == ["bug", "billing"]


@pytest.mark.parametrize(("tabs", "then"), [("main button[name=skip]", AUDITED), (".brand", ".cards")])
def test_enter_presses_the_button_or_link_that_has_the_focus(service, page, tabs, then):
    text = f"Enter on {tabs}"
    draw(service, "multi_label", [text])
    page.goto(f"{service.url}/console/models/multi_label/review")
    page.focus(tabs)
    page.keyboard.press("Enter")
    page.wait_for_selector(then)
    assert not drawn_item(service, "multi_label", text).done
    service.control.registry.audit.mark_undecidable("multi_label", drawn_item(service, "multi_label", text).id)


@pytest.mark.parametrize("model", ["classification", "multi_label"])
def test_a_label_that_is_not_offered_is_typed_in_the_review(service, page, model):
    draw(service, model, ["a new kind of text"])
    page.goto(f"{service.url}/console/models/{model}/review")
    page.focus("#other")
    if model == "classification":  # its buttons answer with one label each, and none of them may be pressed by the empty field
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('#other').matches(':invalid')")
        assert not drawn_item(service, model, "a new kind of text").done
    type_keys(page, "refund", "Enter")
    page.wait_for_selector(AUDITED)
    label = drawn_item(service, model, "a new kind of text").example["label"]
    assert label == ("refund" if model == "classification" else ["refund"])


def test_a_key_that_is_held_down_labels_one_text(service, page):
    draw(service, "classification", ["held down"])
    page.goto(f"{service.url}/console/models/classification/review")
    pressed = """repeat =>
        document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'x', repeat, bubbles: true, cancelable: true}))"""
    assert page.evaluate(pressed, True), "a repetition does nothing"
    assert not page.evaluate(pressed, False)
    page.wait_for_selector(AUDITED)
    assert drawn_item(service, "classification", "held down").undecidable


def test_words_that_are_selected_in_the_review_are_stored_where_they_stand(service, page):
    text = "a\r\n😀 Clara met Clara\r\nin Rome"
    draw(service, "ner", [text])
    page.goto(f"{service.url}/console/models/ner/review")
    page.evaluate(
        """() => {
            const node = document.querySelector('.marked').firstChild, range = document.createRange();
            const start = node.data.lastIndexOf('Clara');
            range.setStart(node, start); range.setEnd(node, start + 5);
            getSelection().removeAllRanges(); getSelection().addRange(range);
            node.parentNode.dispatchEvent(new MouseEvent('mouseup', {bubbles: true}));
        }"""
    )
    assert page.input_value("#words") == "Clara"
    page.fill("#kind", "PER")
    page.click("main button[name=these]")
    page.wait_for_selector(AUDITED)
    [entity] = drawn_item(service, "ner", text).example["entities"]
    assert (entity["start"], entity["end"]) == (text.rindex("Clara"), text.rindex("Clara") + 5)


@pytest.mark.parametrize("without", ["events", "polling"])
def test_a_run_is_watched_without_loading_its_page_again(service, page, without):
    registry = service.control.registry
    run = registry.runs.create("qa", {}, None, started=True)
    url = f"{service.url}/console/models/qa/runs/{run.id}"
    if without == "events":
        page.route("**/events*", lambda route: route.fulfill(status=204))  # an EventSource gives up on this answer
    page.goto(url)
    page.evaluate("document.title = 'the same page'")
    if without == "polling":
        page.evaluate("events.readyState === 1 || new Promise((open) => events.addEventListener('open', () => open(true)))")
        page.evaluate("later = () => {}; clearTimeout(timer)")
    for step in (1, 2):
        registry.runs.report(run.id, RunStage.TRAINING, {"epoch": 0.5, "epochs": 1, "step": step, "steps": 4, "f1": step / 10})
        page.wait_for_selector(f"dd:text-is('0.{step}00')")
    assert page.locator("circle").count() == 2
    registry.runs.finish(run.id, RunState.FAILED, reason=MARKUP)
    page.wait_for_selector(".notice.bad")
    assert page.inner_text(".notice.bad") == MARKUP
    assert page.title() == "the same page"
    assert page.locator("[data-refresh]").count() == 0


def test_the_log_of_a_run_stays_where_it_is_read_and_goes_on(service, page, monkeypatch):
    registry, lines = service.control.registry, [f"line {number}" for number in range(200)]

    async def run_log(run_id: str, count: int) -> list[str]:
        return lines[-count:]

    monkeypatch.setattr(service.control, "run_log", run_log)
    run = registry.runs.create("ner", {}, None, started=True)
    page.goto(f"{service.url}/console/models/ner/runs/{run.id}")
    log = "document.querySelector('pre.log')"
    at_end = f"{log}.scrollTop + {log}.clientHeight >= {log}.scrollHeight - 2"
    assert page.evaluate(at_end), "the end comes first"
    page.click("pre.log")
    lines += ["one more line"]
    page.wait_for_selector("pre.log:has-text('one more line')")
    assert page.evaluate(at_end)
    assert page.evaluate(f"document.activeElement === {log}")
    page.evaluate(f"{log}.scrollTop = 100")
    lines += ["the last line"]
    page.wait_for_selector("pre.log:has-text('the last line')")
    assert page.evaluate(f"{log}.scrollTop") == 100
    registry.runs.finish(run.id, RunState.CANCELLED, reason="a test")


def test_no_other_page_can_show_the_console_in_a_frame(service, chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.route(
        "http://elsewhere.example/",
        lambda route: route.fulfill(content_type="text/html", body=f'<iframe src="{service.url}/"></iframe>'),
    )
    page.goto("http://elsewhere.example/")
    assert all("Overview" not in (frame.content() or "") for frame in page.frames)
    context.close()


def test_each_scope_logs_in_and_sees_what_it_may(tiny_base, tmp_path, chromium):
    scopes = [frozenset({scope}) for scope in Scope] + [frozenset({Scope.PREDICT, Scope.FEEDBACK})]
    with console_service(tiny_base, tmp_path, *scopes) as (service, tokens):
        for wanted, token in zip(scopes, tokens, strict=True):
            with page_of(chromium) as page:
                page.goto(f"{service.url}/")
                assert page.locator("nav").count() == 0
                page.fill("#key", token)
                page.click("main button")
                page.wait_for_selector(".who")
                assert token not in page.content()
                cookies = page.context.cookies()
                assert all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in cookies)
                assert all(token not in cookie["value"] for cookie in cookies)
                shown = set(page.locator(".tabs a").all_inner_texts())
                match sorted(wanted):
                    case [Scope.OPERATE]:
                        assert page.inner_text("h1") == "Overview"
                    case [Scope.PREDICT] | [Scope.FEEDBACK, Scope.PREDICT]:
                        assert shown == {"Playground"}
                        page.fill("#text", "with a key")
                        page.click("text=Ask the model")
                        page.wait_for_selector(".bars")
                        assert (page.locator(".bars button").count() > 0) == (Scope.FEEDBACK in wanted)
                        if Scope.FEEDBACK in wanted:
                            page.locator(".bars button").first.click()
                            page.wait_for_selector(".notice.good")
                            assert stored(service, "classification")[0].sender is not None
                    case [Scope.LABEL]:
                        assert "Playground" not in shown
                    case _:
                        assert "sees no page" in page.inner_text("main")
                page.click("text=Log out")
                page.wait_for_selector("#key")


def test_a_correction_that_arrives_after_the_end_of_its_session_is_not_lost(tiny_base, tmp_path, chromium):
    wanted = frozenset({Scope.PREDICT, Scope.FEEDBACK})
    with console_service(tiny_base, tmp_path, wanted, wanted) as (service, tokens), page_of(chromium) as page:
        keys = service.control.registry.keys
        page.goto(f"{service.url}/console/models/classification/playground")
        page.fill("#key", tokens[0])
        page.click("main button")
        page.fill("#text", MARKUP)
        page.click("text=Ask the model")
        page.fill("#other", "refund <b>")
        [ended] = [key for key in keys.live() if key.id in tokens[0]]
        keys.revoke(ended.id)
        service.control.keyring.refresh()
        page.click("text=Send")
        assert "What you sent is not stored, but kept" in page.inner_text("main")
        page.fill("#key", "a wrong key")
        page.click("main button")
        page.wait_for_selector(".notice.bad")
        page.fill("#key", tokens[1])
        page.click("main button")
        assert MARKUP in page.inner_text(".sent")
        assert page.locator("main img, main b").count() == 0
        assert stored(service, "classification") == []
        page.click("main button")
        page.wait_for_selector(".notice.good")
        [feedback] = stored(service, "classification")
        assert feedback.example == {"text": MARKUP, "label": "refund <b>"}
        assert feedback.answer_id is not None
