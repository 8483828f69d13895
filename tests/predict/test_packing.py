"""How windows are cut into forward passes."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from baton.predict.packing import pack

widths = st.lists(st.integers(1, 16).map(lambda step: 8 * step), min_size=1, max_size=60)


def cost(passes, sizes, overhead):
    return sum(overhead + max(sizes[index] for index in chosen) * len(chosen) for chosen in passes)


@given(widths, st.integers(8, 4096), st.integers(0, 1000))
def test_every_window_is_in_exactly_one_pass_and_no_pass_exceeds_the_budget(sizes, budget, overhead):
    passes = [chosen.tolist() for chosen in pack(np.array(sizes), budget, overhead)]
    assert sorted(itertools.chain.from_iterable(passes)) == list(range(len(sizes)))
    for chosen in passes:
        assert len(chosen) == 1 or max(sizes[index] for index in chosen) * len(chosen) <= budget


@given(st.lists(st.integers(1, 5).map(lambda step: 8 * step), min_size=1, max_size=7), st.integers(0, 200))
def test_no_other_cut_of_the_sorted_windows_is_cheaper(sizes, overhead):
    ordered = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    cheapest = min(
        cost([ordered[a:b] for a, b in itertools.pairwise([0, *cuts, len(sizes)])], sizes, overhead)
        for count in range(len(sizes))
        for cuts in itertools.combinations(range(1, len(sizes)), count)
    )
    found = cost([chosen.tolist() for chosen in pack(np.array(sizes), 10**9, overhead)], sizes, overhead)
    assert found == cheapest


def test_a_long_text_is_not_padded_onto_short_ones():
    passes = [chosen.tolist() for chosen in pack(np.array([8] * 40 + [512]), 10**6, 96)]
    assert passes == [[40], list(range(40))]


def test_windows_of_like_length_share_a_pass():
    passes = [chosen.tolist() for chosen in pack(np.array([16, 24, 16, 24]), 10**6, 96)]
    assert passes == [[1, 3, 0, 2]]
