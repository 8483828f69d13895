"""The languages of the console: which one a visitor gets, and its words. The English words are the keys of the catalogue.

What Baton stores as a sentence (decisions, reasons, the history) is English in every language.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources

from services.report.words import Language

LANGUAGES: Mapping[Language, str] = {"en": "English", "zh": "简体中文"}
"""Codes (BCP 47) and names, in the language itself. The first is for those who want none of them."""

LANGUAGE_COOKIE = "baton_language"


@cache
def chinese() -> Mapping[str, str]:
    """Return Simplified Chinese by the English words."""
    words: Mapping[str, str] = json.loads(resources.files("services.console").joinpath("zh.json").read_text(encoding="utf-8"))
    return words


class Words(str):
    """English words that a template translates; the type tells the test of the catalogue."""

    __slots__ = ()


Translate = Callable[..., str]
"""Takes the English words, and values for the names in braces in them."""


def chosen_language(cookie: str | None, accepted: str) -> Language:
    """Return the language of a visitor: what the switch stored, else the best of the header ``Accept-Language``."""
    if (chosen := _known(cookie)) is not None:
        return chosen
    ranges = [_range(part) for part in accepted.split(",") if part.strip()]
    for tag, _ in sorted(ranges, key=lambda found: -found[1]):
        if (chosen := _known(tag.partition("-")[0])) is not None:
            return chosen
    return next(iter(LANGUAGES))


def _known(code: str | None) -> Language | None:
    return next((language for language in LANGUAGES if language == code), None)


def translator(language: str) -> Translate:
    """Return the function that gives words in a language. Unknown words, such as the names of new states, stay as they are."""

    def translate(text: str, /, **values: object) -> str:
        words = chinese().get(text, text) if language == "zh" else text
        return words.format(**values) if values else words

    return translate


def _range(part: str) -> tuple[str, float]:
    """Return the tag and the weight of one part of ``Accept-Language`` (RFC 9110, 12.5.4)."""
    tag, _, weight = part.partition(";q=")
    try:
        return tag.strip().lower(), float(weight or 1)
    except ValueError:
        return tag.strip().lower(), 0.0
