"""What speaks against a version on trial: failures, slowness, wrong answers; and how often it does so by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from baton.quality.trials import ENOUGH_RATIOS, EXAMPLES, TrialCounts, TrialFeedback, complaint, evidence, total

NO_FEEDBACK = TrialFeedback()


def complain(counts: TrialCounts, feedback: TrialFeedback = NO_FEEDBACK, share: float = 0.1) -> str | None:
    return complaint(counts, feedback, share=share, confidence=0.99, max_latency_ratio=3.0)


def test_nothing_measured_is_no_complaint():
    assert complain(TrialCounts()) is None


def test_a_version_that_raises_is_noticed_after_three_errors_at_a_tenth_of_the_requests():
    counts = TrialCounts(answers=40, champion_answers=400)
    assert complain(replace(counts, errors=2)) is None
    found = complain(replace(counts, errors=3))
    assert found == "of its 43 requests 3 raised an error; the champion failed on 0 of 400"


def test_errors_that_the_champion_has_in_proportion_are_no_complaint():
    assert complain(TrialCounts(answers=97, errors=3, champion_answers=970, champion_errors=30)) is None


def test_late_answers_count_as_failures():
    assert complain(TrialCounts(answers=1, late=4)) == ("of its 5 requests 4 came too late; the champion failed on 0 of 0")


@pytest.mark.parametrize(
    ("ratio", "number", "complains"), [(3.1, ENOUGH_RATIOS, True), (2.9, ENOUGH_RATIOS, False), (9.0, 5, False)]
)
def test_a_slow_version_is_noticed_by_the_median_of_enough_ratios(ratio, number, complains):
    found = complain(TrialCounts(ratios=(ratio,) * number))
    assert (found is not None) == complains
    if complains:
        assert "3.1 times as long as the champion for the same inputs (rollout.max_latency_ratio: 3)" in found


def test_one_disturbed_measurement_of_time_does_not_matter():
    assert complain(TrialCounts(ratios=(1.0,) * ENOUGH_RATIOS + (500.0,) * 5)) is None


def test_a_batch_that_never_ends_is_a_complaint():
    assert complain(TrialCounts(stalled_seconds=31)) == "it has not finished a batch in 31 s"
    assert complain(TrialCounts(stalled_seconds=29)) is None


def test_wrong_answers_by_feedback_are_compared_with_the_champions_share():
    worse = TrialFeedback(wrong=10, champion_wrong=12, f1=0.4, champion_f1=0.8)
    assert complain(TrialCounts(answers=100), worse) == (
        "feedback found 10 of its answers wrong, and 12 of the champion's; by its share of the requests, 2.2 of these 22 "
        "would be its own, F1 0.400 against 0.800"
    )
    assert complain(TrialCounts(answers=100), TrialFeedback(wrong=2, champion_wrong=18)) is None


def test_a_shadow_is_judged_by_the_pairs_on_which_one_version_alone_is_wrong():
    pairs = TrialFeedback(wrong=10, champion_wrong=0, f1=0.4, champion_f1=0.8, pairs=40, champion_errors=10)
    assert complain(TrialCounts(answers=100), pairs, share=0.5) == (
        "of 40 corrected inputs that both versions ran, it alone was wrong on 10, and the champion alone on 0, "
        "F1 0.400 against 0.800"
    )
    assert complain(TrialCounts(answers=100), replace(pairs, champion_wrong=10), share=0.5) is None


def test_confirmations_of_the_champions_answers_do_not_speak_against_a_shadow():
    """Where only right answers are confirmed, a shadow that errs as often, but elsewhere, is wrong alone each time."""
    confirmed = TrialFeedback(wrong=40, champion_wrong=0, f1=0.4, champion_f1=0.99, pairs=400, champion_errors=4)
    assert complain(TrialCounts(answers=400), confirmed, share=0.5) is None
    assert complain(TrialCounts(answers=400), replace(confirmed, champion_errors=5), share=0.5) is not None


def test_a_shadow_that_is_no_worse_is_sent_back_rarer_than_allowed_also_if_both_fail_on_the_same_texts():
    """Half of the texts are hard for both; each version is wrong on 60% of those, and on no others."""
    rng = np.random.default_rng(7)
    complaints = 0
    for _ in range(500):
        hard = rng.random(200) < 0.5
        mine, champions = (hard & (rng.random(200) < 0.6) for _ in range(2))
        wrong, champion_wrong = np.cumsum(mine & ~champions), np.cumsum(champions & ~mine)
        values = [evidence(int(a), int(b), 0.5) for a, b in zip(wrong, champion_wrong, strict=True)]
        complaints += max(values) >= 20
    assert complaints <= 25  # 5% of 500


def test_looking_after_every_bad_case_complains_of_an_equal_version_rarer_than_allowed():
    """The point of an e-value: 1 − confidence holds over all looks together, not for each one."""
    rng = np.random.default_rng(7)
    complaints = 0
    for _ in range(1000):
        mine = np.cumsum(rng.random(200) < 0.1)
        values = [evidence(int(bad), number + 1 - int(bad), 0.1) for number, bad in enumerate(mine)]
        complaints += max(values) >= 20
    assert complaints <= 50  # 5% of 1,000; a test at 5% for each look would complain of about 200


def test_a_version_twice_as_bad_is_found():
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(200):
        bad = int((rng.random(300) < 0.2 / 1.1).sum())  # twice its share of a tenth: 0.2 of 1.1
        found += evidence(bad, 300 - bad, 0.1) >= 100
    assert found > 100


def test_the_total_keeps_the_longest_stall_all_ratios_and_the_most_different_examples():
    def counts(offset: float) -> TrialCounts:
        examples = tuple({"shift": offset + number / 100} for number in range(EXAMPLES))
        return TrialCounts(answers=2, errors=1, shift=0.5, ratios=(offset,), stalled_seconds=offset, examples=examples)

    found = total([counts(0.2), counts(0.5)])
    assert (found.answers, found.errors, found.shift, found.ratios, found.stalled_seconds) == (4, 2, 1.0, (0.2, 0.5), 0.5)
    assert [example["shift"] for example in found.examples] == [0.5 + number / 100 for number in reversed(range(EXAMPLES))]
    assert total([]) == TrialCounts()
