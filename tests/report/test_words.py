"""The languages of the report: each says everything."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from services import report
from services.report.words import LANGUAGES, TAGS, WORDS, Words
from training.judge.gate import KNOWN_LABELS, Reason
from training.judge.guards import Guard
from training.judge.holdout import AUDITED, DECLARED
from training.judge.report import WHOLE

ROOM = Path(report.__path__[0])


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_language_has_the_same_keys_with_the_same_places():
    assert {language: WORDS[language].keys() for language in LANGUAGES} == dict.fromkeys(LANGUAGES, WORDS["en"].keys())
    for key, text in WORDS["en"].items():
        assert {language: places(WORDS[language][key]) for language in LANGUAGES} == dict.fromkeys(LANGUAGES, places(text)), key
        assert all(WORDS[language][key].strip() for language in LANGUAGES), key
    assert TAGS.keys() == WORDS.keys() == set(LANGUAGES)


def test_whatever_the_gate_can_say_has_words():
    keys = WORDS["en"].keys()
    assert {f"reason.{reason}" for reason in Reason} <= keys
    assert {f"part.{name}" for name in (WHOLE, DECLARED, AUDITED, KNOWN_LABELS)} <= keys
    assert {f"guard.{guard}" for guard in Guard if guard is not Guard.SMALL} <= keys


def test_the_template_asks_for_words_that_there_are_and_no_word_is_left_over():
    said = "".join(file.read_text() for file in ROOM.iterdir() if file.suffix in (".py", ".html") and file.name != "words.py")
    keys = set(WORDS["en"])
    asked = set(re.findall(r'\bt\("([a-z_.]+)"[,)]', (ROOM / "report.html").read_text()))
    assert asked <= keys
    built = ("verdict.", "reason.", "part.", "guard.", "state.", "judges.", "judged.", "version.", "count.", "at_least.")
    built += ("at_most.", "condition.")
    assert [key for key in sorted(keys) if f'"{key}"' not in said and not key.startswith(built)] == []


def test_names_that_users_gave_stay_as_they_are():
    words = Words("zh")
    assert (words.name("part", WHOLE), words.name("part", "language de")) == ("整个留出集", "language de")
    with pytest.raises(KeyError):
        words("nothing")
