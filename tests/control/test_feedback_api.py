"""Feedback over HTTP: what is taken, what is refused and how it is told, and that nothing acknowledged is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from baton.config.file import BatonConfig
from baton.store import database, schema
from baton.store.records import LONGEST_ID, DatasetVersion, RunState
from baton.store.registry import Registry
from baton.tasks import TASKS, task_type
from services.control import corrections
from services.control.api import feedback_body
from services.log_sampling import new_answer_id, request_sampled
from tests.control.test_api import Api, problem
from tests.support.answers import correct_answers, logged, recent
from tests.support.local_control import control_of
from tests.support.stores import raw_sql
from tests.support.waiting import until
from tests.tasks.test_task_contract import ROWS, row_of

LINES = {"content-type": "application/x-ndjson"}


def configuration(directory: Path, **feedback: Any) -> BatonConfig:
    """One model for each task, named after it."""
    models = [
        {
            "name": task,
            "task": task,
            "base_model": "tiny",
            "data": {"train": "train.jsonl"},
            "feedback": feedback,
            "serving": {"max_body_bytes": 2048},
        }
        for task in sorted(TASKS)
    ]
    content = {"storage": f"{directory}/storage", "database": f"sqlite:///{directory}/baton.db", "models": models}
    return BatonConfig.model_validate(content)


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(control_of(configuration(tmp_path)))


def send(api: Api, body: Any, model: str = "classification") -> httpx.Response:
    return api.post(f"/api/models/{model}/feedback", body)


def stream(api: Api, lines: bytes | AsyncIterator[bytes], model: str = "classification") -> httpx.Response:
    return api("POST", f"/api/models/{model}/feedback", content=lines, headers=LINES)


def stored(api: Api, model: str = "classification") -> list[dict[str, Any]]:
    return [dict(it.example) for it in api.registry.feedback.all(model)]


def log(
    api: Api,
    request_id: str,
    item: Mapping[str, Any],
    model: str = "classification",
    position: int = 0,
    age: float = 0,
    version: int = 1,
) -> str:
    """Log an answer, and return its id."""
    at, answer_id = datetime.now(UTC) - timedelta(days=age), new_answer_id(request_id)
    prediction = logged(request_id, answer_id=answer_id, model=model, position=position, version=version, at=at)
    api.registry.predictions.log([replace(prediction, input=item, output=None, label=None, confidence=None)])
    return answer_id


def report(answer: httpx.Response, status: int = 200) -> tuple[int, int, int]:
    assert answer.status_code == status, answer.text
    content = answer.json()
    return content["accepted"], content["duplicates"], content["rejected"]


def complaint(api: Api, item: Any, model: str = "classification") -> str:
    """Why one item is rejected."""
    answer = send(api, [item], model)
    assert report(answer, 422) == (0, 0, 1)
    [error] = answer.json()["errors"]
    assert error["item"] == 0
    return str(error["error"])


def test_the_list_of_changes_is_kept_as_long_as_logged_answers(tmp_path):
    api = Api(control_of(configuration(tmp_path, retention_days=7)))
    for label in "ab":
        send(api, {"id": "1", "text": "t", "label": label})
    for days, left in ((6.9, 1), (7.1, 0)):
        at = datetime.now(UTC) - timedelta(days=days)
        raw_sql(api.control.config.database, f"update feedback_changes set happened_at = '{at:%Y-%m-%d %H:%M:%S.%f}'")
        api.control.housekeeping.delete_old_answers()
        assert len(api.get("/api/models/classification/feedback/changes").json()["items"]) == left
    assert [row["label"] for row in stored(api)] == ["b"]


def test_a_key_that_sends_too_many_is_answered_429_with_what_is_stored(tmp_path, monkeypatch):
    api = Api(control_of(configuration(tmp_path, max_per_day=3)))
    monkeypatch.setattr(feedback_body, "BATCH", 2)
    lines = [json.dumps({"id": str(number), "text": f"text {number}", "label": "a"}).encode() for number in range(6)]
    answer = stream(api, b"\n".join(lines))
    assert report(answer, 429) == (2, 0, 0)
    assert answer.json()["title"] == "too many corrections"
    assert "3 corrections of classification stored in 24 hours (feedback.max_per_day)" in answer.json()["detail"]
    assert 86_000 <= int(answer.headers["retry-after"]) <= 86_400
    assert len(stored(api)) == 2
    assert report(stream(api, b"\n".join(lines[:3]))) == (1, 2, 0)
    assert report(send(api, {"text": "t", "label": "a"}), 429) == (0, 0, 0)
    assert api.get("/metrics").text.count('baton_feedback_total{model="classification",result="accepted"} 3.0') == 1


# --- what is taken -------------------------------------------------------------------------------------------------------


def test_one_correction_a_list_and_json_lines_are_taken(api):
    row = {"text": "hello", "label": "a"}
    assert report(send(api, row)) == (1, 0, 0)
    assert report(send(api, [row, row])) == (2, 0, 0)
    assert report(stream(api, b'\n{"text": "one", "label": "a"}\r\n  \n{"text": "two", "label": "b"}')) == (2, 0, 0)
    assert [row["text"] for row in stored(api)] == ["hello", "hello", "hello", "one", "two"]
    assert report(send(api, [])) == (0, 0, 0)
    assert report(stream(api, b"")) == (0, 0, 0)


def test_a_correction_that_is_sent_again_with_another_answer_takes_the_place_of_the_first(api):
    rows = [{"id": "ann-7", "text": "Where is my parcel", "label": label} for label in ("refnd", "delivery")]
    answer = stream(api, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    assert report(answer) == (2, 0, 0)
    assert answer.json()["replaced"] == 1
    assert stored(api) == [{"text": "Where is my parcel", "label": "delivery"}]
    assert send(api, {**rows[0], "label": "parcel"}).json()["replaced"] == 1
    [change] = api.get("/api/models/classification/feedback/changes").json()["items"]
    assert (change["what"], change["client_id"], change["answer"]) == ("replaced", "ann-7", {"label": "delivery"})
    counts = api.get("/api/models/classification/feedback").json()
    assert (counts["total"], counts["labels"]) == (1, {"parcel": 1})


def test_a_correction_is_withdrawn_by_its_id(api):
    send(api, [{"id": name, "text": name, "label": "x"} for name in ("a/b c", "y")])
    path = "/api/models/classification/feedback"
    assert api("DELETE", f"{path}/a%2Fb%20c").json() == {"withdrawn": 1}
    again = api("DELETE", f"{path}/a%2Fb%20c")
    assert (again.status_code, again.json()["detail"]) == (
        404, "classification has no correction with id 'a/b c' that you sent",
    )  # fmt: skip
    assert stored(api) == [{"text": "y", "label": "x"}]
    assert api.get(path).json()["labels"] == {"x": 1}


def test_corrections_are_withdrawn_by_time(api):
    send(api, [{"text": "x", "label": "x"}, {"text": "y", "label": "x"}])
    path = "/api/models/classification/feedback"
    none = api("DELETE", path)
    assert (none.status_code, none.json()["detail"]) == (
        422, "say which corrections: sender, since, until, or several of them",
    )  # fmt: skip
    assert api("DELETE", f"{path}?since=yesterday").status_code == 422
    assert api("DELETE", f"{path}?until=2020-01-01").json() == {"withdrawn": 0}
    assert api("DELETE", f"{path}?sender=k1").json() == {"withdrawn": 0}
    assert api("DELETE", f"{path}?since=2020-01-01T00:00:00").json() == {"withdrawn": 2}
    assert stored(api) == []
    [change] = api.get(f"{path}/changes").json()["items"]
    assert (change["what"], change["rows"], change["client_id"], change["answer"]) == ("withdrawn", 2, None, None)


def test_a_request_id_of_several_requests_needs_the_inputs(api):
    for text in ("I was charged twice", "The app crashes at start"):
        log(api, "trace-1", {"text": text})
    told = complaint(api, {"id": "t1", "request_id": "trace-1", "label": "bug_report"})
    assert told == (
        "the request id 'trace-1' was used by several requests with different inputs: name the answer by its own id "
        "(`answer_id`: its header x-answer-id), or send the inputs with the correction: text"
    )
    row = {"text": "The app crashes at start", "label": "bug_report"}
    assert report(send(api, {"id": "t1", "request_id": "trace-1", **row})) == (1, 0, 0)
    assert stored(api) == [row]


def test_of_two_answers_to_requests_with_one_id_the_one_that_is_named_by_its_own_id_is_corrected(api):
    answers = [log(api, "trace-1", {"text": text}) for text in ("I was charged twice", "The app crashes at start")]
    assert report(send(api, {"id": "t1", "request_id": "trace-1", "answer_id": answers[1], "label": "bug_report"})) == (1, 0, 0)
    assert stored(api) == [{"text": "The app crashes at start", "label": "bug_report"}]
    assert [answer.answer_id for answer, _ in api.registry.predictions.corrected("classification", 1, 10)] == [answers[1]]
    assert api.get("/api/models/classification/feedback").json()["items"][0]["answer_id"] == answers[1]


def test_a_correction_by_answer_id_can_be_corrected_when_its_answer_is_no_longer_in_the_log(api):
    item = {"id": "t1", "answer_id": log(api, "", {"text": "hello"}), "label": "typo"}
    assert report(send(api, item)) == (1, 0, 0)
    api.registry.predictions.forget("classification", datetime.now(UTC) + timedelta(days=1))
    assert report(send(api, {**item, "label": "b"})) == (1, 0, 0)
    assert stored(api) == [{"text": "hello", "label": "b"}]
    told = complaint(api, {**item, "answer_id": new_answer_id("")})
    assert told.startswith("no logged answer has answer id ")


def test_a_correction_by_request_id_can_be_corrected_when_its_answer_is_no_longer_in_the_log(api):
    log(api, "r1", {"text": "hello"})
    item = {"id": "t1", "request_id": "r1", "label": "typo"}
    assert report(send(api, item)) == (1, 0, 0)
    api.registry.predictions.forget("classification", datetime.now(UTC) + timedelta(days=1))
    assert report(send(api, item)) == (0, 1, 0)
    assert report(send(api, {**item, "label": "b"})) == (1, 0, 0)
    assert stored(api) == [{"text": "hello", "label": "b"}]


def test_a_correction_may_be_sent_again_after_its_request_id_was_used_again(api):
    log(api, "r1", {"text": "hello"})
    item = {"id": "t1", "request_id": "r1", "label": "a"}
    assert report(send(api, item)) == (1, 0, 0)
    log(api, "r1", {"text": "another"})
    assert report(send(api, item)) == (0, 1, 0)


def test_what_a_replaced_answer_quoted_is_not_kept(api):
    row = {"id": "q1", "question": "which?", "context": "DE12 is it", "answers": {"text": ["DE12"], "answer_start": [0]}}
    send(api, row, "qa")
    assert send(api, {**row, "answers": {"text": [], "answer_start": []}}, "qa").json()["replaced"] == 1
    [change] = api.get("/api/models/qa/feedback/changes").json()["items"]
    assert change["answer"] == {}


@pytest.mark.parametrize("label", [" ", "\u00a0", "two\nlines", "\t"])
def test_a_label_that_is_blank_or_of_several_lines_is_refused(api, label):
    assert complaint(api, {"text": "hi", "label": label}).startswith("field 'label'")


def test_a_label_is_trimmed(api):
    send(api, {"text": "hi", "label": " refund "})
    assert stored(api) == [{"text": "hi", "label": "refund"}]


def test_labels_that_the_newest_data_set_lacks_are_told(api):
    items = [{"text": f"{number}", "label": label} for number, label in enumerate("abcc")]
    assert send(api, items).json()["new_labels"] == []  # before the first data set all are new
    record = {"removed_leaks": 0, "removed_duplicates": 0, "train_rows": 1, "holdout_rows": 1, "labels": ("a", "b")}
    counts = {"train": {"base": {"a": 1}, "feedback": {}}, "holdout": {"base": {"b": 1}, "feedback": {}}}
    version = DatasetVersion(hash="1", holdout_hash="2", uri="u", counts=counts, **record)
    api.registry.datasets.add("classification", version, {})
    assert send(api, items).json()["new_labels"] == ["c"]
    assert send(api, items[:2]).json()["new_labels"] == []


@pytest.mark.parametrize("content_type", feedback_body.JSON_LINES)
def test_json_lines_go_by_several_names(api, content_type):
    headers = {"content-type": f"{content_type}; charset=utf-8"}
    answer = api("POST", "/api/models/classification/feedback", content=b'{"text": "a", "label": "b"}\n', headers=headers)
    assert report(answer) == (1, 0, 0)


@pytest.mark.parametrize(
    ("task", "number"), [(task, number) for task, rows in ROWS.items() if task in TASKS for number in range(len(rows))]
)
def test_every_row_of_every_task_is_taken_and_can_be_trained_on(tmp_path, task, number):
    settings = [model.model_copy(update={"serving": model.serving.model_copy(update={"max_body_bytes": 100_000})})
                for model in configuration(tmp_path).models]  # fmt: skip
    api = Api(control_of(configuration(tmp_path).model_copy(update={"models": tuple(settings)})))
    row = row_of(task, ROWS[task][number])
    assert report(send(api, row, task)) == (1, 0, 0)
    assert report(stream(api, json.dumps(row).encode(), task)) == (1, 0, 0)
    first, second = stored(api, task)
    assert first == second
    shape = next(shape for shape in task_type(task).row_shapes if set(shape) <= row.keys())
    example = task_type(task).Example.model_validate(first)
    assert example == task_type(task).Example.model_validate({field: row[field] for field in (*shape, *row) if field in row})


def test_tokens_with_tags_are_kept_as_entities_of_their_text(api):
    assert report(send(api, {"tokens": ["Clara", "sings"], "tags": ["B-PER", "O"]}, "ner")) == (1, 0, 0)
    assert stored(api, "ner") == [{"text": "Clara sings", "entities": [{"start": 0, "end": 5, "label": "PER"}]}]


def test_an_id_is_the_senders_own_even_where_rows_have_one(api):
    row = {"id": "mine", "question": "Who?", "context": "Clara sings", "answers": {"text": ["Clara"], "answer_start": [0]}}
    assert report(send(api, [row, row], "qa")) == (1, 1, 0)
    assert "id" not in stored(api, "qa")[0]


def test_sending_again_counts_nothing_twice(api):
    rows = [{"id": f"c{number}", "text": "hello", "label": "a"} for number in range(3)]
    assert report(send(api, rows)) == (3, 0, 0)
    assert report(send(api, rows)) == (0, 3, 0)
    assert report(stream(api, b"".join(json.dumps(row).encode() + b"\n" for row in [*rows, *rows]))) == (0, 6, 0)
    assert len(stored(api)) == 3


def test_fields_without_a_value_are_as_good_as_left_out(api):
    row = {"id": None, "request_id": None, "position": None, "text": "hello", "text_pair": None, "label": "a"}
    assert report(send(api, row)) == (1, 0, 0)
    assert stored(api) == [{"text": "hello", "label": "a"}]


def test_feedback_is_listed_newest_first(api):
    send(api, [{"id": f"c{number}", "text": "hello", "label": "a"} for number in range(3)])
    page = api.get("/api/models/classification/feedback?limit=2").json()
    assert (page["total"], page["since_last_dataset"]) == (3, 3)
    assert [item["client_id"] for item in page["items"]] == ["c2", "c1"]
    assert datetime.fromisoformat(page["items"][0]["received_at"]).tzinfo is not None
    rest = api.get(f"/api/models/classification/feedback?limit=2&before={page['next']}").json()
    assert ([item["client_id"] for item in rest["items"]], rest["next"]) == (["c0"], None)
    assert api.get(f"/api/models/classification/feedback?before={10**20}").status_code == 422


def test_corrections_are_counted_by_label_and_by_the_version_that_was_corrected(api):
    for number, label in enumerate("aab"):
        log(api, f"r{number}", {"text": "hello"}, version=1 + number // 2)
        send(api, {"id": f"c{number}", "request_id": f"r{number}", "label": label})
    send(api, {"id": "plain", "text": "not an answer", "label": "b"})
    page = api.get("/api/models/classification/feedback").json()
    assert (page["labels"], page["versions"]) == ({"a": 2, "b": 2}, {"1": 2, "2": 1})
    send(api, {"id": "later", "text": "hello", "label": "c"})
    assert api.get("/api/models/classification/feedback").json()["labels"] == {"a": 2, "b": 2, "c": 1}
    with database.writing(database.connect(api.control.config.database)) as connection:
        connection.execute(schema.feedback.delete().where(schema.feedback.c.client_id == "c0"))
    page = api.get("/api/models/classification/feedback").json()
    assert (page["total"], page["labels"]) == (4, {"b": 2, "a": 1, "c": 1})


@pytest.mark.parametrize(
    ("task", "items", "labels"),
    [
        ("multi_label", [{"text": "x", "label": ["a", "b"]}, {"text": "y", "label": ["a"]}, {"text": "z", "label": []}], "aab"),
        ("ner", [{"text": "Eva Ada", "entities": [{"start": s, "end": s + 3, "label": "p"} for s in (0, 4)]}], "p"),
        ("qa", [{"question": "who?", "context": "Eva", "answers": {"text": ["Eva"], "answer_start": [0]}}], ""),
        ("seq2seq", [{"source": "Eva sings", "target": "Eva canta"}], ""),
    ],
)
def test_a_correction_counts_once_for_each_label_that_it_names(api, task, items, labels):
    assert report(send(api, items, task)) == (len(items), 0, 0)
    counted = api.get(f"/api/models/{task}/feedback").json()["labels"]
    assert counted == {label: labels.count(label) for label in labels}


# --- inputs from the log -------------------------------------------------------------------------------------------------


def test_inputs_are_taken_from_the_answer_that_a_request_id_names(api):
    log(api, "r1", {"text": "first", "text_pair": None})
    log(api, "r1", {"text": "second", "text_pair": "its pair"}, position=1)
    log(api, "r2", {"text": "Clara sings"}, "ner")
    log(api, "r3", {"question": "Who?", "context": "Clara sings"}, "qa")
    log(api, "r4", {"text": "third", "text_pair": None}, "multi_label")
    both = [{"request_id": "r1", "label": "a"}, {"request_id": "r1", "position": 1, "label": "b"}]
    assert report(send(api, both)) == (2, 0, 0)
    assert stored(api) == [{"text": "first", "label": "a"}, {"text": "second", "text_pair": "its pair", "label": "b"}]
    entities = [{"start": 0, "end": 5, "label": "PER"}]
    assert report(send(api, {"request_id": "r2", "entities": entities}, "ner")) == (1, 0, 0)
    assert stored(api, "ner") == [{"text": "Clara sings", "entities": entities}]
    answers = {"text": ["Clara"], "answer_start": [0]}
    assert report(send(api, {"request_id": "r3", "answers": answers}, "qa")) == (1, 0, 0)
    assert stored(api, "qa")[0]["context"] == "Clara sings"
    assert report(send(api, {"request_id": "r4", "label": []}, "multi_label")) == (1, 0, 0)
    assert stored(api, "multi_label") == [{"text": "third", "label": []}]


LOGGED = "Clara sings in Porto"


@pytest.mark.parametrize(
    ("model", "item", "told"),
    [
        ("ner", {"entities": [{"start": 0, "end": 6, "label": "PER"}]}, None),
        ("ner", {"entities": [{"start": 0, "end": 8, "label": "PER", "text": "Porto"}]}, None),
        ("ner", {"entities": [{"start": 0, "end": 99, "label": "PER"}]}, "ends beyond the text, which has 20 characters"),
        ("ner", {"entities": [{"start": 5, "end": 3, "label": "PER"}]}, "end must be greater than start"),
        ("qa", {"answers": {"text": ["xxxxx"], "answer_start": [0]}}, None),
        ("qa", {"answers": {"text": ["Porto"], "answer_start": [700]}}, None),
        ("qa", {"answers": "Porto"}, "allowed:"),
    ],
)
def test_complaints_do_not_quote_logged_texts(api, model, item, told):
    logged_item = {"text": LOGGED} if model == "ner" else {"question": "who?", "context": LOGGED}
    found = complaint(api, {"answer_id": log(api, "r1", logged_item, model), **item}, model)
    if told is None:
        assert found.endswith(f"send the inputs with the correction to be told why: {', '.join(logged_item)}")
    else:
        assert told in found
    assert not any(word in found for word in ("Clara", "sings", "Porto") if word not in str(item))


def test_inputs_that_come_with_a_request_id_need_no_log(api):
    assert report(send(api, {"request_id": "r9", "text": "hello", "label": "a"})) == (1, 0, 0)
    tokens = {"request_id": "r9", "tokens": ["Clara"], "tags": ["B-PER"]}
    assert report(send(api, tokens, "ner")) == (1, 0, 0)


def test_a_correction_that_is_faster_than_the_log_waits_for_it(api, monkeypatch):
    monkeypatch.setattr(corrections, "LOG_SECONDS", 60.0)
    monkeypatch.setattr(corrections, "RETRY_SECONDS", 0.01)
    looks = 0
    store = api.registry.predictions
    look_up = store.find

    def find(model: str, names: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            log(api, "r1", {"text": "hello", "text_pair": None})
        return look_up(model, names)

    monkeypatch.setattr(store, "find", find)
    assert report(send(api, [{"request_id": "r1", "label": "a"}, {"text": "later", "label": "b"}])) == (2, 0, 0)
    assert looks == 3
    assert [row["text"] for row in stored(api)] == ["hello", "later"]


def test_a_correction_sent_again_is_a_duplicate_even_when_its_answer_has_left_the_log(api, monkeypatch):
    monkeypatch.setattr(corrections, "LOG_SECONDS", 3600.0)
    log(api, "r1", {"text": "hello", "text_pair": None})
    mine = {"id": "mine", "request_id": "r1", "label": "a"}
    assert report(send(api, mine)) == (1, 0, 0)
    api.registry.predictions.forget("classification", datetime.now(UTC) + timedelta(days=1))
    assert report(send(api, mine)) == (0, 1, 0)


def test_answers_that_never_come_are_waited_for_once_a_request_and_then_told(api, monkeypatch):
    monkeypatch.setattr(corrections, "LOG_SECONDS", 0.05)
    monkeypatch.setattr(corrections, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(feedback_body, "BATCH", 1)
    looks: list[int] = []
    store = api.registry.predictions
    look_up = store.find
    monkeypatch.setattr(store, "find", lambda model, names: looks.append(1) or look_up(model, names))
    answer = send(api, [{"request_id": f"r{number}", "label": "a"} for number in range(20)])
    assert report(answer, 422) == (0, 0, 20)
    assert len(looks) <= 20 + 6
    assert answer.json()["errors"][7] == {
        "item": 7,
        "id": None,
        "error": "no logged answer has request id 'r7' and position 0 (a share of 1 is logged, for 30 days); "
        "send the inputs with the correction: text",
    }


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_answers_that_the_sample_leaves_out_are_not_waited_for(tmp_path, monkeypatch, share):
    monkeypatch.setattr(corrections, "LOG_SECONDS", 3600.0)
    api = Api(control_of(configuration(tmp_path, log=share)))
    name = next(f"r{number}" for number in range(100) if not request_sampled(f"r{number}", share))
    for answer in ({"request_id": name}, {"answer_id": new_answer_id(name)}):
        told = complaint(api, {**answer, "label": "a"})
        assert told.endswith("; send the inputs with the correction: text")
        assert ("answers are not logged (feedback.log: 0)" in told) == (share == 0)


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (5, "a JSON object is expected, not 5"),
        ([], "a JSON object is expected, not []"),
        ({}, "field 'text' is missing; the row has no fields"),
        ({"label": "a"}, "field 'text' is missing; the row has 'label'"),
        ({"text": "hello"}, "field 'label' is missing; the row has 'text'"),
        ({"text": "hello", "label": None}, "field 'label' is missing; the row has 'text'"),
        (
            {"text": "hello", "label": "a", "lable": "b"},
            "unknown key 'lable'; did you mean 'label'? allowed: id, answer_id, request_id, position, text, label",
        ),
        ({"text": "hello", "label": ""}, "field 'label': ''"),
        ({"text": " ", "label": "a"}, "field 'text': ' ': text is empty; send at least one character"),
        ({"text": 5, "label": "a"}, "field 'text': 5: Input should be a valid string"),
        ({"id": 7, "text": "hello", "label": "a"}, "id: 7: a string of 1 to 128 printable characters is expected"),
        ({"id": "", "text": "hello", "label": "a"}, "id: '': a string of 1 to 128"),
        ({"id": "x" * 129, "text": "hello", "label": "a"}, "a string of 1 to 128"),
        ({"id": "a\u0000b", "text": "hello", "label": "a"}, "printable characters"),
        ({"request_id": 7, "label": "a"}, "request_id: 7: a string of 1 to 128"),
        ({"answer_id": 7, "label": "a"}, "answer_id: 7: a string of 1 to 128"),
        ({"answer_id": "order-17", "label": "a"}, "answer_id: 'order-17': 32 hexadecimal digits, as in the header x-answer-id"),
        ({"request_id": "r", "position": -1, "label": "a"}, "position: -1: the index of an input in its request, from 0"),
        ({"request_id": "r", "position": True, "label": "a"}, "position: True"),
        ({"request_id": "r", "position": 1.5, "label": "a"}, "position: 1.5"),
        ({"request_id": "r", "position": 2**31, "label": "a"}, "position: 2147483648"),
    ],
)
def test_each_mistake_is_told(api, item, expected):
    assert expected in complaint(api, item)
    assert stored(api) == []


@pytest.mark.parametrize(
    ("task", "item", "expected"),
    [
        ("multi_label", {"text": "hello", "label": 5}, "field 'label': 5"),
        ("ner", {"text": "Clara", "entities": [{"start": 0, "end": 9, "label": "PER"}]}, "entities"),
        ("ner", {"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens"),
        ("qa", {"question": "Who?", "context": "Clara", "answers": {"text": ["Omar"], "answer_start": [0]}}, "Omar"),
        ("seq2seq", {"source": "Clara sings", "target": []}, "target has no text"),
        ("seq2seq", {"source": "Clara sings", "target": ["a", " "]}, "target is empty"),
        ("seq2seq", {"source": "Clara sings", "targets": "a"}, "unknown key 'targets'; did you mean 'target'?"),
    ],
)
def test_mistakes_of_each_task_are_told(api, task, item, expected):
    assert expected in complaint(api, item, task)


def test_a_bad_item_costs_no_other_and_is_named_by_its_place(api):
    answer = send(api, [{"text": "one", "label": "a"}, {"text": "two"}, "three", {"text": "four", "label": "b"}])
    assert report(answer) == (2, 0, 2)
    assert [error["item"] for error in answer.json()["errors"]] == [1, 2]


def test_one_correction_that_cannot_be_used_is_a_problem_that_names_field_and_value(api):
    answer = send(api, {"id": "mine", "text": "hello", "label": 5})
    assert problem(answer, 422) == "field 'label': 5: Input should be a valid string"
    assert report(answer, 422) == (0, 0, 1)
    assert answer.json()["errors"] == [{"item": 0, "id": "mine", "error": answer.json()["detail"]}]


def test_many_corrections_none_of_which_can_be_used_are_a_problem_that_names_the_first(api):
    answer = send(api, ["hello", {"id": "x" * 129, "text": "b", "label": "c"}])
    assert problem(answer, 422) == "none of 2 items can be used; item 0: a JSON object is expected, not 'hello'"
    assert [error["id"] for error in answer.json()["errors"]] == [None, None]


def test_the_body_is_described_though_it_is_read_as_a_stream(api):
    body = api.get("/openapi.json").json()["paths"]["/api/models/{model}/feedback"]["post"]["requestBody"]
    assert {"application/json", *feedback_body.JSON_LINES} == set(body["content"])
    described = body["content"]["application/x-ndjson"]["schema"]["properties"]
    assert set(described) == set(corrections.KEYS)
    assert described["id"]["maxLength"] == LONGEST_ID


def test_items_are_read_checked_and_stored_beside_the_event_loop(api, monkeypatch):
    threads: dict[str, set[int]] = {}

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(corrections, "from_json", watched("read", corrections.from_json))
    monkeypatch.setattr(corrections, "example_of", watched("check", corrections.example_of))
    monkeypatch.setattr(api.registry.feedback, "add", watched("store", api.registry.feedback.add))
    assert report(stream(api, b'{"text": "hello", "label": "a"}\n' * 5)) == (5, 0, 0)
    assert set(threads) == {"read", "check", "store"}
    assert threading.get_ident() not in set().union(*threads.values())  # the loop runs in this thread


def test_lines_are_numbered_with_blank_ones_and_broken_ones_are_told(api):
    lines = [b'{"text": "one", "label": "a"}', b"", b'{"text": ', b"\xff\xfe", b'{"text": "' + b"x" * 3000 + b'"}']
    answer = stream(api, b"\n".join([*lines, b'{"text": "last", "label": "a"}']))
    assert report(answer) == (2, 0, 3)
    errors = {error["item"]: error["error"] for error in answer.json()["errors"]}
    assert list(errors) == [2, 3, 4]
    assert errors[2] == "not valid JSON: EOF while parsing a value at character 9"
    assert errors[3].startswith("not valid JSON: ")
    assert errors[4] == "the line has more than 2,048 bytes"


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
def test_where_chunks_of_a_stream_end_makes_no_difference(api, size):
    lines = [b'{"text": "%d", "label": "a"}' % number for number in range(5)]
    lines[2] = b"x" * 5000
    whole = b"\n".join([*lines, b"y" * 5000])

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    answer = stream(api, chunks())
    assert report(answer) == (4, 0, 2)
    assert [error["item"] for error in answer.json()["errors"]] == [2, 5]
    assert [row["text"] for row in stored(api)] == ["0", "1", "3", "4"]


def test_of_many_mistakes_the_first_are_listed_and_all_are_counted(api):
    answer = send(api, [{"text": "hello"}] * 250)
    assert report(answer, 422) == (0, 0, 250)
    assert [error["item"] for error in answer.json()["errors"]] == list(range(corrections.ERRORS_LISTED))


def test_a_request_of_which_nothing_is_new_but_something_is_known_is_no_failure(api):
    row = {"id": "c", "text": "hello", "label": "a"}
    send(api, row)
    assert report(send(api, [row, {"text": "bad"}])) == (0, 1, 1)


def test_a_model_that_takes_no_feedback_says_so(tmp_path):
    api = Api(control_of(configuration(tmp_path, accept=False)))
    told = problem(send(api, {"text": "hello", "label": "a"}), 409)
    assert told == "classification takes no feedback (feedback.accept: false)"


def test_an_unknown_model_is_told_with_the_known_ones(api):
    for answer in (
        send(api, {}, "nope"),
        api.get("/api/models/nope/feedback"),
        api.get("/api/models/nope/live"),
    ):
        assert "unknown model 'nope'; declared models: classification" in problem(answer, 404)


def test_other_content_types_are_refused(api):
    answer = api("POST", "/api/models/classification/feedback", content=b"a,b", headers={"content-type": "text/csv"})
    assert problem(answer, 415) == f"content type 'text/csv'; allowed: application/json, {', '.join(feedback_body.JSON_LINES)}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"{", "the body is not valid JSON: "), (b"5", "a JSON object or a list of them is expected"), (b"", "not valid JSON")],
)
def test_a_body_that_is_no_json_is_refused(api, body, expected):
    answer = api("POST", "/api/models/classification/feedback", content=body, headers={"content-type": "application/json"})
    assert expected in problem(answer, 400)


def test_a_json_body_that_is_too_large_is_told_the_way_out(api, monkeypatch):
    monkeypatch.setattr(feedback_body, "MAX_JSON_BYTES", 1000)
    told = problem(send(api, [{"text": "hello", "label": "a"}] * 100), 413)
    assert told == "the body has more than 1,000 bytes; send it as JSON Lines (application/x-ndjson), of any length"


# --- much, and in bad times ----------------------------------------------------------------------------------------------


def test_a_long_stream_is_held_in_memory_a_batch_at_a_time(api, monkeypatch):
    lines, most, text = 25_000, 0, b"where is parcel %d? " * 15
    add = api.registry.feedback.add

    def watched(model: str, batch: Any, **limit: Any) -> Any:
        nonlocal most
        most = max(most, len(batch))
        return add(model, batch, **limit)

    monkeypatch.setattr(api.registry.feedback, "add", watched)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, lines, 100):
            yield b"".join(
                b'{"id": "c%d", "text": "%s", "label": "shipping"}\n' % (number, text % ((number,) * 15))
                for number in range(start, start + 100)
            )

    send(api, {"text": "hello", "label": "a"})  # what is made once
    tracemalloc.start()
    try:
        assert report(stream(api, chunks())) == (lines, 0, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most == feedback_body.BATCH
    assert peak < 6 * 2**20  # a batch takes 4 MiB; all lines, as they come, 9
    assert api.registry.feedback.count_after("classification", 0) == lines + 1


def test_long_lines_make_short_batches(api, monkeypatch):
    monkeypatch.setattr(feedback_body, "BATCH_BYTES", 5000)
    sizes: list[int] = []
    add = api.registry.feedback.add

    def watched(model: str, batch: Any, **limit: Any) -> Any:
        sizes.append(len(batch))
        return add(model, batch, **limit)

    monkeypatch.setattr(api.registry.feedback, "add", watched)
    row = json.dumps({"text": "x" * 1000, "label": "a"}).encode() + b"\n"
    assert report(stream(api, row * 23)) == (23, 0, 0)
    assert max(sizes) == 5


SERVER = """
import contextlib, sys
from pathlib import Path
import uvicorn, yaml
from baton.config.file import BatonConfig
from baton.store.registry import Registry
from services.control.api.app import build_api
from tests.support.local_control import control_of

