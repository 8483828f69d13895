"""Pairs of versions: gains after exchanging answers are those of the exchanged answers, written out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from baton.tasks.f1 import MacroF1, RatioF1, micro_f1
from training.judge.pairs import Pair, pair_of

LABELS = ("red", "green", "blue", "black")


def macro(truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: tuple[str, ...] = LABELS) -> MacroF1:
    return MacroF1(truth=truth.astype(np.int32), predicted=predicted.astype(np.int32), labels=labels)


def versions(seed: int, rows: int = 40) -> list[NDArray[np.int64]]:
    """Return truths of the first three labels, and two versions' answers of all four."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, rows)
    return [truth, *(np.where(rng.random(rows) < 0.8, truth, rng.integers(0, 4, rows)) for _ in range(2))]


def counts(seed: int, rows: int = 40) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    true = rng.poisson(1, rows)
    right = rng.binomial(true, 0.7)
    return np.stack([right, right + rng.poisson(0.4, rows), true], axis=1).astype(np.int32)


def gains_by_exchange(pair: Pair, groups: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the gains [r] after exchanging the groups in ``chosen`` [r, groups]."""
    rows = np.arange(len(groups))
    return pair.swapped(chosen.astype(np.float32) @ pair.transfers(rows, groups, chosen.shape[1]))


def choices(groups: int) -> NDArray[np.bool_]:
    return np.array(list(product([False, True], repeat=groups)))


# --- exchanges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_exchanging_answers_gives_the_macro_f1_of_the_exchanged_answers(seed):
    truth, ours, theirs = versions(seed)
    groups = np.arange(40) % 6
    chosen = choices(6)
    gains = gains_by_exchange(pair_of(macro(truth, ours), macro(truth, theirs)), groups, chosen)
    for exchange, gain in zip(chosen, gains, strict=True):
        moved = exchange[groups]
        f1, champion_f1 = (
            f1_score(truth, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
            for predicted in (np.where(moved, theirs, ours), np.where(moved, ours, theirs))
        )
        assert gain == pytest.approx(f1 - champion_f1, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_exchanging_answers_gives_the_ratio_of_the_exchanged_answers(seed):
    ours, theirs = counts(seed), counts(seed + 100)
    groups = np.arange(40) % 6
    chosen = choices(6)
    gains = gains_by_exchange(pair_of(micro_f1(ours), micro_f1(theirs)), groups, chosen)
    for exchange, gain in zip(chosen, gains, strict=True):
        moved = exchange[groups][:, None]
        (right, found, true), (other_right, other_found, other_true) = (
            np.where(moved, *pair).sum(0) for pair in ((theirs, ours), (ours, theirs))
        )
        assert gain == pytest.approx(2 * right / (found + true) - 2 * other_right / (other_found + other_true), abs=1e-12)


def test_exchanging_nothing_keeps_the_gain_and_exchanging_all_turns_it_round():
    truth, ours, theirs = versions(4)
    for pair in (pair_of(macro(truth, ours), macro(truth, theirs)), pair_of(micro_f1(counts(4)), micro_f1(counts(5)))):
        nothing, everything = gains_by_exchange(pair, np.arange(40), np.array([[False] * 40, [True] * 40]))
        assert abs(pair.gain) > 1e-3
        assert (nothing, everything) == pytest.approx((pair.gain, -pair.gain))


def test_a_version_that_finds_nothing_after_an_exchange_has_f1_zero():
    pair = pair_of(*(RatioF1(numerators=np.array(row), denominators=np.array(row)) for row in ([0.0, 0.0], [0.0, 2.0])))
    assert pair.gain == -1
    assert gains_by_exchange(pair, np.array([0, 1]), choices(2)).tolist() == [-1, 1, -1, 1]


# --- which rows differ ---------------------------------------------------------------------------------------------------


def test_two_different_wrong_answers_differ():
    truth = np.array([0, 0, 0])
    pair = pair_of(macro(truth, np.array([0, 1, 1])), macro(truth, np.array([0, 1, 2])))
    assert pair.differing().tolist() == [False, False, True]


def test_answers_that_score_the_same_do_not_differ():
    ours = micro_f1(np.array([[1, 1, 2], [0, 1, 1], [1, 2, 1]], dtype=np.int32))
    theirs = micro_f1(np.array([[1, 1, 2], [1, 1, 1], [1, 1, 1]], dtype=np.int32))
    assert pair_of(ours, theirs).differing().tolist() == [False, True, True]


# --- labels and parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [("black", "blue", "green", "red"), ("blue", "yellow", "red", "green", "black")])
def test_versions_with_their_labels_in_another_order_are_compared_by_name(labels):
    truth, ours, theirs = versions(6)
    same_order = pair_of(macro(truth, ours), macro(truth, theirs))
    position = np.array([labels.index(label) for label in LABELS])
    other_order = pair_of(macro(truth, ours), macro(position[truth], position[theirs], labels))
    assert other_order.gain == pytest.approx(same_order.gain, abs=1e-12)
    assert other_order.differing().tolist() == same_order.differing().tolist()
    assert other_order.influence == pytest.approx(same_order.influence)
    chosen = choices(5)
    exchanged = [gains_by_exchange(pair, np.arange(40) % 5, chosen) for pair in (same_order, other_order)]
    assert exchanged[1] == pytest.approx(exchanged[0], abs=1e-12)


def test_a_pair_of_a_part_is_the_pair_of_its_rows():
    truth, ours, theirs = versions(7)
    part = pair_of(macro(truth, ours), macro(truth, theirs)).part(np.arange(40) < 15)
    written_out = pair_of(macro(truth[:15], ours[:15]), macro(truth[:15], theirs[:15]))
    assert part.gain == pytest.approx(written_out.gain)
    assert part.differing().tolist() == written_out.differing().tolist()
    ratio = pair_of(micro_f1(counts(7)), micro_f1(counts(8))).part(np.arange(15))
    assert ratio.gain == pytest.approx(pair_of(micro_f1(counts(7)[:15]), micro_f1(counts(8)[:15])).gain)


def test_the_influences_on_a_gain_add_up_to_zero():
    truth, ours, theirs = versions(9)
    for pair in (pair_of(macro(truth, ours), macro(truth, theirs)), pair_of(micro_f1(counts(9)), micro_f1(counts(10)))):
        assert np.abs(pair.influence).max() > 1e-3
        assert abs(pair.influence.sum()) < 1e-12


def test_metrics_of_two_tasks_make_no_pair():
    truth, ours, _ = versions(11)
    with pytest.raises(AssertionError, match="two tasks"):
        pair_of(macro(truth, ours), micro_f1(counts(11)))
