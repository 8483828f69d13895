"""Would a qualifier on validation rows pay? It would save matches: only a candidate that beats the champion there plays one.

    python -m benchmarks.gate.qualifier

Sixty nights, each with a candidate that is truly better than the one of the night before. F1 of a version on the holdout and on
the validation rows is its true F1 plus normal noise, as if two versions differed on 6% of the rows. Printed is the mean of
the true gain that serves, over all nights, and the number of matches.
"""

from __future__ import annotations

import math

import numpy as np

from baton.quality.matches import allowed
from training.judge.comparison import quantile

NIGHTS, LIVES = 60, 2_000
NIGHTLY = 0.1
"""Points of F1 that each candidate is better than the one before."""
SPREAD = (0.0, 0.7)
"""Standard deviation of a candidate's true F1 around that, in points."""
DIFFERING = 0.06
"""Share of rows on which two versions differ."""


def main() -> None:
    """Simulate, print a table."""
    print("| holdout | spread | no qualifier | 200 validation rows | 500 validation rows |\n|---|--:|--:|--:|--:|")
    for rows in (200, 1_000, 5_000):
        for spread in SPREAD:
            cells = []
            for validation in (None, 200, 500):
                rng = np.random.default_rng([rows, round(10 * spread)])
                lives = np.array([life(rng, rows, validation, spread) for _ in range(LIVES)])
                served, matches = lives.mean(axis=0)
                error = lives[:, 0].std() / math.sqrt(LIVES)
                cells.append(f"{served:+.2f} ± {error:.2f}, {matches:.0f} matches")
            print(f"| {rows:,} rows | {spread} | {' | '.join(cells)} |")


def life(rng: np.random.Generator, rows: int, validation: int | None, spread: float) -> tuple[float, int]:
    """Return the mean true gain that serves, in points, and the number of matches. ``validation``: None for no qualifier."""
    error = 100 * math.sqrt(DIFFERING / rows)
    validation_error = 0.0 if validation is None else 100 * math.sqrt(DIFFERING / validation)

    def version(true: float) -> tuple[float, float, float]:
        """Return true F1, and F1 on the holdout and on the validation rows."""
        noise = rng.normal(size=2) / math.sqrt(2)
        return true, true + error * noise[0], true + validation_error * noise[1]

    champion, number, played, served = version(0.0), 0, 0, 0.0
    for night in range(1, NIGHTS + 1):
        candidate = version(NIGHTLY * night + spread * rng.normal())
        if validation is None or candidate[2] - champion[2] >= validation_error:
            number, played = number + 1, played + 1
            if candidate[1] - champion[1] >= quantile(1 - allowed(0.95, number)) * error:
                champion, number = candidate, 0
        served += champion[0] / NIGHTS
    return served, played


if __name__ == "__main__":
    main()