@contextlib.asynccontextmanager
async def nothing(_):
    yield

control = control_of(BatonConfig.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text())))
server = uvicorn.Server(uvicorn.Config(build_api(control, nothing), port=0, log_level="warning"))
started = server.startup

async def startup(sockets=None):
    await started(sockets)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)

server.startup = startup
server.run()
"""


@contextmanager
def process(directory: Path, config: BatonConfig) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The control API in a process of its own, and its URL."""
    path = directory / "baton.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert port, "the server did not start"
            yield server, f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def batch_of(number: int) -> list[dict[str, str]]:
    return [{"id": f"{number}-{row}", "text": f"text {row}", "label": "a"} for row in range(40)]


def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged_and_everything_can_be_sent_again(tmp_path):
    config = configuration(tmp_path)
    path = "/api/models/classification/feedback"
    batches, acknowledged = 12, 7
    watching = Registry(config.database)
    with process(tmp_path, config) as (server, url), httpx.Client(base_url=url, timeout=60) as client:
        for number in range(acknowledged):
            assert report(client.post(path, json=batch_of(number))) == (40, 0, 0)

        def endless() -> Iterator[bytes]:
            for number in range(acknowledged, 1_000_000):
                if number == acknowledged + 200:
                    until(
                        lambda: watching.feedback.count_after("classification", 0) > 40 * acknowledged, 60, "rows of the stream"
                    )
                    server.send_signal(signal.SIGKILL)
                yield b"".join(json.dumps(row).encode() + b"\n" for row in batch_of(number))

        with pytest.raises(httpx.TransportError):
            client.post(path, content=endless(), headers=LINES)
        assert server.wait() == -signal.SIGKILL
    watching.close()
    api = Api(control_of(config))
    names = [it.client_id for it in api.registry.feedback.all("classification")]
    assert len(names) == len(set(names))
    assert {row["id"] for number in range(acknowledged) for row in batch_of(number)} <= set(names)
    with process(tmp_path, config) as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        again = [report(client.post(path, json=batch_of(number))) for number in range(batches)]
    assert again[:acknowledged] == [(0, 40, 0)] * acknowledged
    assert all(accepted + duplicates == 40 for accepted, duplicates, _ in again)
    names = [it.client_id for it in api.registry.feedback.all("classification")]
    assert len(names) == len(set(names))
    assert {row["id"] for number in range(batches) for row in batch_of(number)} <= set(names)


