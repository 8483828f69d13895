"""Temperatures: scores come to say how often an answer is right, and no answer changes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from baton.predict.predictor import Predictor
from baton.quality.confidence import calibration_error
from baton.tasks.classification import Classification, TextExample
from baton.tasks.windows import Windows
from training.judge.calibration import TEMPERATURES, fit_temperature, judge, log_loss
from training.judge.evaluate import evaluate

LABELS = ("a", "b", "c", "d")


class Stub:
    """A predictor whose logits are those of a model that overstates its evidence by a factor, 1 / `true_temperature`."""

    def __init__(self, rows: int, true_temperature: float) -> None:
        self.task = Classification(LABELS, 32)
        rng = np.random.default_rng(7)
        honest = rng.normal(scale=1.5, size=(rows, len(LABELS)))
        chances = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
        truth = [rng.choice(len(LABELS), p=row) for row in chances]
        self.examples = [TextExample(text=f"text {row}", label=LABELS[label]) for row, label in enumerate(truth)]
        self._rows = dict(zip((row.text for row in self.examples), (honest * true_temperature).astype(np.float32), strict=True))

    def logits(self, inputs: list[Any]) -> tuple[Windows, dict[str, Any]]:
        count = range(len(inputs))
        windows = Windows(inputs=inputs, ids=[[0]] * len(inputs), type_ids=[[0]] * len(inputs), owner=list(count))
        return windows, {"logits": [self._rows[item.text] for item in inputs]}

    def predict(self, inputs: list[Any]) -> list[Any]:
        windows, heads = self.logits(inputs)
        return self.task.decode(windows, heads, [self.task.Options()] * len(inputs))


def fitted(stub: Stub) -> tuple[list[Any], dict[str, float]]:
    return fit_temperature(cast("Predictor", stub), stub.examples, lambda done: None)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_that_the_scores_lack_is_found(true):
    stub = Stub(3000, true)
    before = stub.predict([stub.task.input_of(row) for row in stub.examples])
    outputs, facts = fitted(stub)
    assert stub.task.temperature == pytest.approx(true, rel=0.12)
    assert [output.label for output in outputs] == [output.label for output in before], "no answer changed"
    assert facts["ece"] < 0.03
    if true != 1.0:
        assert facts["ece"] < facts["ece_uncalibrated"] / 2


def test_the_error_is_measured_on_rows_that_did_not_fit_the_temperature():
    """Few rows fit by chance: the error in the metrics must not be the small one that they have with their own temperature."""
    stub = Stub(40, 2.5)
    outputs, facts = fitted(stub)
    own = judge(stub.task, outputs, stub.examples)
    assert facts["ece"] != calibration_error(own.scores, own.right)
    halves = [Stub(40, 2.5) for _ in range(2)]
    scores, right = [], []
    for parity, half in enumerate(halves):
        rows = [row for number, row in enumerate(half.examples) if number % 2 != parity]
        fit_temperature(cast("Predictor", half), rows, lambda done: None)
        others = [row for number, row in enumerate(half.examples) if number % 2 == parity]
        judged = judge(half.task, half.predict([half.task.input_of(row) for row in others]), others)
        scores.append(judged.scores)
        right.append(judged.right)
    assert facts["ece"] == pytest.approx(calibration_error(np.concatenate(scores), np.concatenate(right)))


def test_answers_that_are_all_right_do_not_make_a_model_certain():
    stub = Stub(30, 1.0)
    stub.examples = [
        row.model_copy(update={"label": output.label})
        for row, output in zip(stub.examples, stub.predict([stub.task.input_of(row) for row in stub.examples]), strict=True)
    ]
    outputs, _ = fitted(stub)
    assert stub.task.temperature > min(TEMPERATURES)
    assert np.mean([output.scores[0] for output in outputs]) < 0.99


def test_no_answers_leave_scores_as_they_are():
    assert log_loss(np.array([]), np.array([], dtype=bool)) == 0.0
    stub = Stub(0, 1.0)
    assert fitted(stub) == ([], {})
    assert stub.task.temperature == 1.0


def test_an_evaluation_fits_only_when_asked_and_scores_every_row_in_its_place():
    stub = Stub(2500, 2.5)  # more rows than a temperature is fitted on
    reports: list[tuple[int, int]] = []
    plain = evaluate(cast("Predictor", stub), stub.examples, lambda *done: None)
    assert stub.task.temperature == 1.0
    assert plain.score.metrics["confidence"]["ece"] > 0.1
    calibrated = evaluate(cast("Predictor", stub), stub.examples, lambda *done: reports.append(done), fit=True)
    assert stub.task.temperature == pytest.approx(2.5, rel=0.12)
    assert calibrated.score.metrics["f1"] == plain.score.metrics["f1"]
    assert np.array_equal(calibrated.score.statistics, plain.score.statistics)
    found = calibrated.score.metrics["confidence"]
    assert found["temperature"] == stub.task.temperature
    assert found["ece"] < 0.05 < found["ece_uncalibrated"]
    assert found["answers"] == 2500
    assert reports == sorted(reports), "progress never goes back"
    assert reports[-1] == (2500, 2500)
    reference = calibrated.score.metrics["reference"]
    assert reference != plain.score.metrics["reference"], "drift compares live scores with those that are served"
