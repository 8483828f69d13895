"""Texts with masks for personal data: which of them count as the same."""

from __future__ import annotations

import pytest

from baton.tasks.classification import Classification
from baton.text import masks
from baton.text.masks import MASK, masker, remainder

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


LONG = {"letters": "a" * 2**20, "digits": "1" * 2**20, "pairs": "a@" * 2**18, "one mark at the end": "a" * 2**20 + "@"}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("pattern", [r"\S+@\S+", r"(\w+\s?)+!", r"(\d+)+x", r"(a|aa)+$"])
def test_no_text_keeps_a_pattern_busy_for_long_and_what_it_could_not_search_is_hidden(pattern, kind):
    """`re` needs 16 minutes for a megabyte of letters and the first pattern, which docs/feedback.md shows."""
    text = LONG[kind]
    masked = masker([pattern])(Classification.Input(text=text)).text
    assert len(masked) == len(text)
    hidden = MASK in masked
    assert hidden or (pattern, kind) not in {(r"\S+@\S+", "pairs"), (r"(a|aa)+$", "letters")}


def test_a_text_that_cannot_be_searched_in_time_is_masked_whole(monkeypatch):
    monkeypatch.setattr(masks, "SECONDS", 1e-9)
    text = "a" * 5000 + " ann@x.de " + "1 " * 5000
    assert masker([r"(?:\w+\s?)+!"])(Classification.Input(text=text)).text == MASK * len(text)
