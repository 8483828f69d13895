"""Tag schemes of labelled tokens (BIO, IOB1, BIOES, BILOU), and joining tokens into texts. Knows neither tasks nor models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from baton.text.words import UNSPACED

OUTSIDE = "O"
"""The tag of a token that is not part of an entity, in all schemes."""

TAG = re.compile(r"O|[BIESLU]-.+", re.DOTALL)

TokenSpan = tuple[int, int, str]
"""First token of an entity, the token after its last one, and its type."""


def check_tag(tag: str) -> str:
    """Return ``tag`` if it is valid in some scheme. Raises ``ValueError``."""
    if not TAG.fullmatch(tag):
        raise ValueError("not a tag; allowed: O, or B-, I-, E-, S-, L- or U- with a type, for example B-PER")
    return tag


def spans(tags: Sequence[str]) -> list[TokenSpan]:
    """Return the entities that the tags of one text mark, in order.

    If any tag is E-, S-, L- or U-, the scheme is BIOES (also called BILOU: L is E, U is S), read strictly. Otherwise an entity
    begins with B-X, or with an I-X that does not follow an X. This rule reads both BIO (IOB2) and IOB1, which do not
    contradict each other.

    >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
    [(0, 2, 'PER'), (3, 4, 'LOC')]

    Raises:
        ValueError: for an invalid sequence of BIOES tags, with the tag, its index and what would be right there.
    """
    if any(tag[0] in "ESLU" for tag in tags):
        return list(_bioes_spans(tags))
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


def _bioes_spans(tags: Sequence[str]) -> Iterator[TokenSpan]:
    """Yield the entities of BIOES tags: a single S-X, or B-X, any number of I-X, E-X."""
    start: int | None = None
    for index, tag in enumerate(tags):
        prefix, label = tag[0], tag[2:]
        if start is None:
            if prefix in "IEL":
                raise ValueError(f"tag {index}, {tag!r}, has no B-{label} before it (the tags are BIOES)")
            if prefix in "SU":
                yield index, index + 1, label
            start = index if prefix == "B" else None
        elif prefix not in "IEL" or label != tags[start][2:]:
            current = tags[start][2:]
            raise ValueError(f"tag {index}, {tag!r}, must be I-{current} or E-{current}: tag {start} began that entity (BIOES)")
        elif prefix in "EL":
            yield start, index + 1, label
            start = None
    if start is not None:
        raise ValueError(f"tag {start}, {tags[start]!r}, has no E-{tags[start][2:]} after it (the tags are BIOES)")


def join(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """Join tokens, none of them empty, and return the text and the position at which each token starts in it.

    Tokens are joined by single spaces. If most tokens with letters are of scripts written without spaces, a space is put only
    between two tokens that meet at letters of other scripts or at digits, so that «用iPhone 15拍» keeps «iPhone» and «15»
    separate. The rule counts tokens, not letters, because one foreign name has as many letters as a whole Chinese sentence.
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
