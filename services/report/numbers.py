"""Numbers as a report writes them, the same in every language."""

from __future__ import annotations

from datetime import UTC, datetime


def decimals(value: float | None) -> str:
    """Return a score with three decimals, and a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a difference with its sign and three decimals; the minus is as wide as the plus.

    Zero has no sign.
    """
    rounded = round(value, 3)
    return f"{rounded:+.3f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.000"


def percent(share: float) -> str:
    """Return a share such as ``2.5%``, with the digits that it needs."""
    return f"{100 * share:.3g}%"


def moment(stamp: str | None) -> str:
    """Return an ISO 8601 time in UTC, to the minute: a report is read in more than one zone."""
    return "–" if stamp is None else datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
