"""The gate: what a version must show to take over, and what it is refused for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from baton.config.model_settings import GateSettings
from baton.quality.matches import allowed, left_after
from baton.store.records import Verdict
from baton.tasks.f1 import MacroF1, RatioF1, micro_f1
from training.judge.comparison import least_differing
from training.judge.gate import (
    KNOWN_LABELS,
    Cost,
    Match,
    Outcome,
    Reason,
    decide,
    decide_first,
    needed,
    wilson_interval,
)
from training.judge.guards import Guard
from training.judge.pairs import Pair, pair_of

POLICY = GateSettings()
Answers = NDArray[np.int64]


def each_alone(rows: int) -> NDArray[np.int32]:
    return np.arange(rows, dtype=np.int32)


def labelled(truth: Answers, predicted: Answers) -> MacroF1:
    labels = tuple(f"label {number}" for number in range(int(max(truth.max(), predicted.max())) + 1))
    return MacroF1(truth=truth.astype(np.int32), predicted=predicted.astype(np.int32), labels=labels)


def match_of(pair: Pair, groups: NDArray[np.int32] | None = None, **changes: object) -> Match:
    rows = len(pair.differing())
    return replace(Match(pair=pair, groups=each_alone(rows) if groups is None else groups, number=1, seed=0), **changes)


def contest(truth: Answers, ours: Answers, theirs: Answers, policy: GateSettings = POLICY, **changes: object) -> Outcome:
    """Return the outcome of the candidate's answers ``ours`` against the champion's answers ``theirs``."""
    return decide(match_of(pair_of(labelled(truth, ours), labelled(truth, theirs)), **changes), policy)


def wins_and_losses(wins: int, losses: int, rows: int) -> tuple[Answers, Answers, Answers]:
    """Return truths and two versions' answers: the candidate alone is right ``wins`` times, the champion ``losses`` times."""
    row = np.arange(rows)
    truth = row % 2
    theirs = np.where(row < wins, 1 - truth, truth)
    return truth, np.where((row >= wins) & (row < wins + losses), 1 - truth, truth), theirs


def wrong_at(truth: Answers, rows: NDArray[np.bool_], labels: int = 4) -> Answers:
    return np.where(rows, (truth + 1) % labels, truth)


# --- few rows ------------------------------------------------------------------------------------------------------------


def test_one_row_proves_nothing():
    outcome = contest(*wins_and_losses(1, 0, 1))
    assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.FEW_ROWS)
    assert outcome.comparison.p == 0.5


@pytest.mark.parametrize("rows", [100, 1_000, 3_000])
def test_three_rows_that_differ_prove_nothing_however_many_agree(rows):
    outcome = contest(*wins_and_losses(3, 0, rows))
    assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_SURE)
    assert outcome.comparison.p == pytest.approx(binomtest(3, 3, alternative="greater").pvalue)


def test_three_rows_that_differ_of_twenty_prove_nothing_even_if_twenty_are_enough_rows():
    assert contest(*wins_and_losses(3, 0, 20)).reason is Reason.FEW_ROWS
    assert contest(*wins_and_losses(3, 0, 20), GateSettings(min_rows=20)).reason is Reason.NOT_SURE


def test_six_wins_without_a_loss_are_the_fewest_that_win_a_first_match():
    assert contest(*wins_and_losses(5, 0, 100)).verdict is Verdict.INCONCLUSIVE
    assert contest(*wins_and_losses(6, 0, 100)).verdict is Verdict.PROMOTE


@pytest.mark.parametrize(("number", "wins"), [(1, 6), (2, 10), (10, 11), (30, 13), (100, 15)])
def test_later_matches_need_more_rows_that_differ(number, wins):
    assert least_differing(allowed(0.95, number)) == wins
    assert contest(*wins_and_losses(wins - 1, 0, 200), number=number).reason is Reason.NOT_SURE
    assert contest(*wins_and_losses(wins + 1, 0, 200), number=number).verdict is Verdict.PROMOTE


