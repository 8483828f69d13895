"""Data set versions in the registry, on real databases: numbered once, and a ledger of sides that only grows."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime

import pytest
import sqlalchemy as sa

from baton.errors import Conflict, NotFound
from baton.store.records import DatasetVersion
from baton.store.registry import Registry
from tests.support.stores import raw_sql


@pytest.fixture
def url(either_url: str) -> str:
    """Every test here runs on both databases."""
    return either_url


@pytest.fixture
def registry(registry: Registry) -> Registry:
    """With a second model, ``other``."""
    registry.declare_model("other")
    return registry


def version(name: str, *, feedback_until: int = 0) -> DatasetVersion:
    return DatasetVersion(
        hash=name * 64,
        holdout_hash="h" * 64,
        uri=f"models/m/datasets/{name * 64}",
        labels=("billing", "日本"),
        train_rows=4,
        holdout_rows=2,
        removed_leaks=1,
        removed_duplicates=0,
        sources={"train": "t.jsonl", "holdout": "0.2"},
        counts={
            "train": {"base": {"billing": 3}, "feedback": {"日本": 1}},
            "holdout": {"base": {"billing": 2}, "feedback": {}},
        },
        conflicts={"policy": "latest", "texts": 0, "dropped": 0, "examples": []},
        quarantined=({"where": "feedback 7", "reason": "because"},),
        quarantined_rows=1,
        feedback_until=feedback_until,
    )


def test_versions_are_numbered_by_model_and_know_the_one_before(registry):
    first = registry.datasets.add("m", version("a"), {})
    second = registry.datasets.add("m", version("b"), {})
    other = registry.datasets.add("other", version("a"), {})
    assert [(it.number, it.previous) for it in (first, second, other)] == [(1, None), (2, 1), (1, None)]
    assert registry.datasets.latest("m") == second
    assert registry.datasets.latest("other") == other


def test_a_version_comes_back_as_it_was_recorded(registry):
    recorded = registry.datasets.add("m", version("a"), {})
    assert replace(recorded, number=None, created_at=None) == version("a")
    assert datetime.fromisoformat(recorded.created_at).tzinfo is not None
    assert registry.datasets.get("m", 1) == recorded
    assert json.loads(json.dumps(asdict(recorded)))["counts"] == recorded.counts


def test_the_same_content_has_the_same_number_again_and_the_newer_account(registry):
    first = registry.datasets.add("m", version("a", feedback_until=5), {})
    registry.datasets.add("m", version("b", feedback_until=9), {})
    again = registry.datasets.add("m", replace(version("a", feedback_until=12), removed_leaks=99), {})
    assert (again.number, again.previous, again.created_at, again.removed_leaks) == (1, None, first.created_at, 99)
    assert registry.datasets.get("m", 1) == replace(first, feedback_until=12, removed_leaks=99)
    less = registry.datasets.add("m", version("a", feedback_until=3), {})
    assert (less.feedback_until, less.removed_leaks) == (12, 1)
    assert registry.datasets.get("m", 1) == less
    assert [it.number for it in registry.datasets.list("m")] == [2, 1]


def test_data_that_comes_back_is_the_latest_again_and_what_follows_knows_it_as_the_one_before(registry):
    for name, until in (("a", 1), ("b", 2), ("a", 3)):
        registry.datasets.add("m", version(name, feedback_until=until), {})
    latest = registry.datasets.latest("m")
    assert (latest.number, latest.feedback_until) == (1, 3)
    assert (registry.datasets.add("m", version("c"), {}).previous, registry.datasets.latest("m").number) == (1, 3)
    assert [it.number for it in registry.datasets.list("m")] == [3, 2, 1]


def test_there_is_no_latest_version_before_the_first(registry):
    assert registry.datasets.latest("m") is None
    assert registry.datasets.list("m") == []
    assert registry.datasets.ledger("m") == {}


def test_versions_are_listed_newest_first_in_pages(registry):
    for name in "abcde":
        registry.datasets.add("m", version(name), {})
    page = registry.datasets.list("m", limit=2)
    assert [it.number for it in page] == [5, 4]
    assert [it.number for it in registry.datasets.list("m", limit=2, before=page[-1].number)] == [3, 2]


def test_a_version_that_does_not_exist_is_told_with_those_that_do(registry):
    with pytest.raises(NotFound, match="m has no data set 1; it has none yet; a training run freezes the first"):
        registry.datasets.get("m", 1)
    registry.datasets.add("m", version("a"), {})
    with pytest.raises(NotFound, match="m has no data set 2; its data sets go from 1 to 1"):
        registry.datasets.get("m", 2)
    with pytest.raises(NotFound, match="unknown model 'nobody'"):
        registry.datasets.add("nobody", version("a"), {})


def test_the_ledger_remembers_each_side_and_grows(registry):
    registry.datasets.add("m", version("a"), {"1": "train", "2": "holdout"})
    registry.datasets.add("m", version("b"), {"2": "holdout", "3": "train"})
    registry.datasets.add("m", version("b"), {"4": "holdout"})
    registry.datasets.add("other", version("b"), {"1": "holdout"})
    assert registry.datasets.ledger("m") == {"1": "train", "2": "holdout", "3": "train", "4": "holdout"}
    assert registry.datasets.ledger("other") == {"1": "holdout"}


def test_a_group_that_would_change_sides_is_refused_with_the_whole_version(registry):
    registry.datasets.add("m", version("a"), {"1" * 64: "train"})
    with pytest.raises(Conflict, match=r"m: 1 text would change splits, 1{12}… from train to holdout; .*freeze the data again"):
        registry.datasets.add("m", version("b"), {"0" * 64: "train", "1" * 64: "holdout"})
    assert registry.datasets.ledger("m") == {"1" * 64: "train"}
    assert registry.datasets.latest("m").number == 1


def test_a_version_that_cannot_be_recorded_leaves_no_side_behind(registry):
    broken = replace(version("a"), uri=None)
    with pytest.raises(Conflict, match="the registry refused the change"):
        registry.datasets.add("m", broken, {"1": "train"})
    assert registry.datasets.ledger("m") == {}


@pytest.mark.parametrize("statement", ["UPDATE sides SET side = 'train'", "DELETE FROM sides"])
def test_the_ledger_cannot_be_changed_even_by_raw_sql(registry, url, statement):
    registry.datasets.add("m", version("a"), {"1": "holdout"})
    with pytest.raises(sa.exc.DBAPIError, match="sides is append-only"):
        raw_sql(url, statement)
    assert registry.datasets.ledger("m") == {"1": "holdout"}


def test_versions_recorded_at_once_have_numbers_of_their_own_and_contradict_nowhere(registry):
    barrier = threading.Barrier(6, timeout=60)

    def add(number: int) -> object:
        barrier.wait()
        try:
            return registry.datasets.add("m", version("abcdef"[number]), {"1": ("train", "holdout")[number % 2]}).number
        except Conflict as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(add, range(6)))
    numbers = [result for result in results if isinstance(result, int)]
    assert sorted(numbers) == [1, 2, 3]
    assert len([result for result in results if isinstance(result, Conflict)]) == 3
    assert len(registry.datasets.list("m")) == 3


def test_a_ledger_larger_than_one_statement_is_written_whole(registry):
    many = {f"{number:064x}": "train" if number % 3 else "holdout" for number in range(25_000)}
    registry.datasets.add("m", version("a"), many)
    assert registry.datasets.ledger("m") == many
