"""Words of messages: those that depend on a number, and the signature under a reason."""

from __future__ import annotations

from typing import overload


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for example ``1 row`` or ``2,000 rows``. ``noun``: one that takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@overload
def signed(reason: str, by: str | None) -> str: ...


@overload
def signed(reason: str | None, by: str | None) -> str | None: ...


def signed(reason: str | None, by: str | None) -> str | None:
    """Return the reason of a person as the history keeps it: with the name of the API key that was used, so that it says who.

    ``by``: that name; None where the service needs no keys. None if neither is known.
    """
    return reason if by is None else f"{'none given' if reason is None else reason} ({by})"
