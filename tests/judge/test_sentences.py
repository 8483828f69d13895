"""Sentences: each verdict in words, with the numbers that it rests on."""

from __future__ import annotations

import numpy as np
import pytest

from baton.config.model_settings import GateSettings
from baton.store.records import Verdict
from baton.tasks.f1 import RatioF1
from training.judge.comparison import Comparison
from training.judge.gate import (
    KNOWN_LABELS,
    FirstOutcome,
    Match,
    Outcome,
    Reason,
    decide,
    decide_first,
)
from training.judge.guards import Guard, Part, Single
from training.judge.pairs import pair_of
from training.judge.sentences import explain, explain_first

POLICY = GateSettings()


def comparison(f1: float, champion_f1: float, *, groups: int = 1_200, differing: int = 91, p: float = 0.0003) -> Comparison:
    return Comparison(
        candidate_f1=f1,
        champion_f1=champion_f1,
        gain=f1 - champion_f1,
        standard_error=0.01,
        groups=groups,
        differing=differing,
        p_normal=p / 2,
        p_swap=p,
    )


def outcome(verdict: Verdict, reason: Reason, compared: Comparison, number: int = 1, **more: object) -> Outcome:
    level = 0.025 if number == 1 else 1 / 924
    return Outcome(verdict=verdict, reason=reason, number=number, allowed=level, comparison=compared, **more)


def part(name: str, gain: float, guard: Guard, groups: int = 300) -> Part:
    return Part(name=name, candidate_f1=0.5 + gain, champion_f1=0.5, standard_error=0.01, groups=groups, guard=guard)


def label(name: str, f1: float, champion_f1: float, *, lost: bool) -> Single:
    return Single(name=name, candidate_f1=f1, champion_f1=champion_f1, standard_error=0.01, groups=40, lost=lost)


def first(verdict: Verdict, reason: Reason, f1: float, bound: float, groups: int = 396) -> FirstOutcome:
    return FirstOutcome(
        verdict=verdict, reason=reason, number=1, allowed=0.025, f1=f1, standard_error=0.02, lower_bound=bound, groups=groups
    )


# --- matches -------------------------------------------------------------------------------------------------------------


def test_a_promotion_tells_the_gain_its_lower_bound_and_how_often_chance_would_do_it():
    won = outcome(Verdict.PROMOTE, Reason.GAIN, comparison(0.914, 0.879))
    assert explain(won, 7, 6, POLICY) == (
        "Promote: v7 (F1 0.914) against v6 (F1 0.879) on 1,200 texts, 91 of them answered differently: gain +0.035, "
        "at least +0.015. Chance alone does this in 1 of 3,333 matches; 1 of 40 is allowed (match 1 on this holdout)."
    )


def test_a_chance_below_one_in_a_million_is_told_as_a_bound():
    won = outcome(Verdict.PROMOTE, Reason.GAIN, comparison(0.914, 0.879, p=1e-9), number=3)
    assert "Chance alone does this in fewer than 1 of 1,000,000 matches; 1 of 924 is allowed (match 3" in explain(
        won, 7, 6, POLICY
    )


def test_a_refusal_for_no_gain_tells_the_loss():
    lost = outcome(Verdict.REJECT, Reason.NO_GAIN, comparison(0.846, 0.879))
    assert explain(lost, 7, 6, POLICY) == (
        "Refused: v7 (F1 0.846) against v6 (F1 0.879) on 1,200 texts, 91 of them answered differently: gain -0.033, "
        "and more than 0 is required. v6 stays."
    )


def test_a_refusal_for_too_small_a_gain_tells_min_gain():
    lost = outcome(Verdict.REJECT, Reason.NO_GAIN, comparison(0.889, 0.879))
    sentence = explain(lost, 7, 6, GateSettings(min_gain=0.02))
    assert sentence.endswith("gain +0.010, and at least +0.02 is required. v6 stays.")


def test_a_refusal_for_a_label_tells_the_lost_label_that_fell_most():
    labels = [
        label("refund", 0.7, 0.9, lost=True),
        label("card", 0.5, 0.9, lost=True),
        label("rare", 0.0, 1.0, lost=False),
        label("transfer", 0.95, 0.6, lost=False),
    ]
    lost = outcome(Verdict.REJECT, Reason.LABEL_LOST, comparison(0.893, 0.879), labels=labels)
    assert explain(lost, 7, 6, POLICY).endswith(
        "gain +0.014, but -0.400 on the label 'card', where a loss of 0.05 is allowed. v6 stays."
    )


def test_a_refusal_for_a_part_tells_the_loss_there():
    parts = [part("the declared holdout", 0.05, Guard.HELD, 900), part("audited requests", -0.1, Guard.LOST)]
    lost = outcome(Verdict.REJECT, Reason.PART_LOST, comparison(0.893, 0.879), parts=parts)
    assert explain(lost, 7, 6, POLICY).endswith(
        "gain +0.014, but -0.100 on the 300 texts of audited requests, where a loss of 0.02 is allowed. v6 stays."
    )


def test_a_possible_loss_on_a_part_is_told():
    parts = [part("audited requests", -0.015, Guard.UNKNOWN, 1), part(KNOWN_LABELS, -0.3, Guard.HELD)]
    open_question = outcome(Verdict.INCONCLUSIVE, Reason.LOSS_POSSIBLE, comparison(0.955, 0.879), parts=parts)
    assert explain(open_question, 7, 6, POLICY).endswith(
        "gain +0.076, but a loss of more than 0.02 on the 1 text of audited requests (-0.015) cannot be excluded. v6 stays."
    )


