"""Simulated versions for `benchmarks.gate`: their answers to the same texts, contests between them, and the gate of before.

All versions share the difficulty of each text, so that about 70% of the errors of two versions are common. A version's skill
is the share of labels or entities that it gets right; `skill_for` finds the one that has a given F1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.config.model_settings import GateSettings
from baton.store.records import Verdict
from baton.tasks.f1 import Floats, MacroF1, Metric, RatioF1, micro_f1
from training.judge.gate import Match, Outcome, decide, decide_first
from training.judge.pairs import MacroPair, Pair, pair_of

Rng = np.random.Generator
Ints = NDArray[np.intp]

COMMON = 0.84
"""Probability that luck on a text is the text's own, for each version. Two versions then share 70% of their luck."""

OLD_DRAWS, OLD_CONFIDENCE = 1000, 0.95
"""Resamples of the old gate in these simulations (the product drew 4,000), and the share of them that had to show a gain."""


# --- kinds of texts and answers ------------------------------------------------------------------------------------------


class Kind(ABC):
    """A task with texts of its own."""

    @abstractmethod
    def versions(self, rng: Rng, rows: int, *skills: float) -> list[Metric]:
        """Draw texts, and return the main metric of a version of each skill on them."""

    def pair(self, rng: Rng, rows: int, champion: float, candidate: float) -> Pair:
        """Draw texts, and return a candidate and a champion with these skills."""
        theirs, ours = self.versions(rng, rows, champion, candidate)
        return pair_of(ours, theirs)

    def groups(self, rows: int) -> NDArray[np.int32]:
        """Return the groups of that many rows: each row is one, unless several ask about one context."""
        return np.arange(rows, dtype=np.int32)


