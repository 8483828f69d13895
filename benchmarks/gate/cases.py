"""The worlds of `benchmarks.gate` in which every promotion is false, each with the limit that the gate promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from baton.quality.matches import allowed
from baton.store.registry import Registry
from baton.tasks.f1 import RatioF1
from benchmarks.gate.worlds import FOUR, KINDS, SIZES, Contest, FirstVersion, Kind, Labels, Questions, Rng, macro_f1, skill_for
from training.judge.guards import GUARD_CONFIDENCE
from training.judge.pairs import pair_of

FIRST, LIFE, GUARD = allowed(0.95, 1), 0.05, 1 - GUARD_CONFIDENCE
"""Allowed false promotions: in a first match, in all matches of a champion, and of a version that loses on a guarded part."""

Life = Callable[[Rng], Iterator[Contest | FirstVersion]]
"""Yields the matches of one life, in order. It ends in a false promotion if any of them is won."""


@dataclass(frozen=True)
class Case:
    """A world, and how much may go wrong in it."""

    world: str
    limit: float
    life: Life
    cost: int = 1
    """1 or more: the number of trials is divided by it."""


def cases() -> list[Case]:
    """Return all worlds, by topic."""
    return [*equal_or_worse(), *repeated(), *selected(), *grouped(), *tiny_or_first(), *paid_for()]


def equal_or_worse() -> list[Case]:
    """Return single matches that the candidate does not deserve to win."""
    found = []
    for name, (kind, skill) in KINDS.items():
        for rows in SIZES:
            cost = 1 if rows <= 1_000 else 3
            found.append(Case(f"equal; {name}, {rows:,} rows", FIRST, one_match(kind, rows, skill, skill), cost))
        for drop in (0.01, 0.03):
            worse = skill_for(kind, skill, -drop)
            found.append(Case(f"{100 * drop:.0f} worse; {name}, 1,000 rows", FIRST, one_match(kind, 1_000, skill, worse), 2))
    for rows in (200, 1_000):
        world = f"equal mean, but 5% large losses and many small gains; {rows:,} questions"
        found.append(Case(world, 0.07, rare_losses(rows)))
    return found


def repeated() -> list[Case]:
    """Return lives of one champion with many challengers."""
    found = [
        Case(f"{times} retrains, each equal; {rows:,} rows", LIFE, retrains(rows, times, 0.0), 2)
        for times in (14, 50)
        for rows in (200, 1_000)
    ]
    found += [Case(f"50 retrains, each 1 worse; {rows:,} rows", LIFE, retrains(rows, 50, 0.01), 2) for rows in (200, 1_000)]
    sizes = [200 + 4 * night for night in range(80)]
    world = "80 nights, each equal; holdout of 200 rows that grows by 4 a night (2 epochs)"
    return [*found, Case(world, 2 * LIFE, growing(sizes, numbers_of(sizes)), 2)]


def selected() -> list[Case]:
    """Return holdouts with rows that somebody chose: corrected errors, a sender's texts, labels that are often given."""
    found = []
    for rows, extra, drop in ((200, 20, 0.0), (200, 20, 0.02), (200, 40, 0.0), (200, 40, 0.03), (1_000, 100, 0.0)):
        what = f"{100 * drop:.0f} worse" if drop else "equal"
        world = f"{what}; {rows:,} rows, and {extra} corrections of the champion's errors, which do not judge"
        found.append(Case(world, FIRST, corrections(rows, extra, drop)))
    for drop, sent in ((0.28, 120), (0.15, 60)):
        world = f"poisoned, {100 * drop:.0f} worse; 200 rows, and {sent} rows of the sender, which do not judge"
        found.append(Case(world, FIRST, poisoned(200, sent, drop)))
    world = "equal; 200 declared and 200 audited rows, of which 10% of the champion's right answers got no label"
    return [*found, Case(world, LIFE, half_labelled(200, 0.9))]


def grouped() -> list[Case]:
    """Return holdouts whose rows are not independent."""
    found = [
        Case(f"equal; {texts} texts × {copies} rows", FIRST, copied(texts, copies))
        for texts, copies in ((40, 1), (40, 10), (200, 5))
    ]
    for contexts in (40, 200):
        kind = Questions(each=10, tied=0.4)
        found.append(Case(f"equal; {contexts} contexts × 10 questions", FIRST, one_match(kind, 10 * contexts, 0.6, 0.6)))
    return found