# --- retention -----------------------------------------------------------------------------------------------------------


def test_old_answers_are_deleted_even_of_models_that_left_the_configuration_and_corrections_stay(tmp_path):
    api = Api(control_of(configuration(tmp_path, retention_days=7)))
    send(api, {"id": "c", "request_id": "old", "text": "hello", "label": "a"})
    gone = {"feedback": {"retention_days": 2}}
    api.registry.declare_model("gone", gone)
    api.registry.declare_model("ancient", {})  # declared before there was feedback: the default is 30 days
    ages = {"classification": (6, 8), "gone": (1, 3), "ancient": (29, 31)}
    for model, days in ages.items():
        for request_id, age in zip(("young", "old"), days, strict=True):
            log(api, request_id, {"text": "hello"}, model, age=age)
            [answer] = [it for it in recent(api.registry.predictions, model) if it.request_id == request_id]
            api.registry.predictions.log_shadow([replace(answer, version=2, output={"labels": ["a"]})])
    api.control.housekeeping.delete_old_answers()
    for model in ages:
        assert [it.request_id for it in recent(api.registry.predictions, model, 1, 10)] == ["young"]
    rows = raw_sql(api.control.config.database, "SELECT model, answer_id FROM shadow_answers ORDER BY model")
    assert rows == [(model, recent(api.registry.predictions, model)[0].answer_id) for model in sorted(ages)]
    assert len(stored(api)) == 1


