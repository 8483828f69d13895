"""Texts with masks for personal data: which of them count as the same."""

from __future__ import annotations

import pytest

from baton.masks import blinder

CARD, MAIL = r"\d[\d\s]{3,}\d", r"[a-z.]+@[a-z.]+"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("card 1234 5678 lost", "card 9999 lost", False),  # four digits are no card
        ("card 1234 5678 lost", "card 99999 lost", True),
        ("card 1234 5678 lost", "Card\u00a0█████████ lost", True),
        ("card 1234 5678 lost", "card ███ lost", True),
        ("card 1234 5678 lost", "card 1234 5678 found", False),
        ("mail ANN@X.DE", "mail ████████", True),
        ("12345", "67890", False),  # nothing but masks would be left
        ("no secrets", "NO  secrets", True),
    ],
)
def test_texts_are_the_same_when_they_differ_in_what_is_masked_only(one, other, same):
    blind = blinder([CARD, MAIL])
    assert (blind(one) == blind(other)) is same


def test_without_patterns_only_masks_that_are_there_count():
    blind = blinder([])
    assert blind("card 12345") != blind("card 67890")
    assert blind("card ██") == blind("card █████") != blind("card 12345")
