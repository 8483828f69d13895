"""Has the traffic changed? Compares what a version answers now with what it answered on its holdout. Pure; knows no registry.

Three features of each answer are watched: the predicted label, the confidence, and the length of the text. The measure is the
population stability index, PSI = Σ (p − q) · ln(p / q) over bins, p the share now and q the share in the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

BINS = 10
"""Most bins of a feature. More would need more answers before a difference means something."""

OTHER = "\0other"
"""The bin of labels that the reference does not know. No label holds a NUL."""

ALARM = 0.2
"""PSI from which a population counts as changed, by the rule of thumb of credit scoring (below 0.1: the same)."""

CERTAINTY = 0.9999
"""How sure a difference must be before it is an alarm: it is looked for every few seconds."""

SMOOTHING = 0.5
"""Added to each bin's count, so that an empty bin has a logarithm."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far one feature has moved. ``psi`` is an alarm when it exceeds ``alarm``; ``now`` and ``reference`` count answers."""

    feature: str
    psi: float
    alarm: float
    now: int
    reference: int

    @property
    def drifted(self) -> bool:
        return self.psi > self.alarm


def reference_of(
    labels: Sequence[str | None], confidences: Sequence[float | None], lengths: Sequence[int]
) -> dict[str, Mapping[str, Any]]:
    """What a version's answers look like where all is well, as JSON values: per feature its bins and their counts.

    Numbers are binned by the deciles of the reference, labels from the most frequent on, so that bins hold about equally many.
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
    """The drift of each feature that ``reference`` (of `reference_of`) knows, for these answers; none for no answers."""
    values: dict[str, Sequence[Any]] = {
        "label": [label for label in labels if label is not None],
        "confidence": [confidence for confidence in confidences if confidence is not None],
        "length": lengths,
    }
    return [_drift(feature, bins, values[feature]) for feature, bins in reference.items() if values.get(feature)]


def population_stability(now: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """PSI of two rows of counts over the same bins, each count raised by `SMOOTHING`."""
    p, q = (counts + SMOOTHING for counts in (now, reference))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))


def alarm_level(bins: int, now: int, reference: int) -> float:
    """The PSI that must be exceeded: `ALARM`, or more where chance alone could reach that.

    Two samples of one population, n and m large, have PSI ≈ (1/n + 1/m) · χ² with bins − 1 degrees of freedom (Yurdakul and
    Naranjo 2020, «Statistical properties of the population stability index»).
    """
    return max(ALARM, float(chdtri(bins - 1, 1 - CERTAINTY)) * (1 / now + 1 / reference))


def _drift(feature: str, bins: Mapping[str, Any], values: Sequence[Any]) -> Drift:
    if "edges" in bins:
        counts = np.asarray(bins["counts"], dtype=np.float64)
        now = _binned(values, bins["edges"])
    else:
        places = _label_bins(bins["counts"])
        counts, now = np.zeros(places[OTHER] + 1), np.zeros(places[OTHER] + 1)
        for name, count in bins["counts"].items():
            counts[places[name]] += count
        for name in map(str, values):
            now[places.get(name, places[OTHER])] += 1
    total = int(counts.sum())
    return Drift(
        feature=feature,
        psi=population_stability(now, counts),
        alarm=alarm_level(max(2, len(counts)), len(values), total),
        now=len(values),
        reference=total,
    )


def _label_bins(counts: Mapping[str, int]) -> dict[str, int]:
    """The bin of each label: the frequent ones have one to themselves, the others share. The last is that of unknown labels."""
    wanted = sum(counts.values()) / (BINS - 1)
    places: dict[str, int] = {}
    place, filled = 0, 0.0
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if name == OTHER:
            continue
        if filled and filled + count / 2 > wanted:
            place, filled = place + 1, 0.0
        places[name] = place
        filled += count
    return {**places, OTHER: place + 1}


def _numeric(values: Sequence[float]) -> dict[str, Any]:
    edges = np.unique(np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, BINS + 1)[1:-1]))
    return {"edges": edges.tolist(), "counts": _binned(values, edges.tolist()).astype(int).tolist()}


def _binned(values: Sequence[float], edges: Sequence[float]) -> NDArray[np.float64]:
    places = np.searchsorted(np.asarray(edges), np.asarray(values, dtype=np.float64), side="right")
    return np.bincount(places, minlength=len(edges) + 1).astype(np.float64)
