"""Normal forms and hashes of texts, which decide whether two texts count as the same. Knows neither tasks nor files."""

from __future__ import annotations

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Return ``text`` in Unicode NFKC, case-folded, with single spaces. Texts with the same result count as the same.

    Case folding decomposes some characters (ΐ, ǰ), so NFKC must also follow it: D146 of the Unicode standard.
    """
    if text.isascii():  # which NFKC leaves as it is
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def visible_form(text: str) -> str:
    """Return what is left of ``text`` when characters that nobody sees, case, and marks of width and style are taken away.

    Labels with the same form look alike: «Refund» and «refund», and one with a zero-width space.
    """
    return normalise("".join(character for character in text if unicodedata.category(character) != "Cf"))


def fingerprint(text: str) -> str:
    """Return the hex SHA-256 of the normalised text."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def hash_fraction(fingerprint: str) -> float:
    """Return a number in [0, 1) that depends on the fingerprint only, and increases with it."""
    return int(fingerprint[:16], 16) / 2**64
