"""The paired bootstrap: real resamples, the same for every model, and the metric of each one right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from baton.tasks.classification import Classification
from training.judge.statistics import CHUNK, bootstrap, interval

TASK = Classification(("a", "b", "c"), 32)


def answers(seed: int, examples: int, accuracy: float = 0.7) -> NDArray[np.int32]:
    """Statistics [n, 2] of a model that is right in a share ``accuracy`` of ``examples`` rows, the same rows for all."""
    truth = np.random.default_rng(99).integers(0, 3, examples)
    source = np.random.default_rng(seed)
    wrong = (truth + source.integers(1, 3, examples)) % 3
    predicted = np.where(source.random(examples) < accuracy, truth, wrong)
    return np.stack([truth, predicted], axis=1).astype(np.int32)


def drawn(examples: int, seed: int, draws: int) -> NDArray[np.float64]:
    """The weights [draws, examples] that `bootstrap` hands to a metric."""
    seen: list[NDArray[np.float32]] = []

    def spy(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        seen.append(weights)
        return np.zeros(len(weights))

    bootstrap([spy], examples, seed, draws)
    return np.concatenate(seen)


def test_every_value_is_scikit_learns_f1_of_that_resample_written_out_row_by_row():
    models = [answers(seed, 25) for seed in (1, 2)]
    values = bootstrap([lambda weights, it=it: TASK.resample(it, weights) for it in models], 25, seed=7, draws=120)
    weights = drawn(25, seed=7, draws=120)
    assert values.shape == (120, 2)
    for draw, counts in enumerate(weights):
        rows = [row for row, count in enumerate(counts) for _ in range(int(count))]
        for column, statistics in enumerate(models):
            truth, predicted = statistics[rows].T
            expected = f1_score(truth, predicted, average="macro", zero_division=0)
            assert values[draw, column] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("draws", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_each_resample_draws_as_many_examples_as_there_are(draws):
    weights = drawn(40, seed=0, draws=draws)
    assert weights.shape == (draws, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert (weights >= 0).all()
    assert (weights == weights.round()).all()


def test_resamples_are_drawn_with_replacement_and_no_example_is_preferred():
    weights = drawn(50, seed=0, draws=4000)
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.08)  # 5 standard errors
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # multinomial; a permutation would have 0
    assert len({row.tobytes() for row in weights}) == 4000


def test_one_seed_gives_one_set_of_resamples_and_another_gives_others():
    assert np.array_equal(drawn(30, seed=5, draws=600), drawn(30, seed=5, draws=600))
    assert not np.array_equal(drawn(30, seed=5, draws=600), drawn(30, seed=6, draws=600))


def test_two_copies_of_one_model_never_differ():
    statistics = answers(1, 60)
    values = bootstrap([lambda weights, it=it: TASK.resample(it, weights) for it in (statistics, statistics.copy())], 60, 0)
    assert values[:, 0].std() > 0.01
    assert (values[:, 0] == values[:, 1]).all()


def test_differences_of_models_that_mostly_agree_vary_less_than_each_model_does():
    first = answers(1, 300)
    second = first.copy()
    second[:6, 1] = (second[:6, 1] + 1) % 3
    values = bootstrap([lambda weights, it=it: TASK.resample(it, weights) for it in (first, second)], 300, 0, draws=1000)
    assert (values[:, 0] - values[:, 1]).std() < values[:, 0].std() / 2


def test_an_interval_holds_the_asked_for_share_in_its_middle():
    values = np.random.default_rng(0).permutation(np.arange(1001) / 1000)
    assert interval(values, 0.95) == pytest.approx((0.025, 0.975))
    assert interval(values, 0.5) == pytest.approx((0.25, 0.75))


def test_a_95_percent_interval_covers_the_true_accuracy_in_about_95_of_100_samples():
    source = np.random.default_rng(3)
    covered = 0
    for sample in range(300):
        right = source.random(150) < 0.8
        values = bootstrap([lambda weights, it=right: weights @ it / 150], 150, seed=sample, draws=500)[:, 0]
        low, high = interval(values, 0.95)
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.985