@pytest.mark.parametrize(("groups", "reason"), [(29, Reason.FEW_ROWS), (30, Reason.GAIN)])
def test_a_holdout_needs_min_rows_different_texts_however_many_rows_they_have(groups, reason):
    truth, ours, theirs = (np.repeat(rows, 4) for rows in wins_and_losses(12, 0, groups))
    assert contest(truth, ours, theirs, groups=np.repeat(each_alone(groups), 4)).reason is reason


# --- gains ---------------------------------------------------------------------------------------------------------------


def test_a_clear_gain_is_promoted_and_a_clear_loss_is_refused():
    truth = np.arange(400) % 4
    good, bad = wrong_at(truth, np.arange(400) < 20), wrong_at(truth, np.arange(400) >= 300)
    won, lost = contest(truth, good, bad), contest(truth, bad, good)
    assert (won.verdict, won.reason) == (Verdict.PROMOTE, Reason.GAIN)
    assert 0 < won.lower_bound < won.comparison.gain
    assert (lost.verdict, lost.reason) == (Verdict.REJECT, Reason.NO_GAIN)


def test_versions_with_equal_f1_or_equal_answers_are_refused():
    truth = np.arange(400) % 4
    first, last = wrong_at(truth, np.arange(400) < 40), wrong_at(truth, np.arange(400) >= 360)
    assert contest(truth, first, last).reason is Reason.NO_GAIN
    assert contest(truth, first, first).reason is Reason.NO_GAIN


def test_a_gain_that_may_be_luck_is_inconclusive():
    outcome = contest(*wins_and_losses(20, 12, 400))
    assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_SURE)
    assert outcome.lower_bound < 0 < outcome.comparison.gain < outcome.detectable


def test_the_same_gain_wins_a_first_match_and_not_a_later_one():
    rows = wins_and_losses(22, 7, 400)
    assert contest(*rows, number=1).verdict is Verdict.PROMOTE
    assert contest(*rows, number=2).verdict is Verdict.INCONCLUSIVE


def test_a_gain_must_reach_min_gain():
    rows = wins_and_losses(30, 0, 400)
    gain = contest(*rows).comparison.gain
    assert contest(*rows, GateSettings(min_gain=gain)).verdict is Verdict.PROMOTE
    short = contest(*rows, GateSettings(min_gain=gain + 1e-6))
    assert (short.verdict, short.reason) == (Verdict.REJECT, Reason.NO_GAIN)


def test_the_policys_confidence_decides_between_promote_and_inconclusive():
    rows = wins_and_losses(5, 0, 100)
    assert contest(*rows, GateSettings(confidence=0.93)).verdict is Verdict.PROMOTE
    assert contest(*rows, GateSettings(confidence=0.94)).verdict is Verdict.INCONCLUSIVE


def test_a_match_always_ends_the_same_way():
    match = match_of(pair_of(*(labelled(wins_and_losses(40, 25, 500)[0], it) for it in wins_and_losses(40, 25, 500)[1:])))
    assert decide(match, GateSettings(confidence=0.5)) == decide(match, GateSettings(confidence=0.5))


def test_counts_of_entities_are_judged_as_well():
    rng = np.random.default_rng(1)
    true = rng.poisson(2, 400)
    rights = [rng.binomial(true, recall) for recall in (0.9, 0.75)]
    better, worse = (micro_f1(np.stack([right, true, true], axis=1).astype(np.int32)) for right in rights)
    assert decide(match_of(pair_of(better, worse)), POLICY).verdict is Verdict.PROMOTE
    assert decide(match_of(pair_of(worse, better)), POLICY).verdict is Verdict.REJECT


def test_always_right_against_always_wrong_is_promoted():
    assert contest(*wins_and_losses(400, 0, 400)).verdict is Verdict.PROMOTE


# --- groups --------------------------------------------------------------------------------------------------------------


