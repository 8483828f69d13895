"""Data: frozen data sets, their quarantine, and the corrections that wait."""

from __future__ import annotations

import pytest

from baton.artifacts.frozen import QUARANTINE
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.store.feedback.correction import Correction
from baton.store.records import DatasetVersion
from services.console.data import answer_text, input_text
from tests.support.answers import correct_answers
from tests.support.growing import three_versions

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
