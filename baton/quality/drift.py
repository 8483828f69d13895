"""Drift: compares the current answers of a version with its answers on the holdout. Pure functions; knows no registry.

Three features of each answer are compared: the predicted label, the confidence, and the length of the text. The measure is the
population stability index, PSI = Σ (p − q) · ln(p / q) over bins, p is the current share and q that of the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Maximum number of bins of a feature. More bins need more answers before a difference is significant."""

OTHER = "\0other"
"""Bin of labels that the reference does not contain. No label contains a NUL."""

ALARM = 0.2
"""PSI above which a population counts as changed, a rule of thumb of credit scoring (below 0.1: unchanged)."""

CERTAINTY = 0.9999
"""Confidence required for an alarm. It is high because drift is computed every few seconds."""

SMOOTHING = 0.5
"""Added to the count of each bin, so that the logarithm of an empty bin is defined."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Drift of one feature."""

    feature: str
    """``label``, ``confidence`` or ``length``."""
    psi: float
    alarm: float
    """PSI above which the feature has drifted; see `alarm_level`."""
    now: int
    """Number of current answers."""
    reference: int
    """Number of answers in the reference."""

    @property
    def drifted(self) -> bool:
        """Whether the PSI exceeds the alarm level."""
        return self.psi > self.alarm


def make_reference(
    labels: Sequence[str | None], confidences: Sequence[float | None], lengths: Sequence[int]
) -> dict[str, Mapping[str, Any]]:
    """Return the reference for `compare` from the answers of a version on its holdout, as JSON values.

    It holds bins and counts for each feature. Numbers are binned by the deciles of the reference; labels are grouped in
    descending frequency, so that bins are about equally full.
    """
    reference: dict[str, Mapping[str, Any]] = {"length": _numeric(lengths)}
    if any(label is not None for label in labels):
        reference["label"] = {"counts": dict(Counter(map(str, labels)).most_common())}
    known = [confidence for confidence in confidences if confidence is not None]
    if known:
        reference["confidence"] = _numeric(known)
    return reference


def compare(
    reference: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str | None],
    confidences: Sequence[float | None],
    lengths: Sequence[int],
) -> list[Drift]:
    """Return the drift of each feature in ``reference`` (from `make_reference`) for which these answers have values."""
    values: dict[str, Sequence[Any]] = {
        "label": [label for label in labels if label is not None],
        "confidence": [confidence for confidence in confidences if confidence is not None],
        "length": lengths,
    }
    return [_drift(feature, bins, values[feature]) for feature, bins in reference.items() if values.get(feature)]


def population_stability(now: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the PSI of two arrays of counts over the same bins, with `SMOOTHING` added to each count."""
    p, q = (counts + SMOOTHING for counts in (now, reference))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))


def alarm_level(bins: int, now: int, reference: int) -> float:
    """Return the PSI above which a feature has drifted: `ALARM`, or more if chance alone could reach it.

    Two samples of one population, of size n and m, have PSI ≈ (1/n + 1/m) · χ² with bins − 1 degrees of freedom (Yurdakul and
    Naranjo 2020, «Statistical properties of the population stability index»).
    """
    # It takes a tenth of a second to load, for which the start of the control plane need not wait.
    from scipy.special import chdtri

    return max(ALARM, float(chdtri(bins - 1, 1 - CERTAINTY)) * (1 / now + 1 / reference))


def _drift(feature: str, bins: Mapping[str, Any], values: Sequence[Any]) -> Drift:
    if "edges" in bins:
        counts = np.asarray(bins["counts"], dtype=np.float64)
        now = _binned(values, bins["edges"])
    else:
        positions = _label_bins(bins["counts"])
        counts, now = np.zeros(positions[OTHER] + 1), np.zeros(positions[OTHER] + 1)
        for name, count in bins["counts"].items():
            counts[positions[name]] += count
        for name in map(str, values):
            now[positions.get(name, positions[OTHER])] += 1
    total = int(counts.sum())
    return Drift(
        feature=feature,
        psi=population_stability(now, counts),
        alarm=alarm_level(max(2, len(counts)), len(values), total),
        now=len(values),
        reference=total,
    )


def _label_bins(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the bin of each label. Frequent labels have their own, rare ones share one; the last bin is for unknown labels."""
    wanted = sum(counts.values()) / (BINS - 1)
    positions: dict[str, int] = {}
    position, filled = 0, 0.0
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if name == OTHER:
            continue
        if filled and filled + count / 2 > wanted:
            position, filled = position + 1, 0.0
        positions[name] = position
        filled += count
    return {**positions, OTHER: position + 1}


def _numeric(values: Sequence[float]) -> dict[str, Any]:
    edges = np.unique(np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, BINS + 1)[1:-1]))
    return {"edges": edges.tolist(), "counts": _binned(values, edges.tolist()).astype(int).tolist()}


def _binned(values: Sequence[float], edges: Sequence[float]) -> NDArray[np.float64]:
    positions = np.searchsorted(np.asarray(edges), np.asarray(values, dtype=np.float64), side="right")
    return np.bincount(positions, minlength=len(edges) + 1).astype(np.float64)