def test_checkpoints_that_a_killed_driver_left_go_after_a_while(api):
    storage, runs = api.control.jobs._storage, api.registry.runs
    ids = [runs.create("classification", {}).id]
    runs.finish(ids[0], RunState.CANCELLED, reason="cancelled")
    ids.append(runs.create("classification", {}).id)
    for run_id in (*ids, "somebody-elses"):
        (Path(storage.runs_path) / run_id / "checkpoint").mkdir(parents=True)
    api.control.housekeeping.delete_old_checkpoints()
    assert storage.run_ids() == sorted([*ids, "somebody-elses"])  # one is over, but just now
    raw_sql(
        api.control.config.database, "update runs set finished_at = '2026-01-01 00:00:00.000000' where finished_at is not null"
    )
    api.control.housekeeping.delete_old_checkpoints()
    assert storage.run_ids() == sorted([ids[1], "somebody-elses"])


# --- live quality and metrics --------------------------------------------------------------------------------------------


def measured(api: Api) -> None:
    """Champion v1 with one right and one wrong answer, v2 with a right one."""
    correct_answers(api.registry, "classification", [(1, "a", "a"), (1, "a", "b"), (2, "b", "b")])


@pytest.fixture
def promoted(api: Api) -> Api:
    """Versions 1 (the champion, F1 0.5) and 2."""
    from tests.support.replica import force

    for _ in range(2):
        number = api.registry.versions.reserve("classification", None)
        lineage = {"labels": ["a", "b"]}
        api.registry.versions.publish(
            "classification", number, uri="/nowhere", manifest_sha256="a" * 64, metrics={"f1": 0.5}, lineage=lineage
        )
    force(api.registry, "classification", 1)
    return api