def tiny_or_first() -> list[Case]:
    """Return results that prove nothing, and first versions below min_f1."""
    found = [
        Case(f"{wins} won, none lost, all others answered alike; {rows:,} in all", 0.0, tiny(wins, rows), 30)
        for wins, rows in ((1, 1), (3, 20), (3, 100), (3, 1_000), (5, 100))
    ]
    for skill, rows in ((0.65, 100), (0.65, 1_000), (0.70, 100), (0.70, 1_000)):
        world = f"first version with F1 {skill:.2f}, 0.70 required; {rows:,} rows"
        found.append(Case(world, FIRST, first_versions(rows, 1, skill)))
    return [*found, Case("12 first versions with F1 0.69, 0.70 required; 300 rows", LIFE, first_versions(300, 12, 0.69))]


def paid_for() -> list[Case]:
    """Return gains in all that hide a loss of more than the allowed one somewhere.

    The limits of a label that falls are known weaknesses of the gate rather than promises: of 20 labels in 1,000 rows, each has
    50, on which even 20 points are hard to tell from luck.
    """
    found = [
        Case(f"new label, {100 * drop:.0f} worse on known labels; {rows:,} rows", GUARD, new_label(rows, drop))
        for drop in (0.08, 0.03)
        for rows in (400, 2_000)
    ]
    for count, rows, limit in (
        (4, 200, 0.1),
        (4, 1_000, 0.05),
        (4, 5_000, 0.05),
        (20, 200, 0.15),
        (20, 1_000, 0.4),
        (20, 5_000, 0.05),
    ):
        world = f"one label of {count} falls by 20, all together 2 better; {rows:,} rows"
        found.append(Case(world, limit, label_falls(count, rows), 1 if rows <= 1_000 else 3))
    for declared, audited, what, gains in (
        (1_000, 1_000, "+6 and −4", (0.06, -0.04)),
        (1_000, 1_000, "−4 and +8", (-0.04, 0.08)),
        (1_000, 200, "+3 and −4", (0.03, -0.04)),
    ):
        world = f"{what} on {declared:,} declared and {audited:,} audited rows"
        found.append(Case(world, GUARD, two_parts(declared, audited, gains), 2))
    return found


# --- lives ---------------------------------------------------------------------------------------------------------------


def one_match(kind: Kind, rows: int, champion: float, candidate: float) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        yield Contest(pair=kind.pair(rng, rows, champion, candidate), groups=kind.groups(rows))

    return life


def rare_losses(rows: int) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        gains = np.where(rng.random(rows) < 0.05, -0.8, 0.8 * 0.05 / 0.95)
        ours, theirs = (RatioF1(numerators=it, denominators=np.ones(rows)) for it in (0.9 + gains, np.full(rows, 0.9)))
        yield Contest(pair=pair_of(ours, theirs))

    return life


def retrains(rows: int, times: int, drop: float, skill: float = 0.9) -> Life:
    return growing([rows] * times, list(range(1, times + 1)), drop, skill)


def growing(sizes: list[int], numbers: list[int], drop: float = 0.0, skill: float = 0.9) -> Life:
    """Return lives on one holdout: before each match it has grown to the next of ``sizes``."""

    def life(rng: Rng) -> Iterator[Contest]:
        texts = FOUR.texts(rng, sizes[-1])
        champion = macro_f1(texts.truth, FOUR.answers(rng, texts, skill))
        for size, number in zip(sizes, numbers, strict=True):
            candidate = macro_f1(texts.truth, FOUR.answers(rng, texts, skill - drop))
            yield Contest(pair=pair_of(candidate, champion).part(np.arange(size)), number=number)

    return life


def numbers_of(sizes: list[int]) -> list[int]:
    """Return the numbers that the registry gives to matches on a holdout that grows to each of ``sizes``."""
    with tempfile.TemporaryDirectory(prefix="baton-gate-") as home:
        registry = Registry(f"sqlite:///{home}/baton.db")
        registry.migrate()
        registry.declare_model("m", {})
        texts = [f"text {number}" for number in range(sizes[-1])]
        return [
            registry.matches.open("m", champion=None, candidate=night, holdout_hash=str(size), groups=texts[:size])
            for night, size in enumerate(sizes, start=1)
        ]


