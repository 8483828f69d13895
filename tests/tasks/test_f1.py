"""The two forms of a metric: their values, the influence of each row, and parts of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from baton.tasks.f1 import MacroF1, RatioF1, micro_f1

LABELS = ("red", "green", "blue", "black")


def macro(truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: tuple[str, ...] = LABELS) -> MacroF1:
    return MacroF1(truth=truth.astype(np.int32), predicted=predicted.astype(np.int32), labels=labels)


def answers(seed: int, rows: int = 60, accuracy: float = 0.7) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return truths of the first three labels, and answers of all four."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, rows)
    return truth, np.where(rng.random(rows) < accuracy, truth, rng.integers(0, 4, rows))


def counts(seed: int, rows: int = 60) -> NDArray[np.int32]:
    """Return random counts [rows, 3] of right, found and true entities."""
    rng = np.random.default_rng(seed)
    true = rng.poisson(2, rows)
    right = rng.binomial(true, 0.7)
    return np.stack([right, right + rng.poisson(0.5, rows), true], axis=1).astype(np.int32)


# --- macro-F1 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns_over_the_labels_that_are_true_somewhere(seed):
    truth, predicted = answers(seed)
    expected = f1_score(truth, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
    assert 3 in predicted
    assert macro(truth, predicted).value() == pytest.approx(expected, abs=1e-12)


def test_a_label_without_truth_rows_adds_no_f1_of_zero_to_the_mean():
    truth = np.arange(200) % 3
    predicted = truth.copy()
    predicted[0] = 3
    assert 0.99 < macro(truth, predicted).value() < 1


def test_an_answer_with_such_a_label_is_a_miss_for_the_true_label():
    truth = np.array([0, 0, 1, 1])
    metric = macro(truth, np.array([0, 3, 1, 1]))
    assert metric.by_label.tolist() == pytest.approx([2 / 3, 1, 0, 0])
    assert metric.value() == pytest.approx(5 / 6)


def test_the_labels_of_the_mean_do_not_depend_on_the_answers():
    truth, predicted = answers(0)
    right, always_one = macro(truth, truth), macro(truth, np.full_like(truth, 3))
    assert right.judged.tolist() == macro(truth, predicted).judged.tolist() == always_one.judged.tolist()
    assert (right.value(), always_one.value()) == (1, 0)


def test_macro_f1_does_not_depend_on_the_order_of_the_labels():
    truth, predicted = answers(1)
    metric = macro(truth, predicted)
    other = metric.with_labels(("black", "yellow", "blue", "green", "red"))
    assert other.value() == pytest.approx(metric.value(), abs=1e-12)
    by_name = dict(zip(other.labels, other.by_label, strict=True))
    assert [by_name[label] for label in LABELS] == pytest.approx(metric.by_label.tolist())
    assert by_name["yellow"] == 0


def test_labels_that_never_occur_may_be_left_out():
    metric = macro(np.array([0, 2]), np.array([0, 0]))
    other = metric.with_labels(("blue", "red"))
    assert (other.truth.tolist(), other.predicted.tolist()) == ([1, 0], [1, 1])
    assert other.value() == metric.value()


def test_a_part_is_judged_on_the_labels_that_are_true_in_it():
    truth, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 1])
    part = macro(truth, predicted).part(np.array([True, True, True, True, False]))
    assert part.value() == pytest.approx(f1_score(truth[:4], predicted[:4], average="macro"))
    assert macro(truth, predicted).part(np.array([0, 1, 2])).value() == 1


# --- ratios --------------------------------------------------------------------------------------------------------------


def test_micro_f1_is_twice_the_right_ones_by_the_found_and_the_true_ones():
    metric = micro_f1(np.array([[1, 2, 1], [0, 1, 3], [2, 2, 2]], dtype=np.int32))
    assert metric.value() == pytest.approx(2 * 3 / (5 + 6))


def test_micro_f1_is_scikit_learns_for_sets_of_labels():
    rng = np.random.default_rng(3)
    truth, found = rng.random((80, 6)) < 0.3, rng.random((80, 6)) < 0.4
    metric = micro_f1(np.stack([(truth & found).sum(1), found.sum(1), truth.sum(1)], axis=1).astype(np.int32))
    assert metric.value() == pytest.approx(f1_score(truth, found, average="micro"))


def test_a_mean_is_a_ratio_with_denominators_of_1():
    values = np.array([0.0, 0.5, 1.0, 0.25])
    assert RatioF1(numerators=values, denominators=np.ones(4)).value() == pytest.approx(values.mean())


def test_a_part_of_a_ratio_has_the_sums_of_its_rows():
    metric = micro_f1(np.array([[1, 2, 1], [0, 1, 3], [2, 2, 2]], dtype=np.int32))
    assert metric.part(np.array([0, 2])).value() == pytest.approx(2 * 3 / (4 + 3))


# --- influence -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_influences_on_a_metric_add_up_to_zero(seed):
    for metric in (macro(*answers(seed)), micro_f1(counts(seed))):
        influence = metric.influence()
        assert np.abs(influence).max() > 1e-3
        assert abs(influence.sum()) < 1e-12


def test_the_influence_of_a_row_on_macro_f1_is_the_derivative_by_its_weight():
    truth, predicted = answers(4)
    influence, step = macro(truth, predicted).influence(), 1e-5
    for row in range(len(truth)):
        up, down = (
            f1_score(truth, predicted, labels=[0, 1, 2], average="macro", zero_division=0, sample_weight=weights)
            for weights in (1 + step * (np.arange(60) == row), 1 - step * (np.arange(60) == row))
        )
        assert influence[row] == pytest.approx((up - down) / (2 * step), abs=1e-7)


def test_the_influence_of_a_row_on_a_ratio_is_the_derivative_by_its_weight():
    terms = counts(5)
    influence, step = micro_f1(terms).influence(), 1e-5
    for row in range(len(terms)):
        up, down = (
            2 * (weights @ terms[:, 0]) / (weights @ (terms[:, 1] + terms[:, 2]))
            for weights in (1 + step * (np.arange(60) == row), 1 - step * (np.arange(60) == row))
        )
        assert influence[row] == pytest.approx((up - down) / (2 * step), abs=1e-7)


# --- nothing to measure --------------------------------------------------------------------------------------------------


def test_without_rows_a_metric_is_zero_and_nothing_has_influence():
    none = np.zeros(0, dtype=np.int64)
    for metric in (macro(none, none), micro_f1(np.zeros((0, 3), dtype=np.int32))):
        assert metric.value() == 0
        assert metric.influence().shape == (0,)


def test_micro_f1_is_zero_where_nothing_is_true_and_nothing_was_found():
    metric = micro_f1(np.zeros((4, 3), dtype=np.int32))
    assert metric.value() == 0
    assert metric.influence().tolist() == [0, 0, 0, 0]
