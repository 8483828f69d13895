"""The draw of the audit, and the batches whose labels may judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from baton.quality.audit import BATCH, COVERAGE, batches, complete_batches, is_drawn
from baton.text.normal_form import fingerprint

SECRET = bytes(range(32))
TEXTS = [fingerprint(f"text {number}") for number in range(20_000)]
NEEDED = round(COVERAGE * BATCH)


@dataclass(frozen=True)
class Drawn:
    """A drawn text, as far as batches are concerned."""

    number: int
    done: bool


def drawn(share: float, secret: bytes = SECRET, model: str = "m") -> set[str]:
    return {text for text in TEXTS if is_drawn(secret, model, text, share)}


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.99])
def test_the_draw_has_its_share_of_all_texts(share):
    deviation = (share * (1 - share) * len(TEXTS)) ** 0.5
    assert len(drawn(share)) == pytest.approx(share * len(TEXTS), abs=4 * deviation)


def test_a_share_of_nothing_draws_nothing():
    assert drawn(0.0) == set()


def test_a_larger_share_keeps_what_a_smaller_one_has_drawn():
    assert drawn(0.02) < drawn(0.05) < drawn(0.5)


def test_the_draw_is_the_same_after_a_restart():
    assert [number for number, text in enumerate(TEXTS[:100]) if is_drawn(SECRET, "m", text, 0.05)] == [13, 37, 50, 53, 65, 99]


def test_whoever_does_not_know_the_secret_or_asks_another_model_cannot_tell_what_is_drawn():
    """Draws with two keys are independent: they have a share of a share in common."""
    here = drawn(0.2)
    for other in (drawn(0.2, secret=bytes(32)), drawn(0.2, model="n")):
        assert len(here & other) == pytest.approx(0.04 * len(TEXTS), abs=4 * (0.04 * 0.96 * len(TEXTS)) ** 0.5)


def test_a_model_and_a_text_are_told_apart():
    """The model ``ab`` with the text ``c`` is not the model ``a`` with the text ``bc``."""
    assert [is_drawn(SECRET, "m1", text, 0.5) for text in TEXTS[:50]] != [
        is_drawn(SECRET, "m", f"1{text}", 0.5) for text in TEXTS[:50]
    ]


# --- batches -------------------------------------------------------------------------------------------------------------


def audited(*done: int) -> list[Drawn]:
    """Full batches of which so many texts are done, the first of each."""
    return [Drawn(start * BATCH + number, number < count) for start, count in enumerate(done) for number in range(BATCH)]


def numbers(found: Sequence[Sequence[Drawn]]) -> list[int]:
    """Which batches they are, from 0."""
    return [batch[0].number // BATCH for batch in found]


def test_a_batch_judges_once_nine_tenths_of_it_are_done():
    assert numbers(list(complete_batches(audited(NEEDED - 1)))) == []
    assert numbers(list(complete_batches(audited(NEEDED)))) == [0]
    [whole] = complete_batches(audited(NEEDED))
    assert [one.number for one in whole] == list(range(BATCH))  # with the texts that are not done


def test_a_batch_that_lags_keeps_no_later_one_from_judging():
    assert numbers(list(complete_batches(audited(BATCH, 0, NEEDED)))) == [0, 2]


def test_a_batch_that_still_grows_does_not_judge_even_if_all_of_it_is_done():
    texts = audited(BATCH, BATCH)[: 2 * BATCH - 1]
    assert [len(batch) for batch in batches(texts)] == [BATCH, BATCH - 1]
    assert numbers(list(complete_batches(texts))) == [0]


def test_without_texts_there_are_no_batches():
    assert list(batches([])) == []
    assert list(complete_batches([])) == []
