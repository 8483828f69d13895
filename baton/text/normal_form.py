"""When two texts count as the same, and the numbers that depend on a text alone. Knows neither tasks nor files."""

from __future__ import annotations

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Unicode NFKC, case-folded, white space collapsed: what counts as the same text.

    Folding takes some characters apart (ΐ, ǰ), so that NFKC has to follow as well: D146 of the Unicode standard.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def fingerprint(text: str) -> str:
    """Hex SHA-256 of the normalised text; the same for every way of writing it."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def hash_fraction(fingerprint: str) -> float:
    """A number in [0, 1) that depends on the fingerprint alone; in the order of fingerprints."""
    return int(fingerprint[:16], 16) / 2**64
