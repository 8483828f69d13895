"""Texts with masks for personal data: which of them count as the same."""

from __future__ import annotations

import pytest

from baton.tasks.classification import Classification
from baton.text.masks import masker, remainder

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
    rest = remainder([CARD, MAIL])
    assert (rest(one) == rest(other)) is same


def test_without_patterns_only_masks_that_are_there_count():
    rest = remainder([])
    assert rest("card 12345") != rest("card 67890")
    assert rest("card ██") == rest("card █████") != rest("card 12345")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"Straße \d+", "wohne Straße 12 hier"),
        (r"(?<![A-Z])\d{5}", "call x12345 now"),
        (r"[^A-Z\s]\d{5}", "call x12345 now"),
        (r"\d{4}  \d{4}", "card 1234  5678 lost"),
        (r"\d", "i have 3 cards"),
    ],
)
def test_what_the_log_masked_of_a_text_counts_as_that_text_whatever_the_pattern(pattern, text):
    masked = masker([pattern])(Classification.Input(text=text)).text
    assert masked != text
    assert remainder([pattern])(masked) == remainder([pattern])(text)
