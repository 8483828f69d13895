"""chrF of two texts, as sacrebleu computes it for a sentence."""

from __future__ import annotations

import pytest
import sacrebleu

from baton.text.chrf import chrf

PAIRS = [("The cat sat on the mat.", "A cat sat on a mat."), ("1976-07-04", "1976-07-14"), ("北京是首都", "北京是中国的首都")]


@pytest.mark.parametrize(("text", "reference"), PAIRS)
def test_it_is_sacrebleus_in_shares_of_one(text, reference):
    assert chrf(text, [reference]) == pytest.approx(sacrebleu.sentence_chrf(text, [reference]).score / 100)
    assert 0 < chrf(text, [reference]) < 1


@pytest.mark.parametrize("text", ["a", "1976-07-04", "北京", "two words"])
def test_one_of_the_references_is_perfect_and_nothing_is_nothing(text):
    assert chrf(text, ["something else", text]) == 1
    assert chrf("", [text]) == 0


def test_of_several_references_the_nearest_counts():
    near, far = "The cat sat on the mat", "Where is it?"
    assert chrf("The cat sat.", [far, near]) == chrf("The cat sat.", [near]) > chrf("The cat sat.", [far])
