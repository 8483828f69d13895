"""Measure how often the gate lets a version take over that is not better, and how often one that is.

    python -m benchmarks.gate --quick

Versions are simulated, so that it is known which one is better; the product's own gate decides. Beside it stands the gate that
Baton had before (a percentile bootstrap over rows). The first table has worlds in which every promotion is false. It ends with
status 1 if the gate promotes more often in any of them than it promises, beyond chance (three Monte-Carlo standard errors).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baton.config.model_settings import GateSettings
from baton.store.records import Verdict
from benchmarks.__main__ import head_of, write
from benchmarks.gate.cases import Case, Life, cases, one_match
from benchmarks.gate.worlds import KINDS, SIZES, Contest, Kind, skill_for
from training.judge.gate import Match, decide

GAINS = (0.01, 0.03, 0.05)
"""True gains of the power table."""

HEADING = "## The gate in simulated worlds"
INTRODUCTION = (
    "True quality is known here. «before» is the gate of version 0.1 on the same answers. Shares are of lives with a "
    "promotion;\na life is a match, or as many as the line says. In cheap worlds there are {lives:,} lives, {old_lives:,} of "
    "them for the gate of\nbefore.\n"
)

COLOURS = ("#1b6ca8", "#2a9d57", "#c0392b")
"""Of the gains in the plot."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How many lives of each world are simulated."""

    lives: int
    old_lives: int
    """The old gate is slower. It sees the first of these lives."""
    power_lives: int

    def fewer(self, cost: int) -> Effort:
        """Return the effort for a world whose lives cost that much."""
        return Effort(
            lives=max(1, self.lives // cost),
            old_lives=max(1, self.old_lives // cost),
            power_lives=max(1, self.power_lives // cost),
        )


QUICK = Effort(lives=1_500, old_lives=200, power_lives=120)
FULL = Effort(lives=6_000, old_lives=1_000, power_lives=600)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Shares of lives with a promotion."""

    world: str
    limit: float
    promoted: float
    trials: int
    old: float

    @property
    def exceeds(self) -> bool:
        """Whether the gate promoted more often than allowed, by more than three Monte-Carlo standard errors."""
        return self.promoted > self.limit + 3 * math.sqrt(self.limit * (1 - self.limit) / self.trials)


def main() -> None:
    """Parse the command line, simulate, print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the work: about ten minutes on one core")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the false promotions: a list of {world, promoted, limit, trials, old}"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the power of both gates")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables to this file of results, too")
    arguments = parser.parse_args()
    if arguments.plot is not None and arguments.plot.suffix != ".svg":
        parser.error(f"--plot {arguments.plot}: the plot is an SVG; give a name that ends with .svg")
    effort = QUICK if arguments.quick else FULL
    results = [false_promotions(case, effort) for case in cases()]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([to_json(result) for result in results], indent=2, ensure_ascii=False) + "\n")
    power = [power_of(name, rows, gain, effort) for name in KINDS for rows in SIZES for gain in GAINS]
    optimism = [optimism_of(rows, gain, effort) for rows in (200, 1_000) for gain in GAINS]
    tables = (
        table_of_false_promotions(results),
        table_of_power(power),
        table_of_optimism(optimism),
        table_of_costs(),
    )
    text = "".join("\n" + "\n".join(table) + "\n" for table in tables)
    print(text, end="")
    if arguments.out is not None:
        options = "--quick" if arguments.quick else ""
        introduction = INTRODUCTION.format(lives=effort.lives, old_lives=effort.old_lives)
        write(arguments.out, f"{HEADING}\n\n{introduction}{text}", head_of("benchmarks.gate", options, model=None))
    if arguments.plot is not None:
        arguments.plot.write_text(draw(power), encoding="utf-8")
    too_often = [result.world for result in results if result.exceeds]
    if too_often:
        sys.exit("More false promotions than allowed: " + "; ".join(too_often))


# --- simulations ---------------------------------------------------------------------------------------------------------


def false_promotions(case: Case, effort: Effort) -> Result:
    """Return how often each gate promotes in a world, and print it with the processor time that the simulation took."""
    effort, start = effort.fewer(case.cost), time.process_time()
    promoted, old = shares(case.world, case.life, effort.lives, effort.old_lives)
    seconds = time.process_time() - start
    print(f"{case.world}: {old:.3f} → {promoted:.4f} ({effort.lives:,} lives, {seconds:.0f} s)", file=sys.stderr, flush=True)
    return Result(world=case.world, limit=case.limit, promoted=promoted, trials=effort.lives, old=old)


def shares(world: str, life: Life, lives: int, old_lives: int) -> tuple[float, float]:
    """Return the shares of lives with a promotion by the new gate and by the old one. The same world has the same lives."""
    new = old = 0
    for number in range(lives):
        seed = [zlib.crc32(world.encode()), number]
        by_new, by_old = one_life(life, seed, before=number < old_lives)
        new, old = new + by_new, old + by_old
    return new / lives, old / min(lives, old_lives)


def one_life(life: Life, seed: list[int], *, before: bool) -> tuple[bool, bool]:
    """Return whether each gate promotes in a life. ``before``: whether to ask the old one, too."""
    by_new = by_old = False
    for contest in life(np.random.default_rng(seed)):
        by_new = by_new or contest.promotes(seed[1])
        by_old = by_old or (before and contest.promoted_before(np.random.default_rng(seed)))
        if by_new and (by_old or not before):
            break
    return by_new, by_old


@dataclass(frozen=True, kw_only=True)
class Power:
    """How often each gate promotes a version that is better."""

    kind: str
    rows: int
    gain: float
    new: float
    old: float


def power_of(name: str, rows: int, gain: float, effort: Effort) -> Power:
    """Simulate first matches of candidates that are truly better by ``gain``."""
    kind, skill = KINDS[name]
    better = skill_for(kind, skill, gain)
    lives = effort.fewer(1 if rows <= 1_000 else 3).power_lives
    world = f"{100 * gain:+.0f}; {name}, {rows:,} rows"
    new, old = shares(world, one_match(kind, rows, skill, better), lives, lives)
    print(f"{world}: {old:.2f} → {new:.2f} ({lives:,} lives)", file=sys.stderr, flush=True)
    return Power(kind=name, rows=rows, gain=gain, new=new, old=old)


@dataclass(frozen=True, kw_only=True)
class Optimism:
    """How much larger than it is the gain of the winners looks, in F1, and how much larger the gate says."""

    rows: int
    gain: float
    winners: int
    true: float
    told: float


def optimism_of(rows: int, gain: float, effort: Effort) -> Optimism:
    """Simulate first matches of candidates that are truly better by ``gain`` in macro-F1, and follow those that win."""
    kind, skill = KINDS["macro, 4 labels"]
    better = skill_for(kind, skill, gain)
    outcomes = []
    for number in range(4 * effort.power_lives):
        rng = np.random.default_rng([rows, round(1_000 * gain), number])
        outcomes.append(Contest(pair=kind.pair(rng, rows, skill, better)).outcome(number))
    won = [outcome for outcome in outcomes if outcome.verdict is Verdict.PROMOTE]
    shown, told = (
        sum(values) / max(len(won), 1) for values in ([it.comparison.gain for it in won], [it.optimism for it in won])
    )
    return Optimism(rows=rows, gain=gain, winners=len(won), true=shown - gain, told=told)


def seconds_of(kind: Kind, skill: float, rows: int, number: int) -> float:
    """Return the processor time of one decision, in seconds: the least of three, as others may use the machine."""
    pair = kind.pair(np.random.default_rng(0), rows, skill, skill + 0.05)
    match = Match(pair=pair, groups=kind.groups(rows), number=number, seed=0)
    times = []
    for _ in range(3):
        start = time.process_time()
        decide(match, GateSettings())
        times.append(time.process_time() - start)
    return min(times)


# --- what is printed -----------------------------------------------------------------------------------------------------


def to_json(result: Result) -> dict[str, str | float]:
    return {
        "world": result.world,
        "promoted": result.promoted,
        "limit": round(result.limit, 6),
        "trials": result.trials,
        "old": result.old,
    }


def table_of_false_promotions(results: Sequence[Result]) -> list[str]:
    lines = ["| every promotion is false: the candidate is | before | gate | allowed | |", "|---|--:|--:|--:|---|"]
    for result in results:
        mark = "**too often**" if result.exceeds else ""
        lines.append(f"| {result.world} | {result.old:.2f} | {result.promoted:.3f} | {result.limit:.3f} | {mark} |")
    return lines


def table_of_power(power: Sequence[Power]) -> list[str]:
    gains = " | ".join(f"{100 * gain:+.0f}" for gain in GAINS)
    lines = [f"| P(promote), before → gate, if truly better by points of F1 | {gains} |", "|---|" + "--:|" * len(GAINS)]
    for name in KINDS:
        for rows in SIZES:
            cells = [f"{it.old:.2f} → {it.new:.2f}" for it in power if (it.kind, it.rows) == (name, rows)]
            lines.append(f"| {name}, {rows:,} rows | {' | '.join(cells)} |")
    return lines


def table_of_optimism(found: Sequence[Optimism]) -> list[str]:
    lines = ["| winners of first matches, 4 labels | winners | gain shown − true, points | told |", "|---|--:|--:|--:|"]
    for it in found:
        cells = f"{it.winners} | {100 * it.true:+.2f} | {100 * it.told:+.2f}"
        lines.append(f"| truly {100 * it.gain:+.0f} on {it.rows:,} rows | {cells} |")
    return lines


def table_of_costs() -> list[str]:
    lines = ["| CPU seconds of one decision | match 1 | match 60 |", "|---|--:|--:|"]
    for name in ("macro, 77 labels", "entities", "multi-label", "question answering"):
        kind, skill = KINDS[name]
        for rows in (1_000, 100_000):
            first, later = (seconds_of(kind, skill, rows, number) for number in (1, 60))
            lines.append(f"| {name}, {rows:,} rows | {first:.3f} | {later:.3f} |")
    return lines


def draw(power: Sequence[Power]) -> str:
    """Return an SVG with one panel a task: the share of promotions by rows, before (dashed) and now, for each true gain."""
    width, height, margin = 220, 170, 46
    panels = []
    for column, name in enumerate(KINDS):
        left = margin + column * (width + margin)
        steps = width / (len(SIZES) - 1)
        marks = [f'<text x="{left}" y="24" font-weight="bold">{name}</text>']
        marks += [
            f'<path d="M{left} {margin + height * (1 - share):.0f}h{width}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{margin + height * (1 - share) + 4:.0f}" text-anchor="end">{share:g}</text>'
            for share in (0, 0.5, 1)
        ]
        marks += [
            f'<text x="{left + index * steps:.0f}" y="{margin + height + 18}" text-anchor="middle">{rows:,}</text>'
            for index, rows in enumerate(SIZES)
        ]
        for gain, colour in zip(GAINS, COLOURS, strict=True):
            curve = [it for it in power if (it.kind, it.gain) == (name, gain)]
            for values, dash in (([it.old for it in curve], "4 4"), ([it.new for it in curve], "none")):
                points = " ".join(
                    f"{left + index * steps:.0f},{margin + height * (1 - share):.1f}" for index, share in enumerate(values)
                )
                marks.append(
                    f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
                )
        panels += marks
    legend = "".join(
        f'<text x="{margin + 110 * index}" y="{margin + height + 42}" fill="{colour}">truly {100 * gain:+.0f} points</text>'
        for index, (gain, colour) in enumerate(zip(GAINS, COLOURS, strict=True))
    )
    legend += f'<text x="{margin + 360}" y="{margin + height + 42}">share promoted, by rows; dashed: the gate of before</text>'
    size = f'width="{margin + len(KINDS) * (width + margin)}" height="{margin + height + 56}"'
    body = "\n".join([*panels, legend])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
