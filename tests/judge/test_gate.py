"""The gate: who may take over, how sure that is, and how rarely it lets luck through."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from baton.config.model_settings import GateSettings
from baton.errors import Conflict
from baton.store.records import Decision, DecisionKind, Evaluation, Verdict
from baton.tasks.classification import Classification
from training.judge.gate import decide

TASK = Classification((), 32)
HOLDOUT = "5f" * 32
POLICY = GateSettings(min_f1=0.5, min_gain=0.0, confidence=0.95)


def evaluation(version: int, truth: NDArray[np.int64], predicted: NDArray[np.int64], holdout: str = HOLDOUT) -> Evaluation:
    statistics = np.stack([truth, predicted], axis=1).astype(np.int32)
    f1 = float(TASK.resample(statistics, np.ones((1, len(truth)), dtype=np.float32))[0])
    return Evaluation(
        id=version,
        model="m",
        version=version,
        holdout_hash=holdout,
        metrics={"f1": f1},
        statistics=statistics,
        created_at=datetime.now(UTC),
    )


def balanced(examples: int, labels: int = 4) -> NDArray[np.int64]:
    return np.arange(examples) % labels


def wrong_at(truth: NDArray[np.int64], rows: slice) -> NDArray[np.int64]:
    """Predictions that are right except at ``rows``."""
    predicted = truth.copy()
    predicted[rows] = (predicted[rows] + 1) % 4
    return predicted


def match(examples: int, candidate_wrong: slice, champion_wrong: slice, policy: GateSettings = POLICY) -> Decision:
    truth = balanced(examples)
    candidate = evaluation(8, truth, wrong_at(truth, candidate_wrong))
    return decide(TASK, candidate, evaluation(7, truth, wrong_at(truth, champion_wrong)), policy)


def luck(source: np.random.Generator, examples: int, accuracies: tuple[float, float]) -> Decision:
    """Decide between two models that are right independently of each other, on a holdout of their own."""
    truth, holdout = balanced(examples), source.bytes(32).hex()
    scored = []
    for version, accuracy in enumerate(accuracies, start=1):
        wrong = (truth + source.integers(1, 4, examples)) % 4
        scored.append(evaluation(version, truth, np.where(source.random(examples) < accuracy, truth, wrong), holdout))
    return decide(TASK, scored[1], scored[0], POLICY)


# --- verdicts ------------------------------------------------------------------------------------------------------------


def test_a_clear_gain_is_promoted():
    decision = match(400, slice(0, 20), slice(0, 100))
    assert decision.verdict is Verdict.PROMOTE
    assert (decision.candidate, decision.champion, decision.kind) == (8, 7, DecisionKind.GATE)
    assert decision.numbers["gain"] > 0.15
    assert decision.numbers["gain_lower_bound"] > 0.1
    assert decision.numbers["confidence"] == 1


def test_a_clear_loss_is_refused():
    decision = match(400, slice(0, 100), slice(0, 20))
    assert decision.verdict is Verdict.REJECT
    assert decision.numbers["gain"] < -0.15


def test_a_gain_that_may_be_luck_is_inconclusive_and_says_what_this_holdout_can_show():
    decision = match(60, slice(0, 7), slice(50, 60))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert 0.5 < decision.numbers["confidence"] < 0.95
    assert decision.numbers["gain_lower_bound"] < 0 < decision.numbers["gain"] < decision.numbers["detectable_gain"]


def test_an_equal_f1_is_refused_although_other_rows_are_right():
    decision = match(100, slice(0, 8), slice(92, 100))
    assert decision.verdict is Verdict.REJECT
    assert decision.numbers["gain"] == 0
    assert 0.3 < decision.numbers["confidence"] < 0.7
    assert "gain +0.0000, a strict gain is required" in decision.sentence


def test_identical_answers_give_no_gain_in_any_resample():
    decision = match(100, slice(0, 10), slice(0, 10))
    assert decision.verdict is Verdict.REJECT
    numbers = decision.numbers
    assert (numbers["gain"], numbers["gain_lower_bound"], numbers["confidence"], numbers["detectable_gain"]) == (0, 0, 0, 0)


def test_a_sure_gain_below_min_gain_is_refused():
    gain = match(400, slice(0, 20), slice(0, 40)).numbers["gain"]
    enough = match(400, slice(0, 20), slice(0, 40), GateSettings(min_gain=gain))
    short = match(400, slice(0, 20), slice(0, 40), GateSettings(min_gain=gain + 1e-6))
    assert (enough.verdict, short.verdict) == (Verdict.PROMOTE, Verdict.REJECT)
    assert short.numbers["confidence"] == 1


def test_the_asked_for_confidence_decides_between_promote_and_inconclusive():
    sure = match(60, slice(0, 7), slice(50, 60)).numbers["confidence"]
    lenient = match(60, slice(0, 7), slice(50, 60), GateSettings(confidence=sure))
    strict = match(60, slice(0, 7), slice(50, 60), GateSettings(confidence=sure + 1e-6))
    assert (lenient.verdict, strict.verdict) == (Verdict.PROMOTE, Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(("needed", "verdict"), [(0.0, Verdict.PROMOTE), (0.7, Verdict.PROMOTE), (0.9, Verdict.REJECT)])
def test_a_first_version_must_reach_min_f1(needed, verdict):
    truth = balanced(100)
    decision = decide(TASK, evaluation(1, truth, wrong_at(truth, slice(0, 20))), None, GateSettings(min_f1=needed))
    assert decision.verdict is verdict
    assert (decision.candidate, decision.champion) == (1, None)


def test_a_first_version_that_just_reaches_min_f1_is_promoted():
    truth = balanced(100)
    first = evaluation(1, truth, wrong_at(truth, slice(0, 20)))
    f1 = first.metrics["f1"]
    assert decide(TASK, first, None, GateSettings(min_f1=f1)).verdict is Verdict.PROMOTE
    assert decide(TASK, first, None, GateSettings(min_f1=f1 + 1e-9)).verdict is Verdict.REJECT


def test_min_f1_is_not_asked_of_a_challenger():
    assert match(400, slice(0, 250), slice(0, 390), GateSettings(min_f1=0.99)).verdict is Verdict.PROMOTE


def test_scores_on_different_holdouts_are_not_compared():
    truth = balanced(100)
    with pytest.raises(
        Conflict,
        match=r"^candidate v2 and champion v1 were evaluated on different holdouts .*; evaluate both on the same holdout$",
    ):
        decide(TASK, evaluation(2, truth, truth), evaluation(1, truth, truth, "00" * 32), POLICY)


def test_a_match_always_ends_the_same_way():
    assert match(60, slice(0, 7), slice(50, 60)) == match(60, slice(0, 7), slice(50, 60))


# --- what is written down ------------------------------------------------------------------------------------------------


def test_a_decision_keeps_its_numbers_and_its_policy():
    policy = GateSettings(min_f1=0.1, min_gain=0.01, confidence=0.9)
    decision = match(400, slice(0, 20), slice(0, 100), policy)
    numbers = decision.numbers
    assert decision.policy == {"min_f1": 0.1, "min_gain": 0.01, "confidence": 0.9}
    assert numbers["gain"] == pytest.approx(numbers["f1"] - numbers["champion_f1"])
    assert numbers["detectable_gain"] == pytest.approx(numbers["gain"] - numbers["gain_lower_bound"])
    assert (numbers["examples"], numbers["holdout_hash"]) == (400, HOLDOUT)
    for name in ("f1", "champion_f1"):
        low, high = numbers[f"{name}_interval"]
        assert low < numbers[name] < high


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (
            lambda: match(400, slice(0, 20), slice(0, 100)),
            "Promote: v8 (F1 {f1:.4f}) against champion v7 (F1 {champion_f1:.4f}) on the same 400 holdout rows: "
            "gain +{gain:.4f} with 100.0% confidence (95% required).",
        ),
        (
            lambda: match(400, slice(0, 100), slice(0, 20)),
            "Refused: v8 (F1 {f1:.4f}) against champion v7 (F1 {champion_f1:.4f}) on the same 400 holdout rows: "
            "gain {gain:.4f}, a strict gain is required. v7 stays.",
        ),
        (
            lambda: match(400, slice(0, 20), slice(0, 24), GateSettings(min_gain=0.25)),
            "Refused: v8 (F1 {f1:.4f}) against champion v7 (F1 {champion_f1:.4f}) on the same 400 holdout rows: "
            "gain +{gain:.4f}, at least +0.2500 is required. v7 stays.",
        ),
        (
            lambda: match(60, slice(0, 7), slice(50, 60)),
            "Inconclusive: v8 (F1 {f1:.4f}) against champion v7 (F1 {champion_f1:.4f}) on the same 60 holdout rows: "
            "gain +{gain:.4f}, but only {confidence:.1%} confidence that it is real (95% required; this holdout can show "
            "gains from about {detectable_gain:.4f}). v7 stays.",
        ),
    ],
    ids=["promote", "loss", "min_gain", "inconclusive"],
)
def test_the_sentence_holds_the_numbers(decision, expected):
    decided = decision()
    assert decided.sentence == expected.format(**decided.numbers)


def test_the_sentence_of_a_first_version_holds_the_numbers():
    truth = balanced(1200)
    first = evaluation(1, truth, wrong_at(truth, slice(0, 300)))
    f1 = first.metrics["f1"]
    good, bad = (decide(TASK, first, None, GateSettings(min_f1=needed)) for needed in (0.7, 0.9))
    assert good.sentence == f"Promote: v1, the first version, reaches F1 {f1:.4f} on 1,200 holdout rows (0.7000 required)."
    assert bad.sentence == (
        f"Refused: v1, the first version, reaches F1 {f1:.4f} on 1,200 holdout rows, but 0.9000 is required (gate.min_f1)."
    )


# --- luck and skill ------------------------------------------------------------------------------------------------------


@cache
def equals() -> list[Decision]:
    """300 matches of two equally good models."""
    source = np.random.default_rng(11)
    return [luck(source, 100, (0.8, 0.8)) for _ in range(300)]


@pytest.mark.parametrize(("confidence", "margin"), [(0.8, 0.07), (0.9, 0.05), (0.95, 0.04)])
def test_of_two_equally_good_models_one_is_promoted_about_as_rarely_as_asked_for(confidence, margin):
    """The margin is three standard errors of a share in 300 matches."""
    wins = [it for it in equals() if it.numbers["gain"] > 0 and it.numbers["confidence"] >= confidence]
    assert 0 < len(wins) / len(equals()) <= (1 - confidence) + margin


def test_the_verdicts_of_those_matches_follow_from_their_numbers():
    for decision in equals():
        gain, confidence = decision.numbers["gain"], decision.numbers["confidence"]
        expected = Verdict.REJECT if gain <= 0 else Verdict.PROMOTE if confidence >= 0.95 else Verdict.INCONCLUSIVE
        assert decision.verdict is expected
    assert len({decision.verdict for decision in equals()}) == 3


def test_a_real_gain_of_ten_points_on_500_rows_is_promoted_nearly_always():
    source = np.random.default_rng(12)
    decisions = [luck(source, 500, (0.75, 0.85)) for _ in range(30)]
    assert sum(decision.verdict is Verdict.PROMOTE for decision in decisions) >= 28
