"""The report as HTML, made from real matches: what it shows, and that no text of a user becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from typing import Any

import html5lib
import pytest

from services.report.page import css, fragments, page, policy
from services.report.words import LANGUAGES
from tests.report.cases import CASES, HOSTILE, classification, tickets
from tests.support.chromium import needs_chromium, tab

ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "article",
        "header",
        "section",
        "div",
        "p",
        "h2",
        "h3",
        "span",
        "small",
    ),
    *("dl", "dt", "dd", "ul", "ol", "li", "bdi", "code", "mark", "figure", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td", "svg", "desc", "line", "text", "g", "circle"),
}
"""All elements of a report. One that a text of a user brings in would be another, or one too many."""

ATTRIBUTES = {"class", "lang", "dir", "scope", "id", "role", "aria-hidden", "aria-labelledby"}
"""All attributes, besides those of ``meta`` and of drawings."""

DRAWN = {"viewBox", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r"}

INTERVAL = {"x1", "y1", "x2", "y2"}


def parse(text: str) -> Any:
    """The document, as the HTML standard parses it. A mistake in it is an error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


@cache
def item(name: str) -> Any:
    return CASES[name]()


def document(name: str, language: Any = "en") -> Any:
    return parse(page(item(name), language=language))


def name_of(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def text_of(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def of_class(document: Any, name: str) -> list[Any]:
    return [one for one in document.iter() if name in str(one.get("class", "")).split()]


def states(document: Any) -> dict[str, str]:
    """The state of each condition."""
    [table] = of_class(document, "conditions")
    rows = [row for row in table.iter() if name_of(row) == "tr"][1:]
    return {text_of(row[1]): str(row.get("class")) for row in rows}


def heads(document: Any) -> list[str]:
    return [text_of(one) for one in document.iter() if name_of(one) == "h3"]


def cards(document: Any) -> list[Any]:
    return [] if not of_class(document, "changed") else list(of_class(document, "changed")[0])


# --- every report --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", CASES)
def test_every_report_is_html_without_scripts_styles_and_addresses(name, language):
    found = document(name, language)
    elements = [one for one in found.iter() if isinstance(one.tag, str)]
    assert {name_of(one) for one in elements} <= ELEMENTS
    for one in elements:
        if name_of(one) != "meta":
            drawn = DRAWN if str(one.tag).startswith("{http://www.w3.org/2000/svg}") else set()
            assert set(one.attrib) <= ATTRIBUTES | drawn, (name_of(one), one.attrib)
    assert "url(" not in css()
    assert "//" not in css()
    ids = [one.get("id") for one in elements if one.get("id")]
    assert len(ids) == len(set(ids))
    for plot in of_class(found, "plot"):
        title, described = plot[0], plot[1]
        assert (name_of(title), name_of(described), plot.get("role")) == ("title", "desc", "img")
        assert text_of(title)
        assert text_of(described)
        assert plot.get("aria-labelledby").split() == [title.get("id"), described.get("id")]


@pytest.mark.parametrize("name", CASES)
def test_a_report_of_the_version_before_has_fewer_pieces_and_is_shown(name):
    """It has no marks and no reasons in changed texts, no hashes, and does not say which labels were lost."""
    gone = ("lost", "marks", "reasons", "dataset", "manifests")

    def older(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: older(one) for key, one in value.items() if key not in gone}
        return [older(one) for one in value] if isinstance(value, list) else value

    assert of_class(parse(page(older(item(name)), language="en")), "verdict")


def test_the_policy_of_the_page_allows_its_own_style_alone():
    [style] = [one for one in document("win").iter() if name_of(one) == "style"]
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy()
    assert policy().startswith("default-src 'none';")
    [meta] = [one for one in document("win").iter() if one.get("http-equiv")]
    assert meta.get("content") == policy()


def test_the_same_report_is_always_the_same_page_and_holds_its_fragments():
    assert page(item("win")) == page(item("win"))
    assert fragments(item("win")) in page(item("win"))
    assert str(fragments(item("win"))).startswith('<article class="baton-report" lang="en">')
    assert 'lang="zh-Hans"' in fragments(item("win"), language="zh")


# --- markup of users -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_markup_in_texts_labels_slices_reasons_and_names_is_shown_and_is_none(language):
    found = document("hostile", language)
    shown = text_of(found)
    for text in (HOSTILE, "</td><script>alert(2)</script>", "{{ 7*7 }}", "'\"><style>*{}</style>", "<b>channel</b>"):
        assert text in shown
    assert "<script>alert(3)</script>" in text_of(next(one for one in found.iter() if name_of(one) == "title"))
    assert f"{HOSTILE}</p>because" in shown
    assert sum(name_of(one) == "style" for one in found.iter()) == 1
    assert sum(name_of(one) == "article" for one in found.iter()) == 1


def test_markup_anywhere_in_the_json_of_a_report_is_none_in_the_page():
    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poisoned(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [poisoned(inner, key) for inner in value]
        kept = ("verdict", "kind", "reason", "unit", "guard", "created_at")
        return f"{value}{HOSTILE}" if isinstance(value, str) and key not in kept else value

    for name in ("win", "ner", "first"):
        found = parse(page(poisoned(item(name))))
        assert {name_of(one) for one in found.iter() if isinstance(one.tag, str)} <= ELEMENTS
        assert HOSTILE in text_of(found)


# --- what each kind shows ------------------------------------------------------------------------------------------------


def test_a_win_has_its_verdict_its_judges_its_numbers_and_what_was_judged():
    found, numbers = document("win"), item("win")["decision"]["numbers"]
    shown = text_of(found)
    assert text_of(of_class(found, "badge")[0]) == "✓ Promote"
    assert item("win")["decision"]["sentence"] in shown
    assert "400 declared rows, and 200 audited requests" in shown
    assert "This was match 2 on this holdout. It might be won by chance with probability 0.119% at most (α)." in shown
    assert "2.38% of 5% is left for all matches that follow; 2.62% is spent." in shown
    figures = dict(
        zip(*[[text_of(one) for one in of_class(found, "figures")[0].iter(tag)] for tag in ("dt", "dd")], strict=True)
    )
    assert figures["gain"] == f"+{numbers['gain']:.3f}"
    assert figures["gain at least"] == f"+{numbers['gain_lower_bound']:.3f}"
    for name in ("c4" * 32, "b7" * 32, "9d" * 32, "5f0c" * 16):
        assert name in shown
    assert set(states(found).values()) == {"passed", "unjudged"}
    assert states(found)["no loss on audited requests"] == "passed"
    assert heads(found) == [
        *("The gain and its interval", "Conditions", "Who judged", "Matches and the error budget", "By part and slice"),
        *("By label", "Confusions that changed", "The most changed texts", "Cost", "What was judged"),
    ]


def test_the_plot_has_zero_the_wanted_gain_and_the_intervals_where_their_numbers_are():
    [plot] = of_class(document("unsure"), "plot")
    [zero], [wanted], [bar] = (
        [one for one in plot.iter() if name in str(one.get("class")).split()] for name in ("zero", "wanted", "bar")
    )
    low, high = float(bar[0].get("x1")), float(bar[0].get("x2"))
    [row] = item("unsure")["report"]["rows"]
    pixel = (high - low) / (row["high"] - row["low"])
    assert float(zero.get("x1")) == pytest.approx(low - row["low"] * pixel, abs=0.2)
    assert float(wanted.get("x1")) == pytest.approx(low + (0.01 - row["low"]) * pixel, abs=0.2)
    assert float(bar[3].get("cx")) == pytest.approx(low + (row["gain"] - row["low"]) * pixel, abs=0.2)
    assert f"n = {row['texts']}" in text_of(plot[1])
    assert "least gain +0.010" in text_of(plot)


def test_a_loss_says_which_conditions_failed_and_the_largest_losses_come_first():
    found = document("loss")
    assert text_of(of_class(found, "badge")[0]) == "✗ Refused"
    found_states = states(found)
    assert (found_states["gain"], found_states["no label lost"], found_states["not by chance"]) == ("failed",) * 3
    assert (found_states["size of the files"], found_states["time of one answer"]) == ("passed", "passed")
    gains = [float(text_of(row[4]).replace("−", "-")) for row in of_class(found, "scores")[0].find("tbody")]
    assert gains == sorted(gains)
    assert gains[0] < 0
    assert "✗ lost" in text_of(of_class(found, "scores")[0].find("tbody")[0])


def test_a_version_over_its_budget_says_so_and_that_no_match_was_played():
    found = document("too_large")
    assert states(found)["size of the files"] == "failed"
    assert "A version over its budget plays no match. Of the error budget 5%, 0% is spent, 5% left." in text_of(found)


def test_a_holdout_that_is_too_small_judges_nothing():
    found = document("few_rows")
    assert text_of(of_class(found, "badge")[0]) == "? Inconclusive"
    told = states(found)
    assert told["size of the holdout"] == "failed"
    assert {state for name, state in told.items() if name != "size of the holdout"} == {"unjudged"}


def test_a_first_version_is_shown_against_what_is_required_of_it():
    found = document("first")
    assert "the first version" in text_of(found)
    assert "against" not in text_of(next(one for one in found.iter() if name_of(one) == "h2"))
    assert states(found) == {
        "size of the files": "unjudged",
        "time of one answer": "unjudged",
        "size of the holdout": "passed",
        "F1": "passed",
        "lower bound of F1": "passed",
        "gain": "unjudged",
    }
    assert "required 0.5" in text_of(of_class(found, "plot")[0])
    assert "By label" in heads(found)
    assert not {"The most changed texts", "Confusions that changed", "By part and slice"} & set(heads(found))
    assert "vNone" not in text_of(found)


def test_without_changed_answers_the_report_says_that():
    assert "No answer changed for better or worse." in text_of(document("unchanged"))
    assert "Confusions that changed" not in heads(document("unchanged"))


def test_answers_that_were_not_kept_are_named_so():
    answers = [text_of(one) for one in cards(document("unkept"))[0].iter("dd")]
    assert [words.partition(" words")[0] for words in answers[1:]] == ["not kept", "not kept"]


def test_the_changed_texts_have_both_answers_and_the_right_one_masked():
    found = cards(document("loss"))
    assert len(found) == 10
    assert [card.get("class") for card in found] == ["worse"] * 5 + ["better"] * 5
    assert [text_of(one) for one in found[0].iter("dt")] == ["right", "v7", "v8"]
    right, champion, candidate = [text_of(one) for one in found[0].iter("dd")]
    assert right == "account"
    assert re.fullmatch(r"account \(0\.91\) words that count: I −0\.052, █+ \+0\.030", champion)
    assert re.fullmatch(r"billing \(0\.91\) words that count: I \+0\.410, █+ \+0\.030", candidate)
    assert "example.com" not in text_of(document("loss"))


def test_of_151_labels_the_ends_are_shown_and_the_rest_can_be_opened():
    found = document("many_labels")
    tables = of_class(found, "scores")
    assert [len(table.find("tbody")) for table in tables] == [10, 131, 10]
    [details] = [one for one in found.iter() if name_of(one) == "details"]
    assert text_of(details[0]) == "131 labels between these, which changed less"
    gains = [float(text_of(row[4]).replace("−", "-")) for table in tables for row in table.find("tbody")]
    assert gains == sorted(gains)


def test_several_labels_have_f1_by_label_without_intervals():
    found = document("multi_label")
    [table] = of_class(found, "scores")
    assert [text_of(one) for one in table.find("thead")[0]] == ["label", "n", "F1 of v7", "F1 of v8", "gain"]
    assert states(found)["no label lost"] == "unjudged"
    assert any("urgent" in text_of(one) for one in cards(found)[0].iter("dd"))


def test_entities_are_marked_in_the_text_and_each_answer_says_what_is_right_wrong_and_missed():
    found = document("ner")
    worse = cards(found)[0]
    marks = list(worse.iter("mark"))
    assert [one.get("class").strip() for one in marks] == ["right wrong", "right"]
    assert [one.text for one in marks][1] in ("Lisbon", "Porto", "São Paulo")
    right, champion, candidate = ([str(one.get("class")) for one in of_class(answer, "named")] for answer in worse.iter("dd"))
    assert right == champion == ["named right", "named right"]
    assert candidate == ["named wrong", "named missed", "named right"]
    assert "anna@example.com" not in text_of(found)
    counting = [text_of(one) for one in of_class(worse, "why")]
    assert [re.match(r"words that count: \S+ PLACE: \S+ (−0\.052|\+0\.410), \S+ \+0\.030", one)[1] for one in counting] == [
        "−0.052",
        "+0.410",
    ]


def test_answers_to_questions_are_marked_in_an_excerpt_of_the_context():
    found = document("qa")
    long = next(card for card in cards(found) if "…" in text_of(card))
    assert text_of(long).split(" ", 2)[2].startswith("Where is parcel")
    assert {one.text: one.get("class").strip() for one in long.iter("mark")} == {"Porto": "right", "Lisbon": "wrong"}
    assert next(text_of(one) for one in long.iter("dd")) == "Porto"


def test_long_and_foreign_texts_are_isolated_and_cut():
    found = document("long_and_foreign")
    texts = [next(one for one in card.iter("bdi")) for card in cards(found)]
    assert all(len(text_of(text)) <= 322 for text in texts)
    [labels] = of_class(found, "scores")
    assert all(name_of(row[0][0]) == "bdi" for row in labels.find("tbody"))
    assert "退款申请" in text_of(labels)
    assert "شحن" in text_of(labels)


def test_a_condition_that_was_lost_on_a_label_outside_of_the_worst_ten_still_fails():
    report = json.loads(json.dumps(CASES["many_labels"]()))
    last = max(report["report"]["labels"], key=lambda label: label["gain"])
    last["lost"] = True
    assert states(parse(page(report)))["no label lost"] == "failed"


def test_groups_are_called_groups():
    rows = tickets(200)
    found = classification(rows, range(0, 200, 20), range(0, 200, 6))
    found["decision"]["numbers"]["unit"] = "group"
    shown = text_of(parse(page(found)))
    assert "200 groups of the holdout (200 rows)" in shown
    assert "at least 30 groups" in shown


def test_small_differences_have_no_sign_without_a_value():
    numbers = {text_of(one) for one in of_class(document("unchanged"), "number")}
    assert "0.000" in numbers
    assert not {"+0.000", "−0.000"} & numbers


# --- in a browser --------------------------------------------------------------------------------------------------------


@needs_chromium
def test_in_a_browser_no_report_runs_a_script_asks_anybody_or_is_wider_than_a_telephone(tmp_path):
    with tab(viewport={"width": 390, "height": 800}, color_scheme="dark") as opened:
        opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
        for name in ("hostile", "win", "ner", "long_and_foreign", "many_labels", "first"):
            file = tmp_path / f"{name}.html"
            file.write_text(page(item(name)), encoding="utf-8")
            opened.page.goto(file.as_uri())
            assert opened.page.evaluate("document.documentElement.scrollWidth") == 390, name
            dark = opened.page.evaluate("getComputedStyle(document.querySelector('.baton-report')).backgroundColor")
            assert dark == "rgb(20, 24, 29)"
        assert opened.complaints == []
        assert all(url.startswith("file:") for url in opened.asked)
        assert len(opened.asked) == 6