def test_live_quality_is_told_by_version_and_beside_the_champion(promoted):
    assert promoted.get("/api/models/classification/live").json() == {"items": [], "window": 500}
    assert promoted.get("/api/models/classification").json()["live_f1"] is None
    fresh = Api(promoted.control)
    fresh.control.live = type(promoted.control.live)(promoted.registry)
    measured(fresh)
    items = fresh.get("/api/models/classification/live").json()["items"]
    assert [(item["version"], item["corrections"]) for item in items] == [(2, 1), (1, 2)]
    assert [item["f1"] for item in items] == pytest.approx([1.0, (2 / 3 + 0) / 2])
    assert items[1]["per_class"]["b"]["f1"] == 0.0
    model = fresh.get("/api/models/classification").json()
    assert (model["live_f1"], model["corrections"]) == (pytest.approx(1 / 3), 2)


def test_live_quality_is_remembered_for_a_while(promoted, monkeypatch):
    from services.control import live_cache

    measured(promoted)
    looks: list[int] = []
    corrected = promoted.registry.predictions.corrected
    monkeypatch.setattr(promoted.registry.predictions, "corrected", lambda *arguments: looks.append(1) or corrected(*arguments))
    for _ in range(3):
        promoted.get("/api/models/classification")
    assert len(looks) == 1
    monkeypatch.setattr(live_cache, "MAX_AGE_SECONDS", 0.0)
    promoted.get("/api/models/classification")
    assert len(looks) == 2


