"""Matches are counted for each champion until half of the holdout is new, and the same match keeps its number."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from baton.errors import NotFound
from baton.store.registry import Registry


@pytest.fixture
def url(either_url: str) -> str:
    """Every test here runs on both databases."""
    return either_url


def texts(first: int, last: int) -> list[str]:
    """Fingerprints of the texts from ``first`` up to ``last``."""
    return [f"{number:064d}" for number in range(first, last)]


def play(registry: Registry, candidate: int, groups: list[str], champion: int | None = 1, model: str = "m") -> int:
    """The number of a match on the holdout that has these texts."""
    name = f"{groups[0]}{len(groups)}"[:64]
    return registry.matches.open(model, champion=champion, candidate=candidate, holdout_hash=name, groups=groups)


def test_each_candidate_against_one_champion_is_the_next_match(registry):
    assert [play(registry, candidate, texts(0, 10)) for candidate in (2, 3, 4)] == [1, 2, 3]


def test_the_same_candidate_on_the_same_holdout_is_no_new_match(registry):
    assert [play(registry, candidate, texts(0, 10)) for candidate in (2, 3, 2, 3, 4)] == [1, 2, 1, 2, 3]


def test_a_new_champion_starts_the_count_and_a_rollback_finds_the_old_one(registry):
    holdout = texts(0, 10)
    assert [play(registry, candidate, holdout) for candidate in (2, 3)] == [1, 2]
    assert [play(registry, candidate, holdout, champion=3) for candidate in (4, 5)] == [1, 2]
    assert play(registry, 6, holdout) == 3


def test_first_versions_are_counted_too(registry):
    assert [play(registry, candidate, texts(0, 10), champion=None) for candidate in (1, 2)] == [1, 2]


def test_a_holdout_that_grows_a_little_every_night_goes_on_counting(registry):
    """Each night another hash: counting by the hash would make every match the first."""
    numbers = [play(registry, night + 2, texts(0, 200 + 4 * night)) for night in range(50)]
    assert numbers == list(range(1, 51))


def test_the_count_starts_over_when_half_of_the_texts_joined_after_the_first_match(registry):
    assert [play(registry, candidate, texts(0, 10)) for candidate in (2, 3)] == [1, 2]
    assert play(registry, 4, texts(0, 19)) == 3
    assert play(registry, 5, texts(0, 20)) == 1
    assert play(registry, 6, texts(0, 21)) == 2


def test_a_holdout_that_comes_back_is_not_new(registry):
    first, second = texts(0, 10), texts(10, 20)
    assert [play(registry, candidate, first) for candidate in (2, 3)] == [1, 2]
    assert play(registry, 4, second) == 1
    assert play(registry, 5, first) == 2
    assert play(registry, 6, second) == 3


def test_a_holdout_that_shrinks_does_not_start_over(registry):
    assert play(registry, 2, texts(0, 10)) == 1
    assert play(registry, 3, texts(0, 3)) == 2


def test_models_are_counted_apart(registry):
    registry.declare_model("other")
    assert [play(registry, 2, texts(0, 10)), play(registry, 2, texts(0, 10), model="other")] == [1, 1]


def test_an_unknown_model_has_no_matches(registry):
    with pytest.raises(NotFound):
        play(registry, 2, texts(0, 10), model="nobody")


def test_matches_that_are_opened_at_once_have_different_numbers(registry):
    barrier = threading.Barrier(8, timeout=60)

    def open_one(candidate: int) -> int:
        barrier.wait()
        return play(registry, candidate, texts(0, 10))

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(open_one, range(2, 10))) == list(range(1, 9))