def test_copies_of_a_text_count_once():
    truth, ours, theirs = (np.repeat(rows, 10) for rows in wins_and_losses(5, 0, 100))
    groups = np.repeat(each_alone(100), 10)
    assert contest(truth, ours, theirs, groups=groups).verdict is Verdict.INCONCLUSIVE
    assert contest(truth, ours, theirs).verdict is Verdict.PROMOTE


# --- labels --------------------------------------------------------------------------------------------------------------


def new_label_world(wrong: int) -> tuple[Answers, Answers, Answers]:
    """Return 400 truths, 20 of a label that only the candidate knows, and both versions' answers.

    Of 95 rows of each of the four labels that both know, the champion misses 8 and the candidate ``wrong`` others.
    """
    truth = np.concatenate([np.arange(380) % 4, np.full(20, 4)])
    place = np.arange(400) // 4
    ours = wrong_at(truth, (truth < 4) & (place >= 95 - wrong))
    theirs = wrong_at(truth, (truth < 4) & (place < 8))
    return truth, ours, np.where(truth == 4, 0, theirs)


def test_a_new_label_does_not_pay_for_a_loss_on_the_labels_that_both_know():
    truth, ours, theirs = new_label_world(16)
    outcome = contest(truth, ours, theirs, known=truth < 4)
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECT, Reason.PART_LOST)
    part = outcome.parts[0]
    assert (part.name, part.groups, part.guard) == (KNOWN_LABELS, 380, Guard.LOST)
    assert part.gain < -0.05 < 0.05 < outcome.comparison.gain
    assert contest(truth, ours, theirs).verdict is Verdict.PROMOTE, "the guard alone must be the reason"


def test_a_new_label_is_welcome_where_nothing_else_gets_worse():
    truth, ours, theirs = new_label_world(6)
    outcome = contest(truth, ours, theirs, known=truth < 4)
    assert outcome.verdict is Verdict.PROMOTE
    assert [part.guard for part in outcome.parts] == [Guard.HELD]


def test_the_labels_that_both_know_guard_even_where_they_are_few():
    truth = np.where(np.arange(80) < 40, np.arange(80) % 2, 2)
    theirs = np.where(truth == 2, 0, truth)
    ours = np.where(np.arange(80) < 6, 1 - truth, truth)
    outcome = contest(truth, ours, theirs, known=truth < 2)
    assert outcome.parts[0].groups == 40
    assert outcome.parts[0].guard is Guard.LOST
    assert outcome.verdict is Verdict.REJECT


def test_answering_a_label_without_holdout_rows_does_not_cost_a_whole_label():
    truth = np.arange(200) % 3
    theirs = wrong_at(truth, np.arange(200) % 10 == 0, labels=3)
    ours = np.where(np.isin(np.arange(200), [7, 58, 111]), 3, truth)
    outcome = contest(truth, ours, theirs)
    assert outcome.verdict is Verdict.PROMOTE
    assert outcome.comparison.candidate_f1 > 0.98
    assert [change.name for change in outcome.labels] == ["label 0", "label 1", "label 2"]


def test_no_label_may_clearly_fall_whatever_the_others_gain():
    truth = np.arange(800) % 4
    place = np.arange(800) // 4
    theirs = wrong_at(truth, np.where(truth == 0, place < 20, place < 60))
    ours = wrong_at(truth, np.where(truth == 0, place < 100, place < 4))
    outcome = contest(truth, ours, theirs)
    assert outcome.comparison.gain > 0
    assert outcome.comparison.p < outcome.allowed
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECT, Reason.LABEL_LOST)
    assert [change.name for change in outcome.labels if change.lost] == ["label 0"]
    assert contest(truth, ours, theirs, GateSettings(max_class_drop=0.5)).verdict is Verdict.PROMOTE


def test_a_fall_of_a_label_that_may_be_luck_does_not_count():
    truth, place = np.arange(160) % 4, np.arange(160) // 4
    other = np.array([1, 2, 3, 1])[truth]
    theirs = np.where(np.where(truth == 0, place < 1, place < 10), other, truth)
    ours = np.where((truth == 0) & (place >= 35), other, truth)
    outcome = contest(truth, ours, theirs)
    fallen = outcome.labels[0]
    assert fallen.gain < -POLICY.max_class_drop
    assert not fallen.lost
    assert outcome.verdict is Verdict.PROMOTE


