"""Comparisons: p-values agree with scipy's tests, standard errors with the jackknife."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, permutation_test
from sklearn.metrics import f1_score

from baton.tasks.f1 import MacroF1, RatioF1, micro_f1
from training.judge.comparison import MIN_DRAWS, compare
from training.judge.pairs import Pair, pair_of

LABELS = ("red", "green", "blue")


def each_alone(rows: int) -> NDArray[np.int32]:
    return np.arange(rows, dtype=np.int32)


def means(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Pair:
    ones = np.ones(len(ours))
    return pair_of(RatioF1(numerators=ours, denominators=ones), RatioF1(numerators=theirs, denominators=ones))


def wins_and_losses(wins: int, losses: int, rows: int) -> Pair:
    """Return a pair of accuracies that differ on ``wins`` + ``losses`` of the rows."""
    row = np.arange(rows)
    return means((row < wins).astype(float), ((row >= wins) & (row < wins + losses)).astype(float))


def macro(truth: NDArray[np.int64], ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> Pair:
    return pair_of(
        *(MacroF1(truth=truth.astype(np.int32), predicted=it.astype(np.int32), labels=LABELS) for it in (ours, theirs))
    )


def versions(seed: int, rows: int, accuracies: tuple[float, float]) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, rows)
    return [truth, *(np.where(rng.random(rows) < right, truth, rng.integers(0, 3, rows)) for right in accuracies)]


def entities(seed: int, rows: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    true = rng.poisson(2, rows)
    rights = [rng.binomial(true, recall) for recall in (0.8, 0.7)]
    return [np.stack([right, right + rng.poisson(0.5, rows), true], axis=1).astype(np.int32) for right in rights]


# --- exchanges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (3, 0), (5, 0), (6, 0), (7, 1), (8, 4), (2, 5), (6, 6), (12, 0)])
def test_the_p_value_of_right_and_wrong_answers_is_the_exact_sign_tests(wins, losses):
    compared = compare(wins_and_losses(wins, losses, 100), each_alone(100), level=0.025)
    assert compared.differing == wins + losses
    assert compared.p_swap == pytest.approx(binomtest(wins, wins + losses, alternative="greater").pvalue, abs=1e-12)


def test_the_p_value_of_a_mean_is_scipys_exact_one():
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(2, 9, 10) / 8, rng.integers(0, 7, 10) / 8
    differ = ours != theirs
    expected = permutation_test(
        (ours[differ], theirs[differ]),
        lambda one, other: one.mean() - other.mean(),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    ).pvalue
    assert 0 < expected < 0.3
    assert compare(means(ours, theirs), each_alone(10), level=0.025).p_swap == pytest.approx(expected, abs=1e-12)


def test_the_p_value_of_macro_f1_is_scipys_exact_one():
    truth, ours, theirs = versions(3, 10, (0.9, 0.4))

    def gain(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        return score(one) - score(other)

    def score(predicted: NDArray[np.int64]) -> float:
        hits = [2 * np.sum((truth == k) & (predicted == k)) / (np.sum(truth == k) + np.sum(predicted == k)) for k in (0, 1, 2)]
        return float(np.mean(hits))

    reference = permutation_test(
        (ours, theirs), gain, permutation_type="samples", alternative="greater", n_resamples=np.inf, vectorized=False
    )
    compared = compare(macro(truth, ours, theirs), each_alone(10), level=0.025)
    assert compared.gain == pytest.approx(reference.statistic)
    assert 0 < reference.pvalue < 0.3
    assert compared.p_swap == pytest.approx(reference.pvalue, abs=1e-12)


@pytest.mark.parametrize(("wins", "losses"), [(14, 6), (20, 8), (30, 20)])
def test_the_p_value_of_random_exchanges_is_near_the_exact_one(wins, losses):
    exact = binomtest(wins, wins + losses, alternative="greater").pvalue
    random = compare(wins_and_losses(wins, losses, 200), each_alone(200), level=0.5).p_swap
    assert random == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / MIN_DRAWS))


def test_the_p_value_of_random_exchanges_of_entities_is_near_scipys():
    ours, theirs = entities(3, 60)

    def gain(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        (right, found, true), (other_right, other_found, other_true) = ours_or_theirs[one].sum(0), ours_or_theirs[other].sum(0)
        return 2 * right / (found + true) - 2 * other_right / (other_found + other_true)

    ours_or_theirs = np.concatenate([ours, theirs])
    reference = permutation_test(
        (np.arange(60), np.arange(60, 120)),
        gain,
        permutation_type="samples",
        alternative="greater",
        n_resamples=4000,
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    compared = compare(pair_of(micro_f1(ours), micro_f1(theirs)), each_alone(60), level=0.5)
    assert compared.gain == pytest.approx(reference.statistic)
    assert 0.001 < reference.pvalue < 0.4
    error = np.sqrt(reference.pvalue * (1 - reference.pvalue) * (1 / MIN_DRAWS + 1 / 4000))
    assert compared.p_swap == pytest.approx(reference.pvalue, abs=4 * error)


def test_a_p_value_of_random_exchanges_is_never_zero():
    compared = compare(wins_and_losses(60, 0, 100), each_alone(100), level=0.025)
    assert compared.p_swap == pytest.approx(1 / (MIN_DRAWS + 1))


def test_a_smaller_level_draws_more_exchanges():
    compared = compare(wins_and_losses(60, 0, 100), each_alone(100), level=0.001)
    assert compared.p_swap == pytest.approx(1 / 50_001)


def test_drawing_ends_when_the_p_value_cannot_pass_any_more():
    """Three large gains among many tiny losses: one exchange of eight keeps all three."""
    row = np.arange(1_000)
    pair = means(np.where(row < 3, 1.0, 0.0), np.where(row < 3, 0.0, 1e-5))
    stopped, drawn_to_the_end = (compare(pair, each_alone(1_000), level=level) for level in (0.05, 0.5))
    assert stopped.p_normal < 0.05
    assert stopped.p_swap == pytest.approx(1 / 8, abs=0.05)
    assert drawn_to_the_end.p_swap == pytest.approx(1 / 8, abs=0.02)
    assert stopped.p_swap != drawn_to_the_end.p_swap


@pytest.mark.parametrize("pair", [wins_and_losses(0, 0, 50), means(np.full(50, 0.3), np.full(50, 0.3))])
def test_versions_that_never_differ_have_a_p_value_of_one(pair):
    compared = compare(pair, each_alone(50), level=0.025)
    assert (compared.differing, compared.gain, compared.standard_error, compared.p) == (0, 0, 0, 1)


def test_the_same_seed_gives_the_same_p_value_and_another_seed_another_one():
    truth, ours, theirs = versions(5, 300, (0.85, 0.8))
    pair = macro(truth, ours, theirs)
    first, again, other = (compare(pair, each_alone(300), level=0.5, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first.p_swap != other.p_swap
    assert first.p_swap == pytest.approx(other.p_swap, abs=0.03)


def test_without_a_level_nothing_is_exchanged():
    compared = compare(wins_and_losses(10, 5, 100), each_alone(100))
    assert compared.p_swap is None
    assert compared.p == compared.p_normal > 0


def test_above_400_differing_groups_of_equal_weight_the_normal_test_decides_alone():
    few, many = (compare(wins_and_losses(wins, 180, 2000), each_alone(2000), level=0.1) for wins in (215, 225))
    assert few.p_swap == pytest.approx(few.p_normal, abs=0.01)
    assert (many.p_swap, many.p) == (None, many.p_normal)


def test_the_normal_p_value_is_the_upper_tail_at_gain_over_standard_error():
    compared = compare(wins_and_losses(30, 12, 500), each_alone(500), level=0.025)
    assert compared.p_normal == pytest.approx(norm.sf(compared.gain / compared.standard_error))


def test_of_rare_large_losses_and_many_small_gains_the_normal_p_value_counts_as_it_is_larger():
    ours = np.full(500, 0.51)
    ours[:2] = -0.5
    compared = compare(means(ours, np.full(500, 0.5)), each_alone(500), level=0.025)
    assert compared.p_swap == pytest.approx(1 / (MIN_DRAWS + 1))
    assert compared.p == compared.p_normal > 0.015


def test_of_few_gains_without_a_loss_the_p_value_of_exchanges_counts_as_it_is_larger():
    compared = compare(wins_and_losses(5, 0, 1000), each_alone(1000), level=0.025)
    assert compared.p == compared.p_swap == 1 / 32
    assert compared.p_normal < 0.025


def test_the_lower_bound_is_the_gain_minus_standard_errors():
    compared = compare(wins_and_losses(30, 12, 500), each_alone(500))
    assert compared.lower_bound(0.025) == pytest.approx(compared.gain - 1.959964 * compared.standard_error)


# --- groups --------------------------------------------------------------------------------------------------------------


def test_copies_of_a_text_are_exchanged_together_so_that_they_add_no_evidence():
    truth, ours, theirs = versions(3, 10, (0.9, 0.4))
    alone = compare(macro(truth, ours, theirs), each_alone(10), level=0.025)
    copied = macro(*(np.repeat(rows, 7) for rows in (truth, ours, theirs)))
    together = compare(copied, np.repeat(each_alone(10), 7), level=0.025)
    assert (together.groups, together.differing) == (alone.groups, alone.differing)
    assert (together.gain, together.standard_error) == pytest.approx((alone.gain, alone.standard_error))
    assert together.p_swap == alone.p_swap
    assert compare(copied, each_alone(70), level=0.025).p < alone.p


def test_a_group_with_one_differing_row_differs_as_a_whole():
    compared = compare(wins_and_losses(3, 0, 40), np.repeat(each_alone(10), 4), level=0.025)
    assert (compared.groups, compared.differing, compared.p_swap) == (10, 1, 0.5)


# --- standard errors -----------------------------------------------------------------------------------------------------


def jackknife(values: list[float]) -> float:
    """Return the standard error from the values without each group in turn."""
    return float(np.sqrt((len(values) - 1) * np.var(values)))


@pytest.mark.parametrize("copies", [1, 3])
def test_the_standard_error_of_a_macro_f1_gain_is_the_jackknifes(copies):
    truth, ours, theirs = versions(8, 300, (0.9, 0.8))
    groups = np.repeat(each_alone(300 // copies), copies)
    without = []
    for group in range(300 // copies):
        rest = groups != group
        scores = [f1_score(truth[rest], it[rest], average="macro") for it in (ours, theirs)]
        without.append(scores[0] - scores[1])
    assert compare(macro(truth, ours, theirs), groups).standard_error == pytest.approx(jackknife(without), rel=0.02)


@pytest.mark.parametrize("copies", [1, 3])
def test_the_standard_error_of_a_ratios_gain_is_the_jackknifes(copies):
    ours, theirs = entities(9, 300)
    groups = np.repeat(each_alone(300 // copies), copies)
    without = []
    for group in range(300 // copies):
        left = [it[groups != group].sum(0) for it in (ours, theirs)]
        scores = [2 * right / (found + true) for right, found, true in left]
        without.append(scores[0] - scores[1])
    compared = compare(pair_of(micro_f1(ours), micro_f1(theirs)), groups)
    assert compared.standard_error == pytest.approx(jackknife(without), rel=0.02)


def test_the_standard_error_of_a_difference_of_means_is_the_paired_one():
    rng = np.random.default_rng(10)
    ours, theirs = rng.random(50), rng.random(50)
    expected = np.std(ours - theirs, ddof=1) / np.sqrt(50)
    assert compare(means(ours, theirs), each_alone(50)).standard_error == pytest.approx(expected)
