"""What scores are worth: calibration error, precision by threshold, and the threshold that a wanted precision needs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from baton.config.serving_settings import ServingSettings
from baton.quality.confidence import STEP, UNREACHED, abstain_below, calibration_error, precision_curve


def test_the_calibration_error_is_the_mean_gap_between_score_and_share_of_right_answers():
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0.0)
    assert calibration_error([0.95] * 4, [True, True, True, False]) == pytest.approx(0.2)
    assert calibration_error([0.9, 0.9, 0.5, 0.5], [True, True, False, False]) == pytest.approx(0.3), "bins cannot cancel out"
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0, "the outermost scores have a bin"


def test_the_curve_rises_and_each_point_tells_the_truth():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=2000).round(3)
    right = rng.uniform(size=2000) < scores
    curve = precision_curve(scores, right)
    assert curve[0][0] == scores.min(), "it begins with all answers"
    assert len(curve) <= 1 / STEP + 2
    for threshold, precision, share in curve:
        above = scores >= threshold
        assert precision == pytest.approx(right[above].mean())
        assert share == pytest.approx(above.mean())
    precisions = [precision for _, precision, _ in curve]
    assert all(later > earlier for earlier, later in itertools.pairwise(precisions))


def test_equal_scores_stand_on_one_side_of_a_threshold():
    assert precision_curve([0.8, 0.8, 0.8], [True, False, True]) == [[0.8, pytest.approx(2 / 3), 1.0]]
    assert precision_curve([], []) == []


def measured(curve: list[list[float]], answers: int) -> dict[str, Any]:
    return {"confidence": {"curve": curve, "answers": answers}}


def test_the_threshold_is_the_lowest_score_that_has_the_wanted_precision_for_sure():
    scores, right = [0.9, 0.8, 0.6, 0.4] * 100, [True, True, True, False] * 100
    metrics = measured(precision_curve(scores, right), 400)
    wanted = ServingSettings(target_precision=0.9)
    assert abstain_below(wanted, metrics) == 0.6
    assert abstain_below(ServingSettings(target_precision=0.74), metrics) == 0.6, "0.75 of 400 may be less"
    assert abstain_below(ServingSettings(target_precision=0.5), metrics) == 0.4
    assert abstain_below(ServingSettings(abstain_below=0.7), metrics) == 0.7
    assert abstain_below(ServingSettings(), metrics) is None
    assert abstain_below(wanted, {"f1": 0.9}) is None, "nobody knows what its scores are worth"


def test_a_precision_that_no_score_reaches_withholds_every_answer():
    metrics = measured(precision_curve([1.0, 1.0, 0.9], [True, False, True]), 3)
    assert abstain_below(ServingSettings(target_precision=0.99), metrics) == UNREACHED > 1.0
    three_right = measured(precision_curve([1.0, 0.9, 0.8], [True] * 3), 3)
    assert abstain_below(ServingSettings(target_precision=0.9), three_right) == UNREACHED, "three prove nothing"


@pytest.mark.parametrize("answers", [50, 100, 300, 1000])
def test_the_wanted_precision_is_kept_on_new_answers_however_few_chose_the_threshold(answers):
    """Scores that are right as often as they say. The lowest threshold that was good enough by chance keeps less."""
    rng = np.random.default_rng(answers)
    wanted = ServingSettings(target_precision=0.9)
    new = rng.uniform(0.4, 1.0, 20_000)
    kept = []
    for _ in range(200):
        scores = rng.uniform(0.4, 1.0, answers)
        threshold = abstain_below(wanted, measured(precision_curve(scores, rng.uniform(size=answers) < scores), answers))
        given = new[new >= threshold]
        kept += [given.mean()] if len(given) else []
    assert len(kept) > 20
    assert np.mean(kept) >= 0.895


def test_two_ways_to_say_which_answers_are_unsure_are_refused():
    with pytest.raises(ValidationError, match=r"abstain_below: 0\.5 and target_precision: 0\.9 both say"):
        ServingSettings(abstain_below=0.5, target_precision=0.9)