def test_one_wrong_answer_does_not_lose_a_label_that_has_one_row():
    truth = np.where(np.arange(400) == 0, 4, np.arange(400) % 4)
    theirs = wrong_at(truth, np.arange(400) % 5 == 3)
    theirs[0] = 4
    ours = np.where(np.arange(400) == 0, 0, wrong_at(truth, np.arange(400) % 50 == 3))
    outcome = contest(truth, ours, theirs)
    assert outcome.labels[4].gain == -1
    assert not outcome.labels[4].lost


@pytest.mark.parametrize("copies", [1, 3])
def test_the_standard_error_of_a_labels_change_is_the_jackknifes(copies):
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 450)
    ours, theirs = (np.where(rng.random(450) < right, truth, rng.integers(0, 3, 450)) for right in (0.85, 0.8))
    groups = np.repeat(each_alone(450 // copies), copies)
    changes = contest(truth, ours, theirs, groups=groups).labels
    without = []
    for group in range(450 // copies):
        rest = groups != group
        one, other = (labelled(truth[rest], it[rest]).by_label for it in (ours, theirs))
        without.append(one - other)
    expected = np.sqrt((len(without) - 1) * np.var(without, axis=0))
    assert [change.standard_error for change in changes] == pytest.approx(expected.tolist(), rel=0.02)


# --- parts ---------------------------------------------------------------------------------------------------------------


def two_parts(declared: float, audited: float, rows: int) -> dict[str, object]:
    """Return a match on ``rows`` declared and as many audited rows.

    The champion is right on 80% of each part, the candidate on that plus ``declared`` and ``audited``.
    """
    right = np.concatenate([np.arange(rows) < round(share * rows) for share in (0.8 + declared, 0.8 + audited)]).astype(float)
    theirs = np.tile(np.arange(rows) < round(0.8 * rows), 2).astype(float)
    ones = np.ones(2 * rows)
    is_declared = np.arange(2 * rows) < rows
    return {
        "pair": pair_of(RatioF1(numerators=right, denominators=ones), RatioF1(numerators=theirs, denominators=ones)),
        "parts": {"declared": is_declared, "audited": ~is_declared},
    }


def test_a_clear_loss_on_one_part_is_refused_whatever_the_other_gains():
    outcome = decide(match_of(**two_parts(0.15, -0.08, 300)), POLICY)
    assert outcome.comparison.gain == pytest.approx(0.035)
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECT, Reason.PART_LOST)
    assert [(part.name, part.guard) for part in outcome.parts] == [("declared", Guard.HELD), ("audited", Guard.LOST)]


def test_a_loss_within_max_drop_is_allowed():
    assert decide(match_of(**two_parts(0.15, -0.01, 2_000)), POLICY).verdict is Verdict.PROMOTE
    assert decide(match_of(**two_parts(0.15, -0.04, 2_000)), POLICY).reason is Reason.PART_LOST
    assert decide(match_of(**two_parts(0.15, -0.04, 2_000)), GateSettings(max_drop=0.06)).verdict is Verdict.PROMOTE


def test_a_loss_beyond_max_drop_that_may_be_luck_is_inconclusive_rather_than_refused():
    row = np.arange(400)
    ours = (row < 200) | (row >= 225)
    theirs = np.where(row < 200, row >= 80, (row < 225) | (row >= 240))
    pair = pair_of(*(RatioF1(numerators=it.astype(float), denominators=np.ones(400)) for it in (ours, theirs)))
    outcome = decide(match_of(pair, parts={"declared": row < 200, "audited": row >= 200}), POLICY)
    assert outcome.parts[1].gain == pytest.approx(-0.05)
    assert outcome.parts[1].guard is Guard.UNKNOWN
    assert outcome.reason is Reason.LOSS_POSSIBLE


def test_a_loss_that_cannot_be_excluded_is_inconclusive():
    outcome = decide(match_of(**two_parts(0.19, -0.015, 200)), POLICY)
    assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.LOSS_POSSIBLE)
    assert [part.guard for part in outcome.parts] == [Guard.HELD, Guard.UNKNOWN]


@pytest.mark.parametrize(("rows", "guard"), [(99, Guard.SMALL), (100, Guard.UNKNOWN)])
def test_a_part_must_exclude_a_loss_from_100_groups_on(rows, guard):
    outcome = decide(match_of(**two_parts(0.19, -0.02, rows)), POLICY)
    assert outcome.parts[1].guard is guard


def test_a_clear_loss_on_a_small_part_counts_too():
    outcome = decide(match_of(**two_parts(0.19, -0.15, 60)), POLICY)
    assert (outcome.parts[1].guard, outcome.reason) == (Guard.LOST, Reason.PART_LOST)


def test_a_part_without_rows_is_no_part():
    world = two_parts(0.1, 0.1, 200)
    assert decide(match_of(**{**world, "parts": {"audited": np.zeros(400, dtype=bool)}}), POLICY).parts == []


# --- slices and budgets --------------------------------------------------------------------------------------------------


def sliced(language: float, rest: float, rows: int) -> Outcome:
    """Return the outcome where ``rows`` rows of one language and as many others change by these shares."""
    world = two_parts(language, rest, rows)
    return decide(match_of(world["pair"], slices={"language de": np.arange(2 * rows) < rows}), POLICY)


def test_a_slice_that_clearly_falls_is_refused_whatever_the_others_gain():
    outcome = sliced(-0.12, 0.19, 300)
    assert outcome.comparison.gain == pytest.approx(0.035)
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECT, Reason.SLICE_LOST)
    [found] = outcome.slices
    assert (found.name, found.groups, found.lost) == ("language de", 300, True)
    assert (found.champion_f1, found.gain) == (pytest.approx(0.8), pytest.approx(-0.12))


