"""Scores of answers are SQuAD's, thresholds and spans are those that trying everything would find."""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.text.answers import CJK, best_spans, best_threshold, exact_match, f1, normalise, words

PIECES = st.sampled_from(
    ["the", "a", "An", "cat", "Cat", "sat", "mat.", "'s", "—", "“", " ", "\t", "\u00a0", "é", "1,000", "$5", "-"]
)
TEXTS = st.one_of(st.text(max_size=12), st.lists(PIECES, max_size=8).map("".join), st.lists(PIECES, max_size=8).map(" ".join))
LATIN = TEXTS.filter(lambda text: not re.search(f"[{CJK}]", text))


def by_the_rules(text: str) -> list[str]:
    """SQuAD's tokens, one rule after the other."""
    lowered = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", lowered).split()


def f1_by_the_rules(prediction: str, references: list[str]) -> Fraction:
    best = Fraction(0)
    for reference in [reference for reference in references if by_the_rules(reference)] or [""]:
        given_words, right_words = by_the_rules(prediction), by_the_rules(reference)
        common = sum((Counter(given_words) & Counter(right_words)).values())
        if not given_words or not right_words:
            best = max(best, Fraction(given_words == right_words))
        elif common:
            precision, recall = Fraction(common, len(given_words)), Fraction(common, len(right_words))
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


# --- normalisation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("a cat, an apple and the mat", "cat apple and mat"),
        ("theatre another banana", "theatre another banana"),
        ("It's 1,000 U.S. dollars!", "its 1000 us dollars"),
        ("well-known", "wellknown"),
        ("  tab\tnew\nline  ", "tab new line"),
        ("the-end", "theend"),
        ("A.", ""),
        ("naïve — “café”", "naïve — “café”"),
        ("«北京»、 中国。", "北京 中国"),
        ("“好”", "好"),
        ("", ""),
    ],
)
def test_texts_are_normalised_as_squad_does(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the Great Wall", ["great", "wall"]),
        ("北京市", ["北", "京", "市"]),
        ("在1990年", ["在", "1990", "年"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("ひらがな・カナ", ["ひ", "ら", "が", "な", "カ", "ナ"]),
        ("서울은 the 수도", ["서", "울", "은", "수", "도"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("ｱﾊﾟ", ["ｱ", "ﾊ", "ﾟ"]),
        ("Hello世界", ["hello", "世", "界"]),
        ("москва и мир", ["москва", "и", "мир"]),
        ("กรุงเทพ", ["กรุงเทพ"]),
    ],
)
def test_cjk_is_split_into_characters_and_nothing_else_is(text, expected):
    assert words(text) == expected


@given(LATIN)
def test_texts_without_cjk_have_squads_words(text):
    assert words(text) == by_the_rules(text)
    assert normalise(text) == " ".join(by_the_rules(text))


# --- exact match and F1 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "fraction"),
    [
        ("the cat", ["Cat."], True, (2, 2)),
        ("cat sat", ["cat"], False, (2, 3)),
        ("cat", ["cat sat on mat"], False, (2, 5)),
        ("dog", ["cat"], False, (0, 2)),
        ("cat cat", ["cat"], False, (2, 3)),
        ("cat cat dog", ["dog cat cat"], False, (6, 6)),
        ("sat cat", ["cat sat"], False, (4, 4)),
        ("in 1066", ["1066", "in the year 1066"], False, (4, 5)),
        ("", ["cat"], False, (0, 1)),
        ("cat", [], False, (0, 1)),
        ("", [], True, (1, 1)),
        ("the", [], True, (1, 1)),
        ("", ["the", "..."], True, (1, 1)),
        ("", ["the", "cat"], False, (0, 1)),
        ("cat", ["the", "cat"], True, (2, 2)),
        ("北京", ["北京市"], False, (4, 5)),
        ("“北京市”。", ["北京市"], True, (6, 6)),
        ("서울은", ["서울"], False, (4, 5)),
    ],
)
def test_scores_are_those_computed_by_hand(prediction, references, exact, fraction):
    assert exact_match(prediction, references) is exact
    assert f1(prediction, references) == fraction


@given(LATIN, st.lists(LATIN, max_size=3))
def test_f1_is_that_of_the_rules_as_an_exact_fraction(prediction, references):
    assert Fraction(*f1(prediction, references)) == f1_by_the_rules(prediction, references)


@given(LATIN, st.lists(LATIN, max_size=3))
def test_exact_match_is_equality_of_words_in_order(prediction, references):
    right = [by_the_rules(reference) for reference in references if by_the_rules(reference)] or [[]]
    assert exact_match(prediction, references) == (by_the_rules(prediction) in right)


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_an_exact_match_has_f1_one_and_fractions_lie_between_zero_and_one(prediction, references):
    numerator, denominator = f1(prediction, references)
    assert 0 <= numerator <= denominator > 0
    if exact_match(prediction, references):
        assert numerator == denominator


# --- threshold -----------------------------------------------------------------------------------------------------------


def mean_at(threshold: float, rows: list[tuple[float, float, float]]) -> float:
    return float(np.mean([abstained if margin > threshold else answered for margin, answered, abstained in rows]))


QUARTERS = st.integers(0, 4).map(lambda count: count / 4)
MARGINS = st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50))