def lucks(rng: Rng, of_texts: Floats) -> Floats:
    """Return a version's luck, like ``of_texts`` in [0, 1): that of the text with probability `COMMON`, else its own."""
    return np.where(rng.random(of_texts.shape) < COMMON, of_texts, rng.random(of_texts.shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """Texts with one true label each."""

    truth: Ints
    luck: Floats
    confused: Ints
    """The label that a wrong answer gives, if it is wrong for the text's own reason."""


@dataclass(frozen=True, kw_only=True)
class Labels(Kind):
    """One of ``count`` labels for each text, judged by macro-F1. Label k is as frequent as 1 / (k + 1)^zipf."""

    count: int
    zipf: float = 0.0

    def texts(self, rng: Rng, rows: int) -> Texts:
        """Draw texts."""
        shares = np.cumsum(1 / np.arange(1, self.count + 1) ** self.zipf)
        truth = np.searchsorted(shares / shares[-1], rng.random(rows), side="right")
        return Texts(truth=truth, luck=rng.random(rows), confused=self._others(rng, truth))

    def answers(self, rng: Rng, texts: Texts, accuracy: float | Floats) -> Ints:
        """Return a version's answers; ``accuracy`` may differ by row."""
        own = rng.random(len(texts.truth)) >= COMMON
        luck = np.where(own, rng.random(len(own)), texts.luck)
        wrong = np.where(own, self._others(rng, texts.truth), texts.confused)
        return np.where(luck < accuracy, texts.truth, wrong)

    def _others(self, rng: Rng, truth: Ints) -> Ints:
        return (truth + rng.integers(1, self.count, len(truth))) % self.count

    def versions(self, rng: Rng, rows: int, *skills: float) -> list[Metric]:
        texts = self.texts(rng, rows)
        return [macro_f1(texts.truth, self.answers(rng, texts, skill)) for skill in skills]


@dataclass(frozen=True)
class Entities(Kind):
    """About two entities in each text, judged by micro-F1. Hard texts are hard for all versions."""

    most: int = 12

    def versions(self, rng: Rng, rows: int, *skills: float) -> list[Metric]:
        true = np.minimum(rng.poisson(2, rows), self.most)
        ease, luck, noise = rng.normal(size=rows), rng.random((rows, self.most)), rng.random(rows)
        there = np.arange(self.most) < true[:, None]
        metrics: list[Metric] = []
        for skill in skills:
            recall = np.clip(skill + 0.1 * ease, 0.02, 0.99)
            right = (there & (lucks(rng, luck) < recall[:, None])).sum(axis=1)
            mistaken = rng.binomial(true - right, 0.5)
            invented = lucks(rng, noise) < 0.6 * (1 - skill)
            metrics.append(micro_f1(np.stack([right, right + mistaken + invented, true], axis=1).astype(np.int32)))
        return metrics


@dataclass(frozen=True)
class LabelSets(Kind):
    """Any of ten labels for each text, each of them true in 15% of the texts, judged by micro-F1."""

    count: int = 10
    share: float = 0.15

    def versions(self, rng: Rng, rows: int, *skills: float) -> list[Metric]:
        true, luck = rng.random((rows, self.count)) < self.share, rng.random((rows, self.count))
        metrics: list[Metric] = []
        for skill in skills:
            wrong = lucks(rng, luck) < np.where(true, 1 - skill, (1 - skill) * self.share)
            found = true ^ wrong
            metrics.append(micro_f1(np.stack([(true & found).sum(1), found.sum(1), true.sum(1)], axis=1).astype(np.int32)))
        return metrics


@dataclass(frozen=True, kw_only=True)
class Questions(Kind):
    """Questions with a token F1 of 0, between or 1, judged by its mean; ``each`` questions are about one context.

    With probability ``tied`` the luck of a version on a question is its luck on the context.
    """

    each: int = 1
    tied: float = 0.0

    def versions(self, rng: Rng, rows: int, *skills: float) -> list[Metric]:
        groups = self.groups(rows)
        luck, partly = rng.random(rows), rng.random(rows)
        metrics: list[Metric] = []
        for skill in skills:
            on_context = rng.random(rows)[groups]
            own = np.where(rng.random(rows) < self.tied, on_context, lucks(rng, luck))
            between = np.array([0.2, 0.4, 0.5, 0.67, 0.8])[(5 * lucks(rng, partly)).astype(int)]
            f1 = np.where(own < skill, 1.0, np.where(own < (1 + skill) / 2, between, 0.0))
            metrics.append(RatioF1(numerators=f1, denominators=np.ones(rows)))
        return metrics

    def groups(self, rows: int) -> NDArray[np.int32]:
        return (np.arange(rows) // self.each).astype(np.int32)


FOUR = Labels(count=4)
KINDS: dict[str, tuple[Kind, float]] = {
    "macro, 4 labels": (FOUR, 0.9),
    "macro, 20 labels, Zipf": (Labels(count=20, zipf=1.0), 0.85),
    "macro, 77 labels": (Labels(count=77, zipf=0.7), 0.88),
    "entities": (Entities(), 0.8),
    "multi-label": (LabelSets(), 0.85),
    "question answering": (Questions(), 0.6),
}
"""Tasks with the champion's skill."""

SIZES = (50, 200, 1_000, 5_000)


def macro_f1(truth: Ints, predicted: Ints) -> MacroF1:
    """Return the metric of these answers."""
    labels = tuple(map(str, range(int(max(truth.max(), predicted.max())) + 1)))
    return MacroF1(truth=truth.astype(np.int32), predicted=predicted.astype(np.int32), labels=labels)


def skill_for(kind: Kind, base: float, gain: float, rows: int = 60_000) -> float:
    """Return the skill whose F1 is ``gain`` above that of the skill ``base``, by the secant method on the same random texts."""

    def f1(skill: float) -> float:
        return kind.versions(np.random.default_rng(1), rows, skill)[0].value()

    wanted = f1(base) + gain
    last, skill = base, base + gain
    for _ in range(4 if gain else 0):
        slope = (f1(skill) - f1(last)) / (skill - last)
        step = (wanted - f1(skill)) / slope
        if abs(step) < 1e-4:
            break
        last, skill = skill, skill + step
    return skill


# --- contests ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """One match, with what each of the two gates sees of it."""

    pair: Pair
    groups: NDArray[np.int32] | None = None
    """None: each row is a group."""
    number: int = 1
    parts: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    known: NDArray[np.bool_] | None = None
    old_pair: Pair | None = None
    """What the old gate judged on; None: the same rows."""

    def outcome(self, seed: int) -> Outcome:
        """Return what the product's gate decides."""
        groups = np.arange(len(self.pair.differing()), dtype=np.int32) if self.groups is None else self.groups
        match = Match(pair=self.pair, groups=groups, number=self.number, seed=seed, parts=self.parts, known=self.known)
        return decide(match, GateSettings())

    def promotes(self, seed: int) -> bool:
        """Return whether the product's gate promotes."""
        return self.outcome(seed).verdict is Verdict.PROMOTE

    def promoted_before(self, rng: Rng) -> bool:
        """Return the verdict of the old gate."""
        return old_gate(self.pair if self.old_pair is None else self.old_pair, rng)


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstVersion:
    """A version without a champion to beat."""

    metric: Metric
    number: int
    min_f1: float

    def promotes(self, seed: int) -> bool:
        """Return the verdict of the product's gate, which draws nothing here."""
        rows = len(self.metric.influence())
        outcome = decide_first(self.metric, np.arange(rows, dtype=np.int32), self.number, GateSettings(min_f1=self.min_f1))
        return outcome.verdict is Verdict.PROMOTE

    def promoted_before(self, rng: Rng) -> bool:
        """Return the verdict of the old gate, which compared F1 itself."""
        return self.metric.value() >= self.min_f1


# --- the gate of before --------------------------------------------------------------------------------------------------


def old_gate(pair: Pair, rng: Rng) -> bool:
    """Return whether the old gate would promote: a gain, and a gain in 95% of the resamples of the rows (Koehn 2004).

    Rows with the same truth and answers make one cell, and a resample is a draw of the cells' counts: the same distribution as
    drawing rows with replacement, only faster.
    """
    columns: list[NDArray[np.int32]] | list[Floats]
    gains_of: Callable[[NDArray[Any], Floats], Floats]
    if isinstance(pair, MacroPair):
        columns, gains_of = [pair.candidate.truth, pair.candidate.predicted, pair.champion.predicted], _macro_gains
    else:
        ours, theirs = pair.candidate, pair.champion
        assert isinstance(ours, RatioF1)
        assert isinstance(theirs, RatioF1)
        columns = [ours.numerators, ours.denominators, theirs.numerators, theirs.denominators]
        gains_of = _ratio_gains
    cells, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    if gains_of(cells, counts[None].astype(np.float64))[0] <= 0:
        return False
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=OLD_DRAWS).astype(np.float64)
    return bool(np.mean(gains_of(cells, drawn) > 0) >= OLD_CONFIDENCE)


def _macro_gains(cells: NDArray[np.int32], weights: Floats) -> Floats:
    """Return [r], the gains in macro-F1 over all labels that occur as truth or answer; ``weights``: [r, cells]."""
    labels = np.eye(int(cells.max()) + 1)
    truth, ours, theirs = cells.T
    truths = weights @ labels[truth]
    scores = []
    for answers in (ours, theirs):
        hits, either = (weights * (answers == truth)) @ labels[truth], truths + weights @ labels[answers]
        f1 = np.divide(2 * hits, either, out=np.zeros_like(either), where=either > 0)
        scores.append(f1.sum(axis=1) / (either > 0).sum(axis=1))
    gains: Floats = scores[0] - scores[1]
    return gains


def _ratio_gains(cells: Floats, weights: Floats) -> Floats:
    """Return [r], the gains in a ratio of sums; 0 / 0 is 0."""
    sums = weights @ cells
    ours, theirs = (np.divide(sums[:, k], sums[:, k + 1], out=np.zeros(len(sums)), where=sums[:, k + 1] > 0) for k in (0, 2))
    gains: Floats = ours - theirs
    return gains