def test_a_gain_that_may_be_luck_is_told_with_the_number_of_texts_that_would_show_it():
    unsure = outcome(Verdict.INCONCLUSIVE, Reason.NOT_SURE, comparison(0.893, 0.879, p=1 / 49), number=3)
    assert explain(unsure, 7, 6, POLICY) == (
        "Inconclusive: v7 (F1 0.893) against v6 (F1 0.879) on 1,200 texts, 91 of them answered differently: gain +0.014. "
        "Chance alone does this in 1 of 49 matches; 1 of 924 is allowed (match 3 on this holdout). "
        "If the gain is real, about 4,806 texts in all would show it. v6 stays."
    )


def test_frequent_chances_are_told_as_a_percentage():
    unsure = outcome(Verdict.INCONCLUSIVE, Reason.NOT_SURE, comparison(0.884, 0.879, p=0.314))
    assert "Chance alone does this in 31% of all matches; 1 of 40 is allowed" in explain(unsure, 7, 6, POLICY)


def test_too_few_texts_that_differ_are_told_with_the_number_that_must():
    unsure = outcome(Verdict.INCONCLUSIVE, Reason.NOT_SURE, comparison(0.919, 0.879, differing=5, p=1 / 32))
    assert explain(unsure, 7, 6, POLICY).endswith("gain +0.040. At least 6 texts must differ in match 1. v6 stays.")


def test_a_holdout_that_is_too_small_is_told_without_a_gain():
    tiny = outcome(Verdict.INCONCLUSIVE, Reason.FEW_ROWS, comparison(1.0, 0.0, groups=12))
    assert explain(tiny, 7, 6, POLICY) == (
        "Inconclusive: a holdout needs 30 texts that differ (gate.min_rows); this one has 12. v6 stays."
    )


# --- first versions ------------------------------------------------------------------------------------------------------


def test_a_first_version_is_promoted_with_its_lower_bound():
    assert explain_first(first(Verdict.PROMOTE, Reason.HIGH_ENOUGH, 0.84, 0.801), 1, None, POLICY) == (
        "Promote: v1, the first version, F1 0.840 on 396 texts, at least 0.801 (0.5 required)."
    )


def test_a_first_version_of_another_task_than_the_champions_is_told_as_such():
    assert explain_first(first(Verdict.PROMOTE, Reason.HIGH_ENOUGH, 0.84, 0.801), 4, 3, POLICY).startswith(
        "Promote: v4, the first version of its task (v3 has another one), F1 0.840 on 396 texts"
    )


def test_a_first_version_below_min_f1_is_refused_with_what_is_required():
    assert explain_first(first(Verdict.REJECT, Reason.TOO_LOW, 0.62, 0.57), 1, None, GateSettings(min_f1=0.7)) == (
        "Refused: v1, the first version, F1 0.620 on 396 texts, and at least 0.7 is required (gate.min_f1)."
    )


def test_a_first_version_that_may_be_below_min_f1_is_told_how_low():
    assert explain_first(first(Verdict.INCONCLUSIVE, Reason.BOUND_TOO_LOW, 0.72, 0.67), 1, None, GateSettings(min_f1=0.7)) == (
        "Inconclusive: v1, the first version, F1 0.720 on 396 texts, but it may be as low as 0.670, and at least 0.7 is "
        "required (gate.min_f1). More holdout texts would tell."
    )


def test_a_first_version_on_too_small_a_holdout_is_told_so():
    assert explain_first(first(Verdict.INCONCLUSIVE, Reason.FEW_ROWS, 1.0, 0.2, groups=1), 1, None, POLICY) == (
        "Inconclusive: a holdout needs 30 texts that differ (gate.min_rows); this one has 1."
    )


# --- what is never said --------------------------------------------------------------------------------------------------


def accuracy(right: np.ndarray) -> RatioF1:
    return RatioF1(numerators=right.astype(float), denominators=np.ones(len(right)))


@pytest.mark.parametrize("rows", [1, 30, 400])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("number", [1, 50])
def test_no_sentence_claims_certainty(rows, share, number):
    wins = np.arange(rows) < share * rows
    groups = np.arange(rows, dtype=np.int32)
    policy = GateSettings(min_f1=0.7)
    for ours, theirs in ((wins, ~wins), (wins, np.zeros(rows, dtype=bool)), (~wins, wins)):
        match = Match(pair=pair_of(accuracy(ours), accuracy(theirs)), groups=groups, number=number, seed=0)
        sentences = [
            explain(decide(match, policy), 2, 1, policy),
            explain_first(decide_first(accuracy(ours), groups, number, policy), 2, None, policy),
        ]
        for sentence in sentences:
            assert "100%" not in sentence
            assert "sure" not in sentence
            assert sentence.endswith(".")


def test_no_chance_is_told_as_a_certainty_where_one_version_is_always_right_and_the_other_never():
    always = np.ones(400, dtype=bool)
    match = Match(pair=pair_of(accuracy(always), accuracy(~always)), groups=np.arange(400, dtype=np.int32), number=1, seed=0)
    assert "100%" not in explain(decide(match, POLICY), 2, 1, POLICY)