@given(st.lists(st.tuples(MARGINS, QUARTERS, QUARTERS), min_size=1, max_size=12))
def test_no_threshold_has_a_better_mean_score(rows):
    found = best_threshold(*zip(*rows, strict=True))
    margins = [margin for margin, _, _ in rows]
    assert np.isfinite(found)
    assert mean_at(found, rows) == pytest.approx(max(mean_at(t, rows) for t in [*margins, min(margins) - 1]))


def test_the_threshold_lies_midway_between_rows_with_and_without_an_answer():
    assert best_threshold([-4, -2, 3, 5], [1, 1, 0, 0], [0, 0, 1, 1]) == 0.5


def test_of_equally_good_thresholds_the_one_nearest_to_zero_is_taken():
    assert best_threshold([-4, -1, 2, 9], [1, 0.5, 0.5, 0], [0, 0.5, 0.5, 1]) == 0.5


def test_a_threshold_may_let_every_row_answer_or_none():
    assert best_threshold([-2.0, 7.0], [1, 1], [0, 0]) == 8
    assert best_threshold([-2.0, 7.0], [0, 0], [1, 1]) == -3


def test_margins_that_are_neighbouring_floats_are_told_apart():
    low, high = 1.0, float(np.nextafter(1.0, 2.0))
    for pair in ((low, high), (high, float(np.nextafter(high, 2.0)))):
        threshold = best_threshold(pair, [1, 0], [0, 1])
        assert pair[0] <= threshold < pair[1]


# --- spans ---------------------------------------------------------------------------------------------------------------


@st.composite
def tokens(draw: st.DrawFn) -> dict[str, list[int]]:
    """Tokens of a few windows. Characters may repeat, run backwards or be none, as odd tokenizers have it."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    count = sum(sizes)
    numbers = {
        name: draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
        for name in ("begins", "finishes", "starts", "ends")
    }
    limits = [limit for size, limit in zip(sizes, itertools.accumulate(sizes), strict=True) for _ in range(size)]
    return {**numbers, "limits": limits}


def search(numbers: dict[str, list[int]], longest: int, count: int) -> list[tuple[int, int, float]]:
    arrays = {name: np.array(numbers[name], dtype=np.int64) for name in ("begins", "finishes", "limits")}
    logits = {name: np.array(numbers[name], dtype=np.float64) for name in ("starts", "ends")}
    spans, sums = best_spans(**arrays, **logits, longest=longest, count=count)
    return [(begin, finish, total) for (begin, finish), total in zip(spans.tolist(), sums.tolist(), strict=True)]


@given(tokens(), st.integers(1, 8), st.integers(1, 12), st.sampled_from([1, 4, 1 << 16]))
def test_the_best_spans_are_those_of_trying_all_pairs(numbers, longest, count, block):
    best: dict[tuple[int, int], float] = {}
    for first, limit in enumerate(numbers["limits"]):
        for last in range(first, min(limit, first + longest)):
            span = (numbers["begins"][first], numbers["finishes"][last])
            if span[0] < span[1]:
                best[span] = max(best.get(span, -np.inf), numbers["starts"][first] + numbers["ends"][last])
    expected = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baton.text.answers.BLOCK", block)
        assert search(numbers, longest, count) == [(*span, total) for span, total in expected]