def test_a_slice_may_lose_what_a_label_may_and_needs_no_proof_of_its_gain():
    assert sliced(-0.04, 0.15, 1_000).verdict is Verdict.PROMOTE
    assert sliced(-0.3, 0.19, 10).slices[0].lost is False
    assert sliced(0.0, 0.15, 300).verdict is Verdict.PROMOTE


def test_the_more_slices_the_clearer_a_loss_must_be():
    world = two_parts(-0.09, 0.19, 300)
    rows = np.arange(600)
    alone = {"a": rows < 300}
    crowd = {**alone, **{f"b{number}": rows % 200 == number for number in range(200)}}
    first, among = (decide(match_of(world["pair"], slices=slices), POLICY).slices[0] for slices in (alone, crowd))
    assert (first.lost, among.lost) == (True, True)
    weak = two_parts(-0.07, 0.19, 100)
    alone, crowd = {"a": rows[:200] < 100}, {"a": rows[:200] < 100, **{f"b{n}": rows[:200] // 10 == n for n in range(20)}}
    first, among = (decide(match_of(weak["pair"], slices=slices), POLICY).slices[0] for slices in (alone, crowd))
    assert (first.lost, among.lost) == (True, False)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"max_megabytes": 90}, Reason.TOO_LARGE),
        ({"max_latency_ms": 12}, Reason.TOO_SLOW),
        ({"max_megabytes": 91.5, "max_latency_ms": 12.5}, Reason.GAIN),
        ({}, Reason.GAIN),
    ],
)
def test_a_version_over_its_budget_is_refused_however_good_it_is(policy, reason):
    cost = Cost(megabytes=91.5, latency_ms=12.5)
    outcome = contest(*wins_and_losses(30, 0, 200), GateSettings(**policy), cost=cost)
    assert outcome.reason is reason
    first = decide_first(labelled(*wins_and_losses(0, 0, 200)[:2]), each_alone(200), 1, GateSettings(**policy), cost=cost)
    assert first.reason is (Reason.HIGH_ENOUGH if reason is Reason.GAIN else reason)


