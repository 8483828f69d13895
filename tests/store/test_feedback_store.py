"""The store of feedback and logged predictions, on a real database: what counts once, and what is joined to what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
import sqlalchemy as sa

from baton.errors import NotFound, OverQuota
from baton.store import database, schema
from baton.store.database import IDS_PER_QUERY
from baton.store.feedback import predictions
from baton.store.feedback import store as store_module
from baton.store.feedback.audit import Drawn
from baton.store.feedback.correction import Correction
from baton.store.feedback.predictions import AnswerName, PredictionStore
from baton.store.feedback.store import CHUNK, DAY, Added, FeedbackStore
from baton.store.records import LoggedPrediction
from baton.store.registry import Registry
from tests.support import answers
from tests.support.answers import recent

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(either_url: str) -> str:
    """Every test here runs on both databases."""
    return either_url


@pytest.fixture
def registry(registry: Registry) -> Registry:
    """With a second model, ``other``."""
    registry.declare_model("other")
    return registry


@pytest.fixture
def store(registry: Registry) -> FeedbackStore:
    return registry.feedback


@pytest.fixture
def log(registry: Registry) -> PredictionStore:
    return registry.predictions


def correction(client_id: str | None = None, request_id: str | None = None, label: str = "a", position: int = 0) -> Correction:
    return Correction(
        client_id=client_id, request_id=request_id, position=position, example={"text": "where is it?", "label": label}
    )


def logged(
    request_id: str | None,
    position: int = 0,
    version: int = 1,
    label: str = "a",
    minutes: float = 0,
    answer_id: str | None = None,
) -> LoggedPrediction:
    at = NOON + timedelta(minutes=minutes)
    return answers.logged(
        request_id, answer_id=answer_id, position=position, version=version, text="where is it?", label=label, at=at
    )


# --- feedback ------------------------------------------------------------------------------------------------------------


def labels(store: FeedbackStore) -> list[tuple[str | None, str]]:
    return [(it.client_id, it.example["label"]) for it in store.all("m")]


def test_one_client_id_counts_once_within_a_batch_and_from_batch_to_batch(store):
    assert store.add("m", [correction("x"), correction("x"), correction("y")]) == Added(accepted=2, duplicates=1)
    assert store.add("m", [correction("x"), correction("z")]) == Added(accepted=1, duplicates=1)
    assert labels(store) == [("x", "a"), ("y", "a"), ("z", "a")]
    assert store.changes("m", 10) == []


def test_another_answer_under_the_same_id_takes_the_place_of_the_first_and_counts_as_new(store):
    store.add("m", [correction("x", label="typo"), correction("y")])
    read = store.newest("m", 1)[0].id
    told = store.add("m", [replace(correction("x", label="b"), answer_fields=("label",), actor="shop")])
    assert told == Added(accepted=1, duplicates=0, replaced=1)
    assert labels(store) == [("y", "a"), ("x", "b")]
    assert store.count_after("m", read) == 1
    [change] = store.changes("m", 10)
    assert (change.what, change.client_id, change.actor, change.rows, change.answer) == (
        "replaced", "x", "shop", 1, {"label": "typo"},
    )  # fmt: skip


def test_old_changes_are_forgotten_and_corrections_and_other_models_are_not(store, monkeypatch):
    for minutes, label in enumerate("abc"):
        monkeypatch.setattr(store_module, "now", lambda at=NOON + timedelta(minutes=minutes): at)
        for model in ("m", "other"):
            store.add(model, [correction("x", label=label)])
    assert store.forget_changes("m", NOON + timedelta(minutes=2)) == 1
    assert [len(store.changes(model, 10)) for model in ("m", "other")] == [1, 2]
    assert labels(store) == [("x", "c")]


def test_a_file_that_corrects_its_own_line_may_be_sent_again(store):
    lines = [correction("x", label="typo"), correction("y"), correction("x", label="b")]
    assert store.add("m", lines) == Added(accepted=3, duplicates=0, replaced=1)
    assert labels(store) == [("y", "a"), ("x", "b")]
    before = list(store.all("m"))
    assert store.add("m", lines) == Added(accepted=0, duplicates=3)
    assert list(store.all("m")) == before


def test_the_same_id_of_another_sender_is_another_correction(store):
    store.add("m", [replace(correction("x", label="b"), sender="k1"), replace(correction("x"), sender="k2"), correction("x")])
    assert store.add("m", [replace(correction("x", label="c"), sender="k1")]).replaced == 1
    assert [(it.sender, it.example["label"]) for it in store.all("m")] == [("k2", "a"), (None, "a"), ("k1", "c")]


def sent(*names: str, sender: str | None = "k1", label: str = "a") -> list[Correction]:
    return [replace(correction(name, label=label), sender=sender) for name in names]


def test_a_sender_may_have_so_many_corrections_of_a_day_and_is_told_when_there_is_room(store, registry, monkeypatch):
    monkeypatch.setattr(store_module, "now", lambda: NOON)
    store.add("m", sent("a", "b"), max_per_day=3)
    monkeypatch.setattr(store_module, "now", lambda: NOON + timedelta(hours=1))
    store.add("m", sent("c"), max_per_day=3)
    with pytest.raises(OverQuota, match=r"API key k1 may have 3 corrections of m stored in 24 hours .*in 82,800 s") as caught:
        FeedbackStore(registry._engine).add("m", sent("d"), max_per_day=3)  # another process counts the same
    assert caught.value.headers == {"retry-after": str(23 * 3600)}
    assert [name for name, _ in labels(store)] == ["a", "b", "c"]
    store.add("m", sent("a", sender="k2"), max_per_day=3)
    store.add("other", sent("d"), max_per_day=3)
    store.add("m", sent("d"))  # a limit that is taken away
    monkeypatch.setattr(store_module, "now", lambda: NOON + DAY)
    assert store.add("m", sent("e"), max_per_day=3).accepted == 1


def test_what_is_known_replaced_or_withdrawn_takes_no_room(store):
    store.add("m", sent("a", "b"), max_per_day=2)
    assert store.add("m", sent("a", "b"), max_per_day=2).duplicates == 2
    assert store.add("m", sent("a", label="b"), max_per_day=1).replaced == 1, "also under a limit that was lowered"
    with pytest.raises(OverQuota):
        store.add("m", sent("a", label="c") + sent("c"), max_per_day=2)
    assert sorted(labels(store)) == [("a", "b"), ("b", "a")]
    store.withdraw("m", ["a"], sender="k1", actor=None)
    assert store.add("m", sent("c"), max_per_day=2).accepted == 1


def test_more_corrections_at_once_than_a_day_allows_are_refused_as_such(store):
    with pytest.raises(OverQuota, match=r"calls without an API key may have 1 correction of m .* send fewer at once") as caught:
        store.add("m", sent("a", "b", sender=None), max_per_day=1)
    assert caught.value.headers == {}, "a retry would fail as well"
    assert labels(store) == []


def test_labels_of_the_audit_take_no_room(store, registry):
    drawn = Drawn(keys=("g",), content_hash="h", input={"text": "where is it?"})
    assert registry.audit.draw("m", [drawn]) == 1
    store.add("m", [replace(sent("label")[0], audited_as="h")])
    store.add("m", sent("a"), max_per_day=1)
    with pytest.raises(OverQuota):
        store.add("m", sent("b"), max_per_day=1)


def test_senders_at_once_do_not_pass_the_limit_together(store):
    refused = []

    def send(place: int) -> None:
        try:
            store.add("m", sent(f"c{place}"), max_per_day=3)
        except OverQuota as error:
            refused.append(error)

    threads = [threading.Thread(target=send, args=[place]) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(labels(store)), len(refused)) == (3, 3)


def test_a_correction_that_is_replaced_while_all_are_read_comes_once(store, monkeypatch):
    monkeypatch.setattr(store_module, "CHUNK", 1)
    store.add("m", [correction("x", label="typo"), correction("y")])
    reading = store.all("m")
    first = next(reading)
    store.add("m", [correction("x", label="b")])
    assert [first.example["label"], *(it.example["label"] for it in reading)] == ["typo", "a"]
    assert labels(store) == [("y", "a"), ("x", "b")]


def test_a_withdrawn_correction_is_gone_and_its_id_is_free(store):
    store.add("m", [replace(correction(name), sender="k1") for name in ("x", "y")] + [correction("x")])
    assert store.withdraw("m", ["x", "never"], sender="k1", actor="shop") == 1
    assert [(it.client_id, it.sender) for it in store.all("m")] == [("y", "k1"), ("x", None)]
    assert store.withdraw("m", ["x"], sender="k1", actor="shop") == 0
    [change] = store.changes("m", 10)
    assert (change.what, change.client_id, change.sender, change.actor, change.answer) == ("withdrawn", "x", "k1", "shop", None)
    assert store.add("m", [replace(correction("x"), sender="k1")]) == Added(accepted=1, duplicates=0)


def test_corrections_are_withdrawn_by_sender_and_by_time(store):
    store.add("m", [replace(correction("x"), sender="k1"), replace(correction("y"), sender="k2"), correction("z")])
    store.add("other", [replace(correction("x"), sender="k1")])
    times = [it.received_at for it in store.all("m")]
    assert store.withdraw_all("m", sender="k1", since=times[0] + timedelta(seconds=1), until=None, actor=None) == 0
    assert store.withdraw_all("m", sender="k1", since=None, until=None, actor="ops") == 1
    assert store.withdraw_all("m", sender=None, since=times[0], until=times[-1] + timedelta(seconds=1), actor="ops") == 2
    assert store.count_after("m", 0) == 0
    assert store.count_after("other", 0) == 1
    assert [(it.client_id, it.sender, it.rows) for it in store.changes("m", 10)] == [(None, None, 2), (None, "k1", 1)]
    assert store.changes("m", 1, before=store.changes("m", 1)[0].id)[0].sender == "k1"


def by_request(request_id: str, position: int = 0) -> AnswerName:
    return AnswerName(None, request_id, position)


def by_id(answer_id: str, position: int = 0) -> AnswerName:
    return AnswerName(answer_id, None, position)


def test_a_request_id_of_several_answers_means_none_of_them_unless_they_asked_the_same(store, log):
    asked = logged("trace")
    again = replace(logged("trace", version=2, minutes=1), answer_id="a repetition")
    log.log([again, asked, logged("trace", position=1)])
    store.add("m", [correction("the last answer", "trace")])
    assert log.find("m", [by_request("trace"), by_request("trace", 1)]) == {
        by_request("trace"): again,
        by_request("trace", 1): logged("trace", position=1),
    }
    assert [answer for answer, _ in log.corrected("m", 2, 10)] == [again]
    store.withdraw("m", ["the last answer"], sender=None, actor=None)
    other = replace(logged("trace"), answer_id="other", input={"text": "another text"})
    log.log([other])
    found = log.find("m", [by_request("trace"), by_request("trace", 1), by_id("answer-trace"), by_id("other")])
    assert found.pop(by_request("trace")) is None
    assert found == {
        by_request("trace", 1): logged("trace", position=1),
        by_id("answer-trace"): asked,
        by_id("other"): other,
    }
    store.add("m", [correction("x", "trace"), correction("y", "trace", position=1)])
    assert [answer.position for answer, _ in log.corrected("m", 1, 10)] == [1]
    assert log.corrected_by_version("m") == {1: 1}
    store.add("m", [replace(correction("z", "trace"), answer_id="other")])
    assert [answer.answer_id for answer, _ in log.corrected("m", 1, 10)] == ["other", "answer-trace"]


def test_a_database_that_only_may_be_read_tells_what_was_attached_before(store, log, url):
    log.log([logged("r1"), logged("r2")])
    store.add("m", [correction("x", "r1"), correction("y", "r3")])
    log.log([logged("r3")])
    reader = Registry(url, read_only=True)
    assert [told.client_id for _, told in reader.predictions.corrected("m", 1, 10)] == ["x"]
    assert reader.predictions.corrected_by_version("m") == {1: 1}
    reader.close()
    assert [told.client_id for _, told in log.corrected("m", 1, 10)] == ["y", "x"]


def test_corrections_without_an_id_all_count(store):
    assert store.add("m", [correction(), correction()]) == Added(accepted=2, duplicates=0)
    assert store.add("m", [correction()]) == Added(accepted=1, duplicates=0)


def test_nothing_to_add_adds_nothing(store):
    assert store.add("m", []) == Added(accepted=0, duplicates=0)


def test_two_models_may_use_the_same_ids(store):
    store.add("m", [correction("x")])
    assert store.add("other", [correction("x")]) == Added(accepted=1, duplicates=0)
    assert [store.count_after(model, 0) for model in ("m", "other")] == [1, 1]


def test_a_batch_of_more_ids_than_one_query_takes_counts_right(store):
    many = [correction(f"c{number}") for number in range(2 * IDS_PER_QUERY + 7)]
    assert store.add("m", many[: IDS_PER_QUERY + 3]).accepted == IDS_PER_QUERY + 3
    assert store.add("m", many) == Added(accepted=IDS_PER_QUERY + 4, duplicates=IDS_PER_QUERY + 3)


def test_senders_at_the_same_moment_count_each_id_once(registry, store, url):
    senders, ids = 4, 60
    added: list[Added] = []
    start = threading.Barrier(senders, timeout=60)

    def send(own: FeedbackStore) -> None:
        start.wait()
        added.extend(own.add("m", [correction(f"c{number + step}") for step in range(3)]) for number in range(0, ids, 3))

    others = [Registry(url) for _ in range(2)]
    stores = [store, store, *(other.feedback for other in others)]
    threads = [threading.Thread(target=send, args=(own,)) for own in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert sum(it.accepted for it in added) == ids
    assert sum(it.duplicates for it in added) == (senders - 1) * ids
    assert sorted(it.client_id or "" for it in store.all("m")) == sorted(f"c{number}" for number in range(ids))


def test_an_id_that_was_deleted_never_comes_again(store):
    """Data sets remember up to which id they have read: a new correction with an old id would never be one."""
    store.add("m", [correction(f"c{number}") for number in range(3)])
    last = store.newest("m", 1)[0].id
    with database.writing(store._engine) as connection:
        connection.execute(schema.feedback.delete().where(schema.feedback.c.id == last))
    store.add("m", [correction("new")])
    assert [it.client_id for it in store.after("m", last, 10)] == ["new"]
    assert store.count_after("m", last) == 1


def test_a_model_that_nobody_declared_has_no_feedback(store):
    with pytest.raises(NotFound, match="unknown model 'nobody'"):
        store.add("nobody", [correction()])


def test_corrections_come_back_whole_with_growing_ids(store):
    before = datetime.now(UTC)
    store.add("m", [correction("x", "r1", "b", 3)])
    [found] = store.all("m")
    assert (found.model, found.client_id, found.request_id, found.position) == ("m", "x", "r1", 3)
    assert found.example == {"text": "where is it?", "label": "b"}
    assert before <= found.received_at <= datetime.now(UTC)
    store.add("m", [correction("y")])
    assert [it.client_id for it in store.after("m", found.id, 10)] == ["y"]


def test_pages_run_backwards_and_forwards_without_gaps(store):
    store.add("m", [correction(f"c{number}") for number in range(7)])
    store.add("other", [correction("stranger")])
    forwards, last = [], 0
    while page := store.after("m", last, 3):
        assert len(page) <= 3
        forwards += [it.client_id for it in page]
        last = page[-1].id
    backwards, before = [], None
    while page := store.newest("m", 3, before):
        backwards += [it.client_id for it in page]
        before = page[-1].id
    assert forwards == backwards[::-1] == [f"c{number}" for number in range(7)]


def test_all_goes_on_behind_the_first_chunk(store):
    store.add("m", [correction(f"c{number}") for number in range(CHUNK + 5)])
    assert sum(1 for _ in store.all("m")) == CHUNK + 5


def test_what_came_after_an_id_is_counted(store):
    store.add("m", [correction("x"), correction("y")])
    first, second = store.all("m")
    assert [store.count_after("m", bound) for bound in (0, first.id, second.id)] == [2, 1, 0]
    assert [store.count_up_to("m", bound) for bound in (0, first.id, second.id)] == [0, 1, 2]


def test_texts_with_nul_characters_and_halves_of_surrogate_pairs_come_back_whole(store, log):
    """PostgreSQL holds neither in a text; as JSON it does."""
    text = "a\0b \ud800 c"
    store.add("m", [Correction(client_id="x", request_id=None, position=0, example={"text": text, "label": "a"})])
    log.log([LoggedPrediction(**{**vars(logged("r1")), "input": {"text": text}})])
    assert next(store.all("m")).example["text"] == text
    found = log.find("m", [by_request("r1")])[by_request("r1")]
    assert found is not None
    assert found.input["text"] == text


# --- the prediction log --------------------------------------------------------------------------------------------------


def test_an_answer_that_is_written_again_stays_as_it_was(log):
    log.log([logged("r1", label="first"), logged("r1", label="again"), logged("r1", position=1, label="its neighbour")])
    log.log([logged("r1", label="later"), logged("r2")])
    names = [by_request("r1"), by_request("r1", 1), by_id("answer-r2"), by_request("r3"), by_id("answer-r3")]
    assert {name: it.label for name, it in log.find("m", names).items()} == {
        by_request("r1"): "first",
        by_request("r1", 1): "its neighbour",
        by_id("answer-r2"): "a",
    }


def test_an_answer_without_a_request_id_is_found_by_its_own(log):
    nameless = answers.logged(None, answer_id="own")
    log.log([nameless, answers.logged(None, answer_id="another")])
    assert log.find("m", [by_id("own")]) == {by_id("own"): nameless}


def test_many_answers_are_looked_up_at_once(log):
    log.log([logged(f"r{number}", position=number % 3) for number in range(2 * IDS_PER_QUERY + 1)])
    for name in (by_request, by_id):
        wanted = [name(f"{'answer-' if name is by_id else ''}r{number}", number % 3) for number in range(2 * IDS_PER_QUERY + 1)]
        assert log.find("m", wanted).keys() == set(wanted)
        assert log.find("other", wanted) == {}


def test_answers_come_back_whole_even_those_that_cannot_be_scored(log):
    whole = logged("r1")
    hidden = LoggedPrediction(**{**vars(logged("r2")), "output": None, "label": None, "confidence": None})
    log.log([whole, hidden])
    assert log.find("m", [by_request("r1"), by_request("r2")]) == {by_request("r1"): whole, by_request("r2"): hidden}


def test_the_newest_answers_of_one_version_come_first(log):
    log.log([logged("old", minutes=1), logged("new", minutes=2), logged("else", version=2, minutes=3)])
    assert [it.request_id for it in recent(log, "m", 1)] == ["new", "old"]
    log.log([logged("latest", version=7)])
    assert log.answered_versions("m", 10) == [7, 2, 1]
    assert log.answered_versions("m", 2) == [7, 2]
    assert log.answered_versions("other", 10) == []


def test_the_summaries_of_the_newest_answers_of_one_version_are_what_drift_is_measured_by(log):
    log.log([logged("old", label="a", minutes=1), logged("new", label="b", minutes=2), logged("else", version=2, minutes=3)])
    assert log.summaries("m", 1, 10) == [("b", 0.9, 12), ("a", 0.9, 12)]
    assert log.summaries("m", 1, 1) == [("b", 0.9, 12)]


def test_old_answers_are_forgotten_and_corrections_stay(store, log):
    log.log([logged("old", minutes=-1), logged("new", minutes=1)])
    store.add("m", [correction("x", "old")])
    assert log.forget("other", NOON) == 0
    assert log.forget("m", NOON) == 1
    assert [it.request_id for it in recent(log, "m", 1, 10)] == ["new"]
    assert store.count_after("m", 0) == 1
    assert log.corrected("m", 1, 10) == []


def test_many_old_answers_are_forgotten_a_few_at_a_time_so_that_others_can_write_in_between(store, log, monkeypatch):
    monkeypatch.setattr(predictions, "DELETED_AT_ONCE", 10)
    answered = [logged(f"r{number}", number % 2, minutes=number - 34.5) for number in range(40)]
    log.log(answered)
    log.log_shadow(answered)
    deleted: list[int] = []
    sa.event.listen(
        store._engine,
        "after_cursor_execute",
        lambda connection, cursor, statement, *_: statement.startswith("DELETE") and deleted.append(cursor.rowcount),
    )
    assert log.forget("m", NOON) == 35
    assert deleted == [10, 10, 10, 5] * 2  # of the shadow, and of the champion
    assert [it.request_id for it in recent(log, "m", 1, 10)] == [f"r{number}" for number in range(39, 34, -1)]


# --- the two together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["log first", "correction first"])
def test_a_correction_finds_its_answer_whichever_comes_first(store, log, order):
    steps: list[Callable[[], object]] = [
        lambda: log.log([logged("r1"), logged("r1", position=1)]),
        lambda: store.add("m", [correction("x", "r1", "b", 1), correction("y", "elsewhere", "b")]),
    ]
    for step in steps if order == "log first" else reversed(steps):
        step()
    [(answer, told)] = log.corrected("m", 1, 10)
    assert (answer.request_id, answer.position, answer.label) == ("r1", 1, "a")
    assert (told.client_id, told.example["label"]) == ("x", "b")


def test_of_two_corrections_of_one_answer_the_newer_counts(store, log):
    log.log([logged("r1"), logged("r2")])
    store.add("m", [correction("x", "r1", "b"), correction("y", "r2", "b")])
    store.add("m", [correction("z", "r1", "c")])
    assert [(answer.request_id, told.example["label"]) for answer, told in log.corrected("m", 1, 10)] == [
        ("r1", "c"),
        ("r2", "b"),
    ]


def test_the_newest_corrected_answers_are_taken_and_versions_kept_apart(store, log):
    log.log([logged(f"r{number}") for number in range(5)] + [logged("else", version=2)])
    store.add("m", [correction(f"c{number}", f"r{number}") for number in range(5)] + [correction("e", "else")])
    assert [told.client_id for _, told in log.corrected("m", 1, 2)] == ["c4", "c3"]
    assert [told.client_id for _, told in log.corrected("m", 2, 2)] == ["e"]
    assert log.corrected("other", 1, 2) == []
    store.add("m", [correction("again", "r1"), correction("nowhere", "lost"), correction("plain")])
    assert log.corrected_by_version("m") == {1: 6, 2: 1}
    assert log.corrected_by_version("other") == {}


# --- a shadow's answers --------------------------------------------------------------------------------------------------


def copied(answer: LoggedPrediction, version: int = 2, label: str = "b", **changes: Any) -> LoggedPrediction:
    """What a shadow answered to a copy of the request."""
    return replace(answer, version=version, output={"labels": [label], "scores": [0.8]}, **changes)


def pairs(log: PredictionStore, limit: int = 10, shadow: int = 2, since: datetime | None = None) -> list[tuple[Any, ...]]:
    """Of each pair: request id, the champion's label, the shadow's, and the right one."""
    return [
        (it.answer.request_id, it.answer.label, it.shadow_output["labels"][0], it.correction.example["label"])
        for it in log.corrected_pairs("m", 1, shadow, limit, since)
    ]


def test_a_correction_finds_the_answers_of_the_champion_and_of_the_shadow_whichever_comes_first(store, log):
    steps: list[Callable[[], object]] = [
        lambda: log.log([logged("r1"), logged("r1", position=1)]),
        lambda: log.log_shadow([copied(logged("r1", position=1))]),
        lambda: store.add("m", [correction("x", "r1", "c", 1), correction("y", "r1", "c", 0)]),
    ]
    for order in permutations(steps):
        for step in order:
            step()
        assert pairs(log) == [("r1", "a", "b", "c")]
        with database.writing(store._engine) as connection:
            for table in (schema.predictions, schema.shadow_answers, schema.feedback):
                connection.execute(table.delete())


def test_only_what_both_versions_answered_is_a_pair(store, log):
    by_tester = logged("tester", version=2)
    log.log([logged("r1"), logged("r2"), by_tester, logged("r4")])
    log.log_shadow([copied(logged("r1")), copied(logged("r2"), version=3), copied(by_tester), copied(logged("r5"))])
    store.add("m", [correction(name, name) for name in ("r1", "r2", "tester", "r4", "r5")])
    log.log([replace(logged("r4"), model="other")])  # the same id as one without a copy
    log.log_shadow([copied(replace(logged("r4"), model="other")), copied(replace(logged("r6"), model="other"))])
    store.add("other", [correction("r6", "r6")])
    assert [found[0] for found in pairs(log)] == ["r1"]
    assert [found[0] for found in pairs(log, shadow=3)] == ["r2"]
    assert log.corrected_pairs("other", 1, 2, 10) == []


def test_of_several_corrections_of_one_pair_the_newest_counts_and_the_newest_pairs_are_taken(store, log):
    answered = [logged(f"r{number}") for number in range(4)]
    log.log(answered)
    log.log_shadow([copied(it) for it in answered] + [copied(it, version=3) for it in answered])
    store.add("m", [correction(f"c{number}", f"r{number}", "c") for number in range(4)])
    store.add("m", [correction("again", "r1", "d")])
    assert pairs(log, limit=3) == [("r1", "a", "b", "d"), ("r3", "a", "b", "c"), ("r2", "a", "b", "c")]


def test_more_pairs_than_one_query_takes_are_found_each_at_its_position(store, log):
    answered = [logged(f"r{number}", position) for number in range(IDS_PER_QUERY + 7) for position in range(2)]
    log.log(answered)
    log.log_shadow([copied(it, label=f"at {it.position}") for it in answered])
    store.add("m", [correction(None, it.request_id, position=it.position) for it in answered])
    found = log.corrected_pairs("m", 1, 2, 10_000)
    assert [it.correction.id for it in found] == sorted((it.correction.id for it in found), reverse=True)
    assert len(found) == len(answered)
    assert all(it.shadow_output["labels"] == [f"at {it.answer.position}"] for it in found)


def test_a_pair_counts_only_if_both_answers_were_given_since_the_trial_began(store, log):
    old, new = logged("old", minutes=-1), logged("new", minutes=1)
    log.log([old, new, logged("mixed", minutes=-1), logged("later", minutes=1)])
    copies = [copied(old), copied(new), copied(logged("mixed", minutes=1)), copied(logged("later", minutes=-1))]
    log.log_shadow(copies)
    store.add("m", [correction(name, name) for name in ("old", "new", "mixed", "later")])
    assert [found[0] for found in pairs(log, since=NOON)] == ["new"]
    assert len(pairs(log)) == 4


def test_answers_to_two_texts_make_no_pair(store, log):
    log.log([logged("r1"), logged("r2")])
    log.log_shadow([copied(logged("r1"), input={"text": "another text"}), copied(logged("r2"))])
    store.add("m", [correction("x", "r1"), correction("y", "r2")])
    assert [found[0] for found in pairs(log)] == ["r2"]


def test_a_shadows_answers_are_no_logged_answers_and_one_that_is_written_again_stays_as_it_was(store, log):
    answer = logged("r1")
    log.log_shadow([copied(answer, label="first")])
    log.log_shadow([copied(answer, label="again"), copied(answer, version=3, label="of another version")])
    assert log.find("m", [by_request("r1")]) == {}
    assert log.answered_versions("m", 10) == []
    log.log([answer])
    store.add("m", [correction("x", "r1")])
    assert [found[2] for shadow in (2, 3) for found in pairs(log, shadow=shadow)] == ["first", "of another version"]


def test_a_shadows_answer_that_cannot_be_scored_is_not_kept(store, log):
    hidden = replace(logged("r1"), output=None)
    log.log([hidden])
    log.log_shadow([replace(hidden, version=2)])
    log.log_shadow([])
    store.add("m", [correction("x", "r1")])
    assert pairs(log) == []


def test_texts_with_nul_characters_and_halves_of_surrogate_pairs_are_known_as_the_same_input(store, log):
    answer = replace(logged("r1"), input={"text": "a\0b \ud800 c"})
    log.log([answer])
    log.log_shadow([copied(answer)])
    store.add("m", [correction("x", "r1")])
    assert len(pairs(log)) == 1


def test_old_answers_of_a_shadow_are_forgotten_with_the_champions(store, log):
    answered = [logged("old", minutes=-1), logged("new", minutes=1)]
    log.log_shadow([copied(it) for it in answered] + [copied(replace(it, model="other")) for it in answered])
    assert log.forget("m", NOON) == 0
    with database.reading(store._engine) as connection:
        table = schema.shadow_answers
        left = connection.execute(sa.select(table.c.model, table.c.answer_id).order_by(table.c.model, table.c.answer_id))
        assert [tuple(row) for row in left] == [("m", "answer-new"), ("other", "answer-new"), ("other", "answer-old")]


# --- the version of a correction -----------------------------------------------------------------------------------------


def test_a_correction_keeps_the_version_whose_answer_it_corrects_also_when_the_log_has_forgotten_it(store, log):
    log.log([logged("r1", version=3), logged("r2", position=1, version=4)])
    store.add("m", [correction("a", "r1"), correction("b", "r2", position=1), correction("c"), correction("d", "r2")])
    assert [it.version for it in store.all("m")] == [3, 4, None, None]
    log.forget("m", datetime.now(UTC) + timedelta(days=1))
    store.add("m", [correction("e", "r1")])
    assert [it.version for it in store.all("m")] == [3, 4, None, None, None]


def scored(number: int, text: str, score: float | None, **fields: Any) -> LoggedPrediction:
    made = answers.logged(None, answer_id=f"answer-{number}", text=text, at=NOON + timedelta(seconds=number), **fields)
    return replace(made, confidence=score)


def test_the_least_certain_answers_come_first_and_each_text_once(registry, store, log):
    log.log(
        [
            scored(0, "too old", 0.01),
            scored(1, "sure", 0.9),
            scored(2, "unsure", 0.4),
            scored(3, "unsure", 0.3),
            scored(4, "without a score", None),
            scored(5, "corrected", 0.2),
            scored(6, "corrected", 0.1),
            scored(7, "another version", 0.0, version=2),
            scored(8, "another model", 0.0, model="other"),
            scored(9, "unsure", 0.35, position=1),
        ]
    )
    store.add("m", [replace(correction(), answer_id="answer-5")])
    store.add("other", [replace(correction(), answer_id="answer-2")])
    found = log.least_certain("m", 1, among=7, limit=3)
    told = [(it.answer.input["text"], it.answer.confidence, it.corrected) for it in found]
    assert told == [("corrected", 0.1, True), ("unsure", 0.3, False), ("sure", 0.9, False)]
    assert [it.answer.answer_id for it in log.least_certain("m", 1, among=8, limit=1)] == ["answer-0"]
    assert log.least_certain("m", 3, among=10, limit=10) == []


def test_ids_are_known_whoever_sent_them(store):
    for sender, name in ((None, "x"), ("k1", "y"), ("k2", "z"), ("k2", "x")):
        store.add("m", [replace(correction(name), sender=sender)])
    store.add("other", [correction("elsewhere")])
    many = [f"id {number}" for number in range(2 * IDS_PER_QUERY)]
    assert store.known("m", ["x", "y", "z", "elsewhere", *many]) == {"x", "y", "z"}
    assert store.known("m", []) == set()


def test_corrections_wait_that_no_data_set_has_read_and_labels_of_the_audit_never_do(registry, store):
    registry.audit.draw("m", [Drawn(keys=("k",), content_hash="c", input={"text": "drawn"})])
    for name, drawn in (("1", None), ("2", None), ("3", "c"), ("4", None)):
        store.add("m", [replace(correction(name), audited_as=drawn)])
    first = store.after("m", 0, 1)[0].id
    assert [it.client_id for it in store.waiting("m", first, 10)] == ["4", "2"]
    assert [it.client_id for it in store.waiting("m", first, 1)] == ["4"]
    assert store.count_after("m", first) == 2
