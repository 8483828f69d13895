"""Data: frozen data sets, their quarantine, and the corrections that wait."""

from __future__ import annotations

import pytest

from baton.artifacts.frozen import QUARANTINE
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.feedback.correction import Correction
from baton.store.records import DatasetVersion
from services.console.data import answer_text, input_text
from services.console.dataset_changes import ROWS_LISTED
from tests.support.answers import correct_answers
from tests.support.growing import SMALL_HOLDOUT, SMALL_TRAIN, GrowingData, correct, freeze_recorded, three_versions

DATA = "/console/models/m/data"


def test_before_the_first_run_there_are_only_corrections(browser):
    correct_answers(browser.registry, "m", [(2, "a", "b <i>")])
    text = browser.text(DATA)
    assert "The first run freezes data set 1." in text
    assert "1 correction for the next run" in text
    assert "hello b <i> v2" in text
    assert "<i>" not in browser._page
    assert browser.get(f"{DATA}/1").status_code == 404


def test_a_data_set_shows_its_rows_and_what_was_kept_out(browser):
    registry = browser.registry
    registry.feedback.add("m", [Correction(client_id=None, request_id=None, position=0, example={"text": "x", "label": "a"})])
    version = DatasetVersion(
        hash="a" * 64,
        holdout_hash="b" * 64,
        uri="models/m/datasets/1",
        labels=("a", "b"),
        train_rows=1234,
        holdout_rows=56,
        removed_leaks=7,
        removed_duplicates=8,
        counts={"train": {"base": {"a": 1000}, "feedback": {"a": 30, "b": 204}}, "holdout": {"base": {"b": 56}}},
        quarantined_rows=2,
        senders={"": 200, "gone": 34},
        remarks=["3 rows had <no> label"],
        feedback_until=1,
    )
    registry.datasets.add("m", version, {})
    text = browser.text(DATA)
    assert "1,234" in text
    assert "0 corrections for the next run" in text
    page = browser.text(f"{DATA}/1")
    assert "a 1,030 0 b 204 56" in page
    assert "3 rows had <no> label" in page
    assert "gone 34" in page
    assert "cannot read from storage" in page
    Storage(browser.control.config.storage).write_dataset(version.uri, {}, {QUARANTINE: b""})
    assert "Every row could be used." in browser.text(f"{DATA}/1")
    for wrong in ("0", "2", "99999999999"):
        assert browser.get(f"{DATA}/{wrong}").status_code == 404


def test_the_quarantine_says_where_each_row_came_from(browser, tmp_path):
    three_versions(browser.control, tmp_path)
    assert "Data set Frozen Train rows" in browser.text(DATA)
    newest = browser.registry.datasets.latest("m")
    assert newest.quarantined
    page = browser.text(f"{DATA}/{newest.number}")
    for row in newest.quarantined:
        assert row["reason"] in page


def test_the_difference_of_two_data_sets_counts_by_label_and_lists_rows(browser, tmp_path):
    three_versions(browser.control, tmp_path)
    text = browser.text(f"{DATA}/diff?a=1&b=2")
    assert "Train rows Rows 4 → 5 Added 1 Removed 0 Relabelled 1" in text
    assert "billing 1 0" in text
    assert "billing → shipping 1" in text
    assert "relabelled Refund, please billing shipping" in text
    assert "added the invoice was wrong twice billing" in text
    assert "Removed 1" in browser.text(f"{DATA}/diff"), "the newest with the one before it"
    assert "Nothing changed." in browser.text(f"{DATA}/diff?a=2&b=2")
    assert 'href="/console/models/m/data/diff?a=2&amp;b=3"' in browser.get(f"{DATA}/3").text
    assert "What changed between two data sets" in browser.text(DATA)
    assert "not two data sets" in browser.text("/console/models/other/data/diff")
    for query, status in (("a=9&b=1", 404), ("a=0&b=1", 422), ("b=x", 422)):
        assert browser.get(f"{DATA}/diff?{query}").status_code == status


def test_a_long_difference_counts_all_and_lists_some(browser, tmp_path):
    growing = GrowingData(tmp_path, Storage(browser.control.config.storage))
    growing.train, growing.holdout = list(SMALL_TRAIN), list(SMALL_HOLDOUT)
    settings = browser.control.config.model("m")

    def freeze() -> None:
        freeze_recorded(browser.registry, settings.model_copy(update={"data": growing.data()}), growing.storage)

    freeze()
    growing.train += [{"text": f"<b>parcel</b> {place}", "label": "shipping"} for place in range(ROWS_LISTED + 30)]
    freeze()
    text = browser.text(f"{DATA}/diff")
    assert "Added 130" in text
    assert "shipping 130 0" in text
    assert "The first 100 of 130 changed rows." in text
    assert browser._page.count("&lt;b&gt;parcel") == ROWS_LISTED
    assert "<b>" not in browser._page


def test_labels_that_wait_are_shown_with_how_many_texts_have_them(browser, tmp_path):
    registry = browser.registry
    assert "Labels that wait" not in browser.text(DATA)
    growing = GrowingData(tmp_path, Storage(browser.control.config.storage))
    growing.train, growing.holdout = list(SMALL_TRAIN), list(SMALL_HOLDOUT)
    settings = browser.control.config.model("m").model_copy(update={"data": growing.data()})
    correct(registry, "m", *({"text": f"text {place}", "label": "<b>refund"} for place in (1, 2, 2)))
    version = freeze_recorded(registry, settings, growing.storage)
    assert version.waiting == {"<b>refund": 2}
    rows = [("text 3", "<b>refund"), ("TEXT 3", "<b>refund"), ("text 4", "typo"), ("text 5", "billing")]
    correct(registry, "m", *({"text": text, "label": label} for text, label in rows), {"else": "no row of this task"})
    text = browser.text(DATA)
    assert "once 5 different texts have it (data.new_label_after)" in text
    assert "Needed <b>refund 2 1 5 typo 0 1 5" in text


@pytest.mark.parametrize(
    ("task", "example", "text", "answer"),
    [
        ("classification", {"text": "t", "text_pair": "u", "label": "a"}, "t · u", "a"),
        ("multi_label", {"text": "t", "label": ["a", "b"]}, "t", "a, b"),
        ("ner", {"text": "Clara", "entities": [{"start": 0, "end": 5, "label": "PER"}]}, "Clara", "Clara (PER)"),
        ("qa", {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [0]}}, "q · c", "c"),
        ("seq2seq", {"source": "q", "target": ["a", "b"]}, "q", "a, b"),
    ],
)
def test_an_example_of_each_task_is_told_in_words(task, example, text, answer):
    settings = ModelSettings.model_validate({"name": "m", "task": task, "base_model": "tiny", "data": {"train": "t.jsonl"}})
    assert input_text(settings, example) == text
    assert answer_text(settings, example) == answer