def sample(api: Api, name: str, **labels: str) -> float | None:
    from prometheus_client.parser import text_string_to_metric_families

    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = [
        it.value
        for family in text_string_to_metric_families(answer.text)
        for it in family.samples
        if it.name == name and it.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_metrics_tell_of_feedback_champions_and_live_quality(promoted):
    assert sample(promoted, "baton_feedback_total", model="ner", result="accepted") == 0
    row = {"id": "c", "text": "hello", "label": "a"}
    send(promoted, [row, row, {"text": "bad"}])
    send(promoted, {"text": "hello", "label": "a"})
    counts = {
        result: sample(promoted, "baton_feedback_total", model="classification", result=result)
        for result in ("accepted", "duplicate", "rejected")
    }
    assert counts == {"accepted": 2, "duplicate": 1, "rejected": 1}
    assert sample(promoted, "baton_champion_version", model="classification") == 1
    assert sample(promoted, "baton_champion_f1", model="classification") == 0.5
    assert sample(promoted, "baton_champion_version", model="ner") is None
    assert sample(promoted, "baton_live_f1", model="classification", version="1") is None
    fresh = Api(promoted.control)
    fresh.control.live = type(promoted.control.live)(promoted.registry)
    measured(fresh)
    assert sample(fresh, "baton_live_f1", model="classification", version="1") == pytest.approx(1 / 3)
    assert sample(fresh, "baton_live_f1", model="classification", version="2") == 1.0
