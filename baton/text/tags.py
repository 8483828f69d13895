"""Tag schemes of labelled tokens (BIO, IOB1, BIOES, BILOU), and the texts that tokens make. Knows neither tasks nor models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from baton.text.words import UNSPACED

OUTSIDE = "O"
TAG = re.compile(r"O|[BIESLU]-.+", re.DOTALL)

TokenSpan = tuple[int, int, str]
"""First token of an entity, the token after its last one, and its type."""


def check_tag(tag: str) -> str:
    """``tag`` if some scheme knows it; else ``ValueError``."""
    if not TAG.fullmatch(tag):
        raise ValueError("not a tag; allowed: O, or B-, I-, E-, S-, L- or U- and a type, B-PER for example")
    return tag


def spans(tags: Sequence[str]) -> list[TokenSpan]:
    """The entities that the tags of one text mark, in order.

    Any of E-, S-, L- and U- means BIOES (also called BILOU: L is E, U is S), read strictly. Otherwise an entity begins with
    B-X, or with an I-X that does not follow an X: that reads BIO (IOB2) and IOB1 alike, because they do not contradict.

    Raises:
        ValueError: BIOES tags that do not nest: the tag, its index, and what would be right there.
    """
    if any(tag[0] in "ESLU" for tag in tags):
        return list(_closed(tags))
    found: list[TokenSpan] = []
    for index, (before, tag) in enumerate(pairwise((OUTSIDE, *tags))):
        if tag == OUTSIDE:
            continue
        if tag[0] == "B" or before[2:] != tag[2:]:
            found.append((index, index + 1, tag[2:]))
        else:
            start, _, label = found[-1]
            found[-1] = (start, index + 1, label)
    return found


def _closed(tags: Sequence[str]) -> Iterator[TokenSpan]:
    """Entities of BIOES tags: S-X alone, or B-X, any number of I-X, E-X."""
    begun: int | None = None
    for index, tag in enumerate(tags):
        prefix, label = tag[0], tag[2:]
        if begun is None:
            if prefix in "IEL":
                raise ValueError(f"tag {index}, {tag!r}, has no B-{label} before it (the tags are BIOES)")
            if prefix in "SU":
                yield index, index + 1, label
            begun = index if prefix == "B" else None
        elif prefix not in "IEL" or label != tags[begun][2:]:
            opened = tags[begun][2:]
            raise ValueError(f"tag {index}, {tag!r}, must be I-{opened} or E-{opened}: tag {begun} began that entity (BIOES)")
        elif prefix in "EL":
            yield begun, index + 1, label
            begun = None
    if begun is not None:
        raise ValueError(f"tag {begun}, {tags[begun]!r}, has no E-{tags[begun][2:]} after it (the tags are BIOES)")


def join(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """The text of some tokens (none of them empty), and where in it each of them starts.

    Single spaces stand between tokens. Where most of the tokens with letters are of scripts that are written without spaces,
    they stand only between tokens that meet at letters of other scripts or at digits: «用iPhone 15拍» keeps its two words
    apart. Tokens are counted, not letters, because a foreign name has as many letters as a whole Chinese sentence.
    """
    words = [token for token in tokens if any(map(str.isalpha, token))]
    spaced = 2 * sum(bool(UNSPACED.search(word)) for word in words) <= len(words)
    parts, starts, length = [], [], 0
    for before, token in pairwise(("", *tokens)):
        if before and (spaced or (_is_spaced(before[-1]) and _is_spaced(token[0]))):
            parts.append(" ")
            length += 1
        parts.append(token)
        starts.append(length)
        length += len(token)
    return "".join(parts), starts


def _is_spaced(character: str) -> bool:
    return character.isalnum() and not UNSPACED.match(character)