def corrections(rows: int, extra: int, drop: float, skill: float = 0.9) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        texts = FOUR.texts(rng, rows + 30 * extra)
        ours, theirs = (FOUR.answers(rng, texts, accuracy) for accuracy in (skill - drop, skill))
        errors = rows + np.flatnonzero(theirs[rows:] != texts.truth[rows:])[:extra]
        pair = pair_of(macro_f1(texts.truth, ours), macro_f1(texts.truth, theirs))
        judges = np.arange(rows)
        yield Contest(pair=pair.part(judges), old_pair=pair.part(np.concatenate([judges, errors])))

    return life


def poisoned(rows: int, sent: int, drop: float) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        texts = FOUR.texts(rng, rows)
        ours, theirs = (FOUR.answers(rng, texts, accuracy) for accuracy in (0.9 - drop, 0.9))
        truth, ours, theirs = (
            np.concatenate([answers, np.full(sent, label)]) for answers, label in ((texts.truth, 0), (ours, 0), (theirs, 1))
        )
        pair = pair_of(macro_f1(truth, ours), macro_f1(truth, theirs))
        yield Contest(pair=pair.part(np.arange(rows)), old_pair=pair)

    return life


def half_labelled(rows: int, share: float) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        texts = FOUR.texts(rng, 2 * rows)
        ours, theirs = (FOUR.answers(rng, texts, 0.9) for _ in range(2))
        declared = np.arange(2 * rows) < rows
        there = np.flatnonzero(declared | (theirs != texts.truth) | (rng.random(2 * rows) < share))
        pair = pair_of(macro_f1(texts.truth, ours), macro_f1(texts.truth, theirs)).part(there)
        yield Contest(pair=pair, parts={"declared": declared[there], "audited": ~declared[there]})

    return life


def copied(texts: int, copies: int) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        pair = FOUR.pair(rng, texts, 0.85, 0.85)
        groups = np.repeat(np.arange(texts, dtype=np.int32), copies)
        yield Contest(pair=pair.part(groups.astype(np.intp)), groups=groups)

    return life


def tiny(wins: int, rows: int) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        truth = np.arange(rows) % 2
        champion = np.where(np.arange(rows) < wins, 1 - truth, truth)
        yield Contest(pair=pair_of(macro_f1(truth, truth), macro_f1(truth, champion)))

    return life


def first_versions(rows: int, times: int, skill: float) -> Life:
    def life(rng: Rng) -> Iterator[FirstVersion]:
        for number, metric in enumerate(FOUR.versions(rng, rows, *[skill] * times), start=1):
            yield FirstVersion(metric=metric, number=number, min_f1=0.7)

    return life


def new_label(rows: int, drop: float) -> Life:
    """The candidate alone knows the label of 5% of the rows, and is right on 90% of those."""

    def life(rng: Rng) -> Iterator[Contest]:
        texts = FOUR.texts(rng, rows)
        ours, theirs = (FOUR.answers(rng, texts, accuracy) for accuracy in (0.9 - drop, 0.9))
        is_new = rng.random(rows) < 0.05
        truth = np.where(is_new, 4, texts.truth)
        ours = np.where(is_new & (rng.random(rows) < 0.9), 4, ours)
        pair = pair_of(macro_f1(truth, ours), macro_f1(truth, theirs))
        yield Contest(pair=pair, known=~is_new)

    return life


def label_falls(count: int, rows: int) -> Life:
    kind, gain = Labels(count=count), (0.02 * count + 0.2) / (count - 1)

    def life(rng: Rng) -> Iterator[Contest]:
        texts = kind.texts(rng, rows)
        theirs = kind.answers(rng, texts, 0.8)
        ours = kind.answers(rng, texts, np.where(texts.truth == 0, 0.6, 0.8 + gain))
        yield Contest(pair=pair_of(macro_f1(texts.truth, ours), macro_f1(texts.truth, theirs)))

    return life


def two_parts(declared: int, audited: int, gains: tuple[float, float]) -> Life:
    def life(rng: Rng) -> Iterator[Contest]:
        texts = FOUR.texts(rng, declared + audited)
        is_declared = np.arange(declared + audited) < declared
        theirs = FOUR.answers(rng, texts, 0.85)
        ours = FOUR.answers(rng, texts, 0.85 + np.where(is_declared, *gains))
        pair = pair_of(macro_f1(texts.truth, ours), macro_f1(texts.truth, theirs))
        yield Contest(pair=pair, parts={"declared": is_declared, "audited": ~is_declared})

    return life