def test_a_version_whose_cost_was_never_measured_is_within_every_budget():
    policy = GateSettings(max_megabytes=1, max_latency_ms=1)
    assert contest(*wins_and_losses(30, 0, 200), policy).verdict is Verdict.PROMOTE


# --- the winner's optimism -----------------------------------------------------------------------------------------------


def test_only_a_winner_looks_better_than_it_is_and_the_narrower_its_win_the_more():
    close, clear = (contest(*wins_and_losses(wins, 4, 400)) for wins in (16, 60))
    assert close.verdict is clear.verdict is Verdict.PROMOTE
    assert 0 < clear.optimism < 0.2 * clear.comparison.standard_error < close.optimism < close.comparison.standard_error
    assert contest(*wins_and_losses(3, 0, 400)).optimism == 0


def test_the_optimism_is_what_winners_of_a_known_gain_show_too_much():
    rng = np.random.default_rng(11)
    true, shown, told = 0.04, [], []
    while len(shown) < 150:
        answers = [(rng.random(300) < share).astype(float) for share in (0.8 + true, 0.8)]
        pair = pair_of(*(RatioF1(numerators=right, denominators=np.ones(300)) for right in answers))
        outcome = decide(match_of(pair, seed=len(shown)), POLICY)
        if outcome.verdict is Verdict.PROMOTE:
            shown.append(outcome.comparison.gain - true)
            told.append(outcome.optimism)
    assert np.mean(shown) > 0.02
    assert 0.3 * np.mean(shown) < np.mean(told) < np.mean(shown)


# --- how often one may ask -----------------------------------------------------------------------------------------------


def test_the_first_match_may_err_half_of_the_time_the_next_twenty_a_quarter_and_all_others_a_quarter():
    shares = np.array([allowed(0.95, number) for number in range(1, 200_001)])
    assert shares[0] == pytest.approx(0.025)
    assert shares[1:21].sum() == pytest.approx(0.0125)
    assert shares[21:].sum() == pytest.approx(0.0125, rel=1e-3)
    assert shares.sum() == pytest.approx(0.05, rel=1e-3)
    assert shares.sum() < 0.05
    assert np.all(np.diff(shares) < 0)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("number", [1, 2, 3, 21, 300])
def test_what_is_left_after_a_match_is_what_was_not_spent(confidence, number):
    spent = sum(allowed(confidence, earlier) for earlier in range(1, number + 1))
    assert left_after(confidence, number) == pytest.approx(1 - confidence - spent)


# --- how many texts would show it ----------------------------------------------------------------------------------------


def power(win: float, loss: float, groups: int, number: int) -> float:
    """Return the share of 300 candidates that are promoted if they win and lose these shares of all texts."""
    rng = np.random.default_rng(6)
    promoted = 0
    for _ in range(300):
        luck = rng.random(groups)
        ours, theirs = (luck < win).astype(float), ((luck >= win) & (luck < win + loss)).astype(float)
        pair = pair_of(*(RatioF1(numerators=it, denominators=np.ones(groups)) for it in (ours, theirs)))
        promoted += decide(match_of(pair, number=number), POLICY).verdict is Verdict.PROMOTE
    return promoted / 300


@pytest.mark.parametrize(
    ("wins", "losses", "number", "next_number"),
    [(30, 24, 1, 1), (30, 8, 5, 6)],
    ids=["a first match on a holdout that has at least doubled", "the next match"],
)
def test_as_many_texts_as_needed_show_the_gain_four_times_in_five_if_it_is_the_true_one(wins, losses, number, next_number):
    row = np.arange(500)
    ours, theirs = (row < wins).astype(float), ((row >= wins) & (row < wins + losses)).astype(float)
    pair = pair_of(*(RatioF1(numerators=it, denominators=np.ones(500)) for it in (ours, theirs)))
    groups = needed(decide(match_of(pair, number=number), POLICY), POLICY)
    assert (groups >= 1_000) == (next_number == 1)
    assert 0.73 < power(wins / 500, losses / 500, groups, next_number) < 0.87


