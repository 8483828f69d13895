"""Words of messages that depend on a number."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for example ``1 row`` or ``2,000 rows``. ``noun``: one that takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
