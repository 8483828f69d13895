"""The audit in a real database: what is drawn once, what is held out, what becomes a label, and what is forgotten."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta

import pytest

from baton.errors import NotFound
from baton.store.database import IDS_PER_QUERY
from baton.store.feedback.audit import AuditStore, Drawn
from baton.store.feedback.correction import Correction
from baton.store.records import AuditItem
from baton.store.registry import Registry
from baton.text.normal_form import fingerprint

DAY = timedelta(days=1)


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
def audit(registry: Registry) -> AuditStore:
    return registry.audit


def drawn(text: str, group: str | None = None, masked_group: str | None = None) -> Drawn:
    keys = [fingerprint(group or text)] + ([fingerprint(masked_group)] if masked_group else [])
    return Drawn(keys=tuple(keys), content_hash=fingerprint(text), input={"text": text})


def label(text: str, answer: str, client_id: str | None = None, *, labels: bool = True) -> Correction:
    """A correction by somebody who may label the audit, or who may not."""
    return Correction(
        client_id=client_id,
        request_id=None,
        position=0,
        example={"text": text, "label": answer},
        audited_as=fingerprint(text) if labels else None,
    )


def texts(items: list[AuditItem]) -> list[str]:
    return [item.input.get("text", "") for item in items]


def answers(audit: AuditStore, model: str = "m") -> list[str | None]:
    return [None if item.example is None else item.example["label"] for item in audit.items(model)]


# --- the draw ------------------------------------------------------------------------------------------------------------


def test_the_secret_is_random_and_the_same_for_every_process(registry, audit, url):
    other = Registry(url)
    assert len(audit.secret()) == 32
    assert audit.secret() == other.audit.secret()
    other.close()


def test_two_databases_have_different_secrets(tmp_path):
    secrets = set()
    for name in ("one", "two"):
        registry = Registry(f"sqlite:///{tmp_path}/{name}.db")
        registry.migrate()
        secrets.add(registry.audit.secret())
        registry.close()
    assert len(secrets) == 2


def test_a_text_is_drawn_once_and_in_the_order_of_the_draw(audit):
    before = datetime.now(UTC)
    assert audit.draw("m", [drawn("one"), drawn("two"), drawn("one")]) == 2
    assert audit.draw("m", [drawn("two"), drawn("three")]) == 1
    assert audit.draw("m", [drawn("three")]) == audit.draw("m", []) == 0
    items = audit.items("m")
    assert texts(items) == ["one", "two", "three"]
    assert [item.id for item in items] == sorted(item.id for item in items)
    assert all(before <= item.drawn_at <= datetime.now(UTC) for item in items)
    assert not any(item.done for item in items)


def test_of_several_texts_of_one_group_one_is_drawn(audit):
    assert audit.draw("m", [drawn("who?", group="context")]) == 1
    assert audit.draw("m", [drawn("where?", group="context")]) == 0
    assert texts(audit.items("m")) == ["who?"]


def test_two_models_have_audits_of_their_own(audit):
    audit.draw("m", [drawn("one")])
    assert audit.draw("other", [drawn("one"), drawn("two")]) == 2
    assert [texts(audit.items(model)) for model in ("m", "other")] == [["one"], ["one", "two"]]
    with pytest.raises(NotFound, match=re.escape(f"the audit of other has no text {audit.items('m')[0].id}")):
        audit.get("other", audit.items("m")[0].id)


def test_a_drawn_text_is_held_out_from_the_draw_on_labelled_or_not(registry, audit):
    audit.draw("m", [drawn("call 1234", masked_group="call")])
    assert registry.datasets.ledger("m") == {fingerprint("call 1234"): "holdout", fingerprint("call"): "holdout"}
    assert registry.datasets.ledger("other") == {}
    assert audit.draw("m", [drawn("call 5678", masked_group="call")]) == 1  # another text that looks the same when masked
    assert len(registry.datasets.ledger("m")) == 3


def test_a_text_that_was_trained_on_is_not_drawn_and_one_that_is_held_out_may_be(registry, audit, frozen):
    frozen({fingerprint("trained on"): "train", fingerprint("judges already"): "holdout"})
    assert audit.draw("m", [drawn("trained on"), drawn("judges already"), drawn("new")]) == 2
    assert texts(audit.items("m")) == ["judges already", "new"]
    assert registry.datasets.ledger("m")[fingerprint("trained on")] == "train"


@pytest.fixture
def frozen(registry: Registry):
    """A function that records the splits of a data set."""
    from baton.store.records import DatasetVersion

    record = {"removed_leaks": 0, "removed_duplicates": 0, "train_rows": 1, "holdout_rows": 1, "labels": ("a", "b")}

    def record_splits(splits: dict[str, str]) -> None:
        registry.datasets.add("m", DatasetVersion(hash="1", holdout_hash="2", uri="u", counts={}, **record), splits)

    return record_splits


def test_more_texts_than_one_query_takes_are_drawn(audit):
    many = [drawn(f"text {number}") for number in range(IDS_PER_QUERY + 3)]
    assert audit.draw("m", many[:2]) == 2
    assert audit.draw("m", many) == IDS_PER_QUERY + 1
    assert len(audit.items("m")) == IDS_PER_QUERY + 3


def test_replicas_that_draw_the_same_texts_at_the_same_moment_draw_each_once(audit, url):
    replicas = [Registry(url) for _ in range(3)]
    start, added = threading.Barrier(len(replicas)), []

    def draw(own: AuditStore) -> None:
        start.wait()
        added.extend(own.draw("m", [drawn(f"text {number + step}") for step in range(4)]) for number in range(20))

    threads = [threading.Thread(target=draw, args=(replica.audit,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for replica in replicas:
        replica.close()
    assert sum(added) == 23
    assert sorted(texts(audit.items("m"))) == sorted(f"text {number}" for number in range(23))


def test_a_model_that_nobody_declared_has_no_audit(audit):
    with pytest.raises(NotFound, match="unknown model 'nobody'"):
        audit.draw("nobody", [drawn("one")])


# --- labels --------------------------------------------------------------------------------------------------------------


def test_a_correction_by_somebody_who_may_label_is_the_label_of_its_text(registry, audit):
    audit.draw("m", [drawn("one"), drawn("two")])
    registry.feedback.add("m", [label("One ", "a"), label("not drawn", "b")])
    [first, second] = audit.items("m")
    assert (first.example, first.done) == ({"text": "One ", "label": "a"}, True)
    assert (second.example, second.done) == (None, False)
    assert registry.feedback.count_after("m", 0) == 1


def test_a_correction_by_anybody_else_is_stored_and_labels_nothing(registry, audit):
    audit.draw("m", [drawn("one")])
    assert registry.feedback.add("m", [label("one", "a", labels=False)]).accepted == 1
    assert answers(audit) == [None]


def test_a_label_for_another_model_labels_nothing(registry, audit):
    audit.draw("m", [drawn("one")])
    registry.feedback.add("other", [label("one", "a")])
    assert answers(audit) == [None]


def test_the_newest_label_of_a_text_counts_within_a_request_and_from_one_to_the_next(registry, audit):
    audit.draw("m", [drawn("one")])
    registry.feedback.add("m", [label("one", "a"), label("one", "b")])
    assert answers(audit) == ["b"]
    registry.feedback.add("m", [label("one", "c")])
    assert answers(audit) == ["c"]
    assert registry.feedback.count_after("m", 0) == 2


def test_a_label_that_is_corrected_or_withdrawn_no_longer_judges(registry, audit):
    audit.draw("m", [drawn("one")])
    registry.feedback.add("m", [label("one", "a", "x")])
    registry.feedback.add("m", [label("one", "b", "x")])
    assert answers(audit) == ["b"]
    registry.feedback.add("m", [label("another text", "b", "x")])
    assert answers(audit) == [None]
    registry.feedback.add("m", [label("one", "c", "y")])
    assert registry.feedback.withdraw("m", ["y"], sender=None, actor=None) == 1
    assert answers(audit) == [None]


def test_many_corrections_at_once_label_what_was_drawn(registry, audit):
    audit.draw("m", [drawn(f"text {number}") for number in range(0, 1200, 100)])
    added = registry.feedback.add("m", [label(f"text {number}", str(number)) for number in range(1200)])
    assert added.accepted == 1200
    assert answers(audit) == [str(number) for number in range(0, 1200, 100)]


def test_a_text_that_is_undecidable_waits_no_more_and_a_label_that_it_gets_later_counts(registry, audit):
    audit.draw("m", [drawn("one"), drawn("two")])
    first, second = audit.items("m")
    audit.mark_undecidable("m", first.id)
    assert audit.waiting("m") == [second]
    assert (audit.get("m", first.id).undecidable, audit.get("m", first.id).done) == (True, True)
    registry.feedback.add("m", [label("one", "a")])
    assert answers(audit) == ["a", None]
    assert not audit.get("m", first.id).undecidable


def test_a_label_is_taken_back_by_calling_its_text_undecidable(registry, audit):
    audit.draw("m", [drawn("one")])
    registry.feedback.add("m", [label("one", "a")])
    audit.mark_undecidable("m", audit.items("m")[0].id)
    [item] = audit.items("m")
    assert (item.example, item.undecidable) == (None, True)
    assert registry.feedback.count_after("m", 0) == 1


def test_what_waits_is_paged_in_the_order_of_the_draw(registry, audit):
    audit.draw("m", [drawn(f"text {number}") for number in range(7)])
    audit.draw("other", [drawn("stranger")])
    registry.feedback.add("m", [label("text 2", "a")])
    pages, after = [], 0
    while page := audit.waiting("m", limit=3, after=after):
        pages.append(texts(page))
        after = page[-1].id
    assert pages == [["text 0", "text 1", "text 3"], ["text 4", "text 5", "text 6"]]


def test_texts_with_nul_characters_come_back_whole(audit):
    audit.draw("m", [drawn("a\0b")])
    assert texts(audit.items("m")) == ["a\0b"]


# --- forgetting ----------------------------------------------------------------------------------------------------------


def test_old_texts_that_nobody_labelled_lose_their_input_and_keep_their_place(registry, audit):
    audit.draw("m", [drawn("labelled"), drawn("not labelled"), drawn("undecidable")])
    audit.draw("other", [drawn("stranger")])
    registry.feedback.add("m", [label("labelled", "a")])
    audit.mark_undecidable("m", audit.items("m")[2].id)
    now = datetime.now(UTC)
    assert audit.forget("m", now - DAY) == 0
    assert audit.forget("m", now + DAY) == 2
    assert audit.forget("m", now + DAY) == 0  # they are forgotten already
    assert texts(audit.items("m")) == ["labelled", "", ""]
    assert [item.done for item in audit.items("m")] == [True, False, True]
    assert audit.waiting("m") == []
    assert texts(audit.items("other")) == ["stranger"]


def test_a_forgotten_text_is_not_drawn_again_and_stays_held_out(registry, audit):
    audit.draw("m", [drawn("one")])
    audit.forget("m", datetime.now(UTC) + DAY)
    assert audit.draw("m", [drawn("one")]) == 0
    assert registry.datasets.ledger("m") == {fingerprint("one"): "holdout"}


def test_a_forgotten_text_takes_a_label_that_comes_with_its_input(registry, audit):
    audit.draw("m", [drawn("one")])
    audit.forget("m", datetime.now(UTC) + DAY)
    registry.feedback.add("m", [label("one", "a")])
    assert answers(audit) == ["a"]
