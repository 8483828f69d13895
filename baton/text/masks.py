"""Masks personal data in the texts of an input, character by character, so that offsets into the texts stay right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex
from pydantic import BaseModel

from baton.text.normal_form import fingerprint, normalise

MASK = "█"
"""Replaces each character that a pattern matches."""

SECONDS = 0.1
"""How long a pattern may search one text. There are texts for which a pattern needs hours; these are masked whole."""

FINGERPRINT_SECONDS = 10.0
"""The same where the result must not depend on how busy the machine is."""


def masker(patterns: Sequence[str]) -> Callable[[Any], Any]:
    """Return a function that masks everything that any of ``patterns`` matches in an input, an answer or a text.

    Each pattern is applied to the text as it was sent, not to the text that other patterns have masked.
    """
    compiled = [regex.compile(pattern) for pattern in patterns]

    def mask_text(text: str) -> str:
        return _masked(compiled, text, SECONDS)

    def mask(item: Any) -> Any:
        if isinstance(item, str):
            return mask_text(item)
        texts = {name: value for name, value in item if isinstance(value, str)}
        return item.model_copy(update={name: mask_text(value) for name, value in texts.items()})

    return mask if compiled else lambda item: item


def remainder(patterns: Sequence[str]) -> Callable[[str], str]:
    """Return a function that maps a text, masked or not, to the part that masks leave of it, to find duplicates.

    The result is the same for a text and for its copy masked by `masker`, also if they differ in case or white space, as long
    as the patterns match the same in both. A text of which only masks would be left is returned whole, normalised.
    """
    as_written = [regex.compile(pattern) for pattern in patterns]
    folded = [regex.compile(pattern, regex.IGNORECASE) for pattern in patterns]  # a normalised text has no capitals

    def rest(text: str) -> str:
        normalised = normalise(text)
        masked = _masked_whole(folded, normalise(_masked_whole(as_written, text)))
        return regex.sub(f"{MASK}+", MASK, masked) if regex.search(r"\w", masked) else normalised

    return rest


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupKeys:
    """Fingerprints that decide the split of a text. See `group_keys`."""

    group: str
    """Fingerprint of the text. All rows of a group are in one split."""
    masked_group: str
    """Fingerprint of what masks leave of the text. A masked text may be any text with the same ``masked_group``."""
    masked: bool
    """Whether parts of the text are hidden by masks."""

    def in_ledger(self, *, held_out: bool) -> tuple[str, ...]:
        """Return the fingerprints under which the ledger records the split, that of the group first.

        The ``masked_group`` is recorded for texts that are held out and for masked ones. Two whole texts of train need no
        comparison.
        """
        return (self.group, self.masked_group) if held_out or self.masked else (self.group,)


def group_keys(redact: Sequence[str]) -> Callable[[str], GroupKeys]:
    """Return a function that maps a text (`Task.group`) to its fingerprints.

    ``redact``: the patterns that the prediction log masks. Without any, the mask character is a character like any other.
    """
    unmasked_part = remainder(redact)

    def keys(text: str) -> GroupKeys:
        return GroupKeys(
            group=fingerprint(text),
            # the NUL keeps it apart from the fingerprint of any whole text
            masked_group=fingerprint(f"\0{unmasked_part(text)}" if redact else text),
            masked=bool(redact) and MASK in text,
        )

    return keys


def same_but_for_masks(masked: Mapping[str, Any], item: BaseModel) -> bool:
    """Return whether ``masked``, an input as JSON values, is ``item`` with some characters masked, or none."""
    return all(_hides(masked.get(name), value) for name, value in item)


def _hides(masked: object, value: object) -> bool:
    if masked == value:
        return True
    if not isinstance(masked, str) or not isinstance(value, str) or len(masked) != len(value):
        return False
    return all(one in (MASK, other) for one, other in zip(masked, value, strict=True))


def _masked(patterns: Sequence[regex.Pattern[str]], text: str, seconds: float) -> str:
    spans = [span for pattern in patterns for span in _spans(pattern, text, seconds)]
    if not spans:
        return text
    characters = list(text)
    for start, end in spans:
        characters[start:end] = MASK * (end - start)
    return "".join(characters)


def _spans(pattern: regex.Pattern[str], text: str, seconds: float) -> list[tuple[int, int]]:
    """Return where a pattern matches; everywhere if it searches for longer. Other threads run meanwhile."""
    try:
        return [match.span() for match in pattern.finditer(text, timeout=seconds, concurrent=True)]
    except TimeoutError:
        return [(0, len(text))]


def _masked_whole(patterns: Sequence[regex.Pattern[str]], text: str) -> str:
    """Mask again until nothing changes: a mask may be part of another match."""
    before = ""
    while text != before:
        before, text = text, _masked(patterns, text, FINGERPRINT_SECONDS)
    return text