def test_the_texts_needed_are_those_of_the_next_match():
    outcome = contest(*wins_and_losses(30, 10, 500), number=4)
    distance = norm.isf(allowed(0.95, 5)) + norm.ppf(0.8)
    expected = 500 * (distance * outcome.comparison.standard_error / outcome.comparison.gain) ** 2
    assert expected < 1_000
    assert needed(outcome, POLICY) == np.ceil(expected)


def test_no_number_of_texts_shows_a_gain_that_is_not_there():
    assert needed(contest(*wins_and_losses(5, 8, 100)), POLICY) is None


def test_what_a_match_can_detect_shrinks_with_more_texts_and_grows_with_the_match():
    small, large = (contest(*wins_and_losses(20 * n, 10 * n, 200 * n)).detectable for n in (1, 4))
    assert large == pytest.approx(small / 2, rel=0.02)
    assert contest(*wins_and_losses(20, 10, 200), number=5).detectable > small


# --- first versions ------------------------------------------------------------------------------------------------------


def first(right: int, rows: int, min_f1: float, number: int = 1) -> tuple[Verdict, Reason]:
    metric = RatioF1(numerators=(np.arange(rows) < right).astype(float), denominators=np.ones(rows))
    outcome = decide_first(metric, each_alone(rows), number, GateSettings(min_f1=min_f1))
    assert outcome.f1 == right / rows
    return outcome.verdict, outcome.reason


def test_the_lower_bound_of_a_first_versions_f1_must_reach_min_f1():
    assert first(80, 100, 0.70) == (Verdict.PROMOTE, Reason.HIGH_ENOUGH)
    assert first(80, 100, 0.75) == (Verdict.INCONCLUSIVE, Reason.BOUND_TOO_LOW)
    assert first(80, 100, 0.81) == (Verdict.REJECT, Reason.TOO_LOW)
    assert first(800, 1_000, 0.75) == (Verdict.PROMOTE, Reason.HIGH_ENOUGH)


def test_a_first_version_needs_min_rows():
    assert first(29, 29, 0.5) == (Verdict.INCONCLUSIVE, Reason.FEW_ROWS)
    assert first(30, 30, 0.5) == (Verdict.PROMOTE, Reason.HIGH_ENOUGH)


def test_thirty_right_answers_do_not_show_an_f1_of_95_percent():
    assert first(30, 30, 0.95) == (Verdict.INCONCLUSIVE, Reason.BOUND_TOO_LOW)


def test_later_first_versions_need_more():
    assert first(80, 100, 0.70, number=1)[0] is Verdict.PROMOTE
    assert first(80, 100, 0.70, number=20)[0] is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("right", "rows"), [(80, 100), (0, 40), (40, 40), (1, 1000), (970, 1000)])
def test_the_interval_of_a_share_is_wilsons(right, rows):
    share = right / rows
    expected = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    interval = wilson_interval(share, np.sqrt(share * (1 - share) / rows), rows, 1.959964)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_tiny_standard_error_counts_as_four_times_the_texts_at_most():
    assert wilson_interval(0.8, 1e-6, 50, 1.96) == pytest.approx(wilson_interval(0.8, np.sqrt(0.8 * 0.2 / 200), 50, 1.96))


def test_a_first_version_is_judged_on_texts_not_on_their_copies():
    metric = RatioF1(numerators=np.repeat(np.arange(40) < 32, 10).astype(float), denominators=np.ones(400))
    alone, together = (
        decide_first(metric, groups, 1, GateSettings(min_f1=0.7)).verdict
        for groups in (each_alone(400), np.repeat(each_alone(40), 10))
    )
    assert (alone, together) == (Verdict.PROMOTE, Verdict.INCONCLUSIVE)
