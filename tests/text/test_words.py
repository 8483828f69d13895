"""Where words begin: by hand for many scripts, and what holds for any text."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baton.text.words import UNSPACED, word_starts

TEXTS = st.text() | st.text("ab s9'’.!-“”(）、_@#$ \t\n\u00a0\u0301\ufe0f\u200d東タสั한😀ा")
"""Any characters, and those that the rules tell apart."""


def words(text: str) -> list[str]:
    """The words of ``text``, each up to the next one, white space at its end left out."""
    starts = [*np.flatnonzero(word_starts(text)).tolist(), len(text)]
    assert not text[: starts[0]].strip()
    return [text[start:end].rstrip() for start, end in pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n\u00a0", []),
        ("Oslo", ["Oslo"]),
        ("  to Oslo ", ["to", "Oslo"]),
        ("a\tb\nc\r\nd\u00a0e\u2003f\u3000g", ["a", "b", "c", "d", "e", "f", "g"]),
        ("!", ["!"]),
        ("...", [".", ".", "."]),
        ("Hello, Oslo!?", ["Hello", ",", "Oslo", "!", "?"]),
        ("“Oslo” «Oslo» 'Oslo'", ["“", "Oslo", "”", "«", "Oslo", "»", "'", "Oslo", "'"]),
        ("((Oslo)), [Rome].", ["(", "(", "Oslo", ")", ")", ",", "[", "Rome", "]", "."]),
        ("Obi-Wan and Jean-Luc", ["Obi-Wan", "and", "Jean-Luc"]),
        ("Oslo—and Rome…so", ["Oslo", "—", "and", "Rome", "…", "so"]),
        ("Oslo--a...b", ["Oslo", "-", "-", "a", ".", ".", ".", "b"]),
        ("the U.S. and the U.S", ["the", "U.S", ".", "and", "the", "U.S"]),
        ("AT&T – AC/DC", ["AT&T", "–", "AC/DC"]),
        ("https://a.org/b?c=1#d, or <me@a.org>", ["https://a.org/b?c=1#d", ",", "or", "<", "me@a.org", ">"]),
        ("@clara_w: #Oslo2024 $5.00 50%", ["@clara_w", ":", "#Oslo2024", "$5.00", "50", "%"]),
        ("(@anna’s), .@_anna_: C# a$ @ #", ["(", "@anna", "’s", ")", ",", ".", "@_anna_", ":", "C#", "a$", "@", "#"]),
        ("我@京#京#", ["我", "@", "京", "#", "京", "#"]),
        ("York's mayor", ["York", "'s", "mayor"]),
        ("York’s, JAMES’S.", ["York", "’s", ",", "JAMES", "’S", "."]),
        ("'Titanic''s “Titanic”'s", ["'", "Titanic", "'", "'s", "“", "Titanic", "”", "'s"]),
        ("boys' it's", ["boys", "'", "it", "'s"]),
        ("O'Brien O’Sullivan d'souza's", ["O'Brien", "O’Sullivan", "d'souza", "'s"]),
        ("'s 90's.", ["'", "s", "90", "'s", "."]),
        ("l's\u0301", ["l's\u0301"]),  # ś, taken apart
        ("北京大学。", ["北", "京", "大", "学", "。"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("か\u3099", ["か", "\u3099"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("สวัสดี", list("สวัสดี")),
        ("ភ្នំ မြို့ ལྷ་ས", [*"ភ្នំ", *"မြို့", *"ལྷ་ས"]),
        ("我用iPhone 15拍照", ["我", "用", "iPhone", "15", "拍", "照"]),
        ("他用iPhone，在北京（Beijing）。", ["他", "用", "iPhone", "，", "在", "北", "京", "（", "Beijing", "）", "。"]),
        ("iPhone、iPad：a！b～c…d", ["iPhone", "、", "iPad", "：", "a", "！", "b", "～", "c", "…", "d"]),
        ("ＡＢＣ１２　ａ", ["ＡＢＣ１２", "ａ"]),
        ("「Obi-Wan」は", ["「", "Obi-Wan", "」", "は"]),
        ("한국어 서울에서", ["한국어", "서울에서"]),
        ("Привет, «Москва»!", ["Привет", ",", "«", "Москва", "»", "!"]),
        ("مرحبا، بالعالم", ["مرحبا", "،", "بالعالم"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("मेरी दिल्ली में।", ["मेरी", "दिल्ली", "में", "।"]),
        ("हिन्दु, हि!", ["हिन्दु", ",", "हि", "!"]),
        ("cafe\u0301, Rene\u0301’s Nguye\u0302\u0303n.", ["cafe\u0301", ",", "Rene\u0301", "’s", "Nguye\u0302\u0303n", "."]),
        ("\u0301abc", ["\u0301", "abc"]),  # on nothing
        ("x² ½ Ⅷ", ["x²", "½", "Ⅷ"]),
        ("Oslo😀 😀Oslo", ["Oslo", "😀", "😀", "Oslo"]),
        ("Oslo‼\ufe0f ❤\ufe0fOslo", ["Oslo", "‼", "\ufe0f", "❤", "\ufe0f", "Oslo"]),
        ("👩\u200d👧!", ["👩", "\u200d", "👧", "!"]),
        ("1\ufe0f\u20e3 go", ["1\ufe0f\u20e3", "go"]),
    ],
)  # fmt: skip
def test_a_text_has_the_words_that_a_reader_sees(text, expected):
    assert words(text) == expected


@settings(max_examples=300)
@given(TEXTS)
def test_there_is_an_answer_for_each_character(text):
    starts = word_starts(text)
    assert (starts.dtype, starts.shape) == (np.dtype(bool), (len(text),))


@settings(max_examples=300)
@given(TEXTS)
def test_no_word_begins_at_white_space_and_one_begins_after_it(text):
    starts = word_starts(text)
    for place, character in enumerate(text):
        if character.isspace():
            assert not starts[place]
        elif place == 0 or text[place - 1].isspace():
            assert starts[place]


@settings(max_examples=300)
@given(TEXTS)
def test_every_character_of_an_unspaced_script_begins_a_word_and_so_does_what_follows_it(text):
    starts = word_starts(text)
    for place, character in enumerate(text):
        if UNSPACED.match(character) and not character.isspace():
            assert starts[place]
            assert place + 1 == len(text) or starts[place + 1] or text[place + 1].isspace()


@settings(max_examples=300)
@given(TEXTS)
@example("a's!")
def test_a_word_of_several_characters_has_no_punctuation_at_its_edges_but_the_apostrophe_of_the_possessive(text):
    for word in words(text):
        bare = re.sub("^['’](?=[sS])", "", word)
        for edge in (bare[0], bare[-1]) if len(word) > 1 else ():
            assert edge.isalnum() or edge in "@#$_" or unicodedata.category(edge)[0] == "M"


@settings(max_examples=300)
@given(TEXTS, TEXTS, st.sampled_from(" \n\u00a0"))
def test_what_stands_beyond_white_space_changes_nothing(before, after, space):
    joined = word_starts(before + space + after)
    assert joined.tolist() == [*word_starts(before).tolist(), False, *word_starts(after).tolist()]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a" + "!" * 199_999, 200_000),
        ("!" * 199_999 + "a", 200_000),
        ("a" + "!" * 199_998 + "a", 1),
        ("a'" * 100_000, 2),
        ("'s" * 100_000, 100_001),
        ("京!" * 100_000, 200_000),
        ("e" + "\u0301" * 199_999, 1),
        ("!" + "\u0301" * 199_999, 200_000),
    ],
)
def test_long_runs_without_white_space_are_read_in_linear_time(text, count):
    """With work that grew as the square of the length, each would take hours."""
    assert word_starts(text).sum() == count
