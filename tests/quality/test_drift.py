"""Drift: the same population raises no alarm, another one does, and small samples are given the benefit of the doubt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from baton.quality import drift

LABELS = [f"label-{number}" for number in range(30)]


def answers(source: np.random.Generator, count: int, *, first: int = 0) -> tuple[list[str], list[float], list[int]]:
    """Answers of one kind of traffic; another ``first`` makes other labels frequent."""
    places = (first + source.geometric(0.15, count) - 1) % len(LABELS)
    return (
        [LABELS[place] for place in places],
        source.beta(8, 2, count).tolist(),
        source.lognormal(3, 0.5, count).astype(int).tolist(),
    )


def test_traffic_like_the_holdout_raises_no_alarm_in_a_thousand_windows() -> None:
    source = np.random.default_rng(0)
    reference = drift.make_reference(*answers(source, 400))
    for _ in range(1000):
        assert not [found for found in drift.compare(reference, *answers(source, 100)) if found.drifted]


@pytest.mark.parametrize("feature", ["label", "confidence", "length"])
def test_a_change_of_one_feature_raises_its_alarm_alone(feature: str) -> None:
    source = np.random.default_rng(1)
    reference = drift.make_reference(*answers(source, 2000))
    labels, confidences, lengths = answers(source, 500)
    if feature == "label":
        labels = answers(source, 500, first=10)[0]
    elif feature == "confidence":
        confidences = [value / 2 for value in confidences]
    else:
        lengths = [length * 3 for length in lengths]
    found = drift.compare(reference, labels, confidences, lengths)
    assert [one.feature for one in found if one.drifted] == [feature]


def test_labels_never_seen_before_count_as_drift() -> None:
    source = np.random.default_rng(2)
    labels, confidences, lengths = answers(source, 500)
    reference = drift.make_reference(labels, confidences, lengths)
    new = ["invented" if place % 2 else label for place, label in enumerate(labels)]
    assert [one.feature for one in drift.compare(reference, new, confidences, lengths) if one.drifted] == ["label"]


def test_a_shift_between_labels_none_of_which_is_frequent_counts_as_drift() -> None:
    """Of 77 labels none has a bin of its own, and yet one of them may become the world's favourite."""
    many = [f"label-{number:02}" for number in range(77)]
    source = np.random.default_rng(5)
    before, same = (source.choice(many, size=size).tolist() for size in (3080, 500))
    after = [many[60] if chance < 0.3 else label for chance, label in zip(source.random(500), same, strict=True)]
    reference = drift.make_reference(before, [None] * len(before), [10] * len(before))
    moved = {name: drift.compare(reference, labels, [], [10] * 500) for name, labels in (("same", same), ("after", after))}
    assert [one.feature for one in moved["same"] if one.drifted] == []
    assert [one.feature for one in moved["after"] if one.drifted] == ["label"]


def test_no_label_is_in_two_bins_and_bins_hold_about_equally_many() -> None:
    counts = {"often": 500, **{f"label-{number}": 50 for number in range(10)}}
    places = drift._label_bins(counts)
    held = [sum(count for name, count in counts.items() if places[name] == place) for place in range(places[drift.OTHER])]
    assert held[0] == 500
    assert held[1:] == [100, 100, 100, 100, 100]
    assert places.keys() == {*counts, drift.OTHER}


def test_tasks_without_labels_and_confidences_are_watched_by_length() -> None:
    reference = drift.make_reference([None] * 60, [None] * 60, list(range(60)))
    assert list(reference) == ["length"]
    [found] = drift.compare(reference, [None] * 60, [None] * 60, list(range(100, 160)))
    assert found.drifted


def test_no_answers_are_no_drift() -> None:
    reference = drift.make_reference(["a"] * 9, [0.5] * 9, [3] * 9)
    assert drift.compare(reference, [], [], []) == []


def test_the_index_is_the_formula_worked_by_hand() -> None:
    now, reference = np.array([29.5, 69.5]), np.array([49.5, 49.5])  # a half is added to each
    expected = (0.3 - 0.5) * np.log(0.3 / 0.5) + (0.7 - 0.5) * np.log(0.7 / 0.5)
    assert drift.population_stability(now, reference) == pytest.approx(expected)


def test_the_alarm_rises_where_chance_alone_could_reach_it() -> None:
    assert drift.alarm_level(10, 100_000, 100_000) == drift.ALARM
    assert drift.alarm_level(10, 50, 50) == pytest.approx(chi2.ppf(drift.CERTAINTY, 9) / 25)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 1), st.integers(0, 9)), min_size=1))
def test_a_reference_compared_with_itself_has_not_moved(rows: list[tuple[str, float, int]]) -> None:
    labels, confidences, lengths = (list(column) for column in zip(*rows, strict=True))
    reference = drift.make_reference(labels, confidences, lengths)
    for found in drift.compare(reference, labels, confidences, lengths):
        assert found.psi == pytest.approx(0, abs=1e-9)
        assert found.now == found.reference == len(rows)
