"""How often a champion may be challenged on one holdout: the probability of a false promotion that each match may spend.

Alpha spending, as in clinical trials that are looked at more than once (Lan and DeMets 1983). Pure arithmetic.
"""

from __future__ import annotations

HALF_LIFE = 20
"""Number of matches after the first that together may err half as often as the first."""


def allowed(confidence: float, number: int) -> float:
    """Return the probability with which match ``number`` of a champion may end in a false promotion.

    Half of 1 − confidence is for the first match, a quarter for the next `HALF_LIFE` together, a quarter for all that follow.
    The sum over all matches is 1 − confidence, so that it does not matter how often one asks.
    """
    first = (1 - confidence) / 2
    return first if number == 1 else first * HALF_LIFE / ((number - 2 + HALF_LIFE) * (number - 1 + HALF_LIFE))


def left_after(confidence: float, number: int) -> float:
    """Return what is left of 1 − confidence after match ``number``: the sum of what all later matches are `allowed`."""
    return (1 - confidence) if number == 0 else (1 - confidence) / 2 * HALF_LIFE / (number - 1 + HALF_LIFE)
