"""From the JSON of a decision and its report to what a page shows, in the words of a language. Knows no HTML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.quality.matches import left_after
from services.report.conditions import Condition, conditions_of, counted, listed
from services.report.numbers import decimals, moment, percent, signed
from services.report.plots import Interval, Line, Plot, scale_of
from services.report.texts import Named, Segment, named, segments
from services.report.words import Words

Json = Mapping[str, Any]
"""One object in an answer of the API."""

SIGNS = {"promote": "✓", "reject": "✗", "inconclusive": "?"}
"""Of the verdicts, to tell them apart without colours."""

SHOWN_LABELS = 10
"""How many labels are shown at once from each end of a long list; a reader opens the others."""

PLOTTED = 12
"""Maximum number of rows in a plot."""

LEAST_OPTIMISM = 0.0005
"""Least optimism that is told: less is 0.0 points."""

OVER_BUDGET = ("too large", "too slow")
"""Reasons of the gate with which no match is played."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that stands out."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """F1 of both versions on some rows, or of a label."""

    name: str
    count: str
    champion_f1: str
    f1: str
    gain: str
    tone: str
    """``better``, ``worse`` or empty."""
    interval: tuple[float, float, float] | None
    """Low, value and high of the gain; None where it was not computed."""
    words: str
    """The interval in words."""
    lost: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with one scale."""

    first: Sequence[Row]
    rest: Sequence[Row]
    """In the middle of a long list."""
    last: Sequence[Row]
    scale: float
    compared: bool
    """Whether there is a champion's F1."""
    intervals: bool


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often a right answer was given as another label."""

    truth: str
    answer: str
    champion_count: int
    count: int
    difference: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """An answer to a changed text."""

    who: str
    words: str
    named: Sequence[Named]
    reasons: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """What is explained (empty: the answer as a whole), with words of the text and what each adds to its score."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A text whose answer moved the gain."""

    better: bool
    segments: Sequence[Segment]
    answers: Sequence[Told]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A line of what was judged."""

    name: str
    value: str
    code: bool = False
    """Whether it is a hash or the like."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything that a report shows, from top to bottom."""

    language: str
    heading: str
    verdict: str
    """``promote``, ``reject`` or ``inconclusive``."""
    sign: str
    verdict_name: str
    headline: str
    sentence: str
    """The gate's own, in English."""
    reason: str | None
    """Why a user forced or rolled back."""
    when: str
    figures: Sequence[Figure]
    judges: Sequence[str]
    budget: Sequence[str]
    conditions: Sequence[Condition]
    plot_heading: str
    plot_lead: str
    plot: Plot | None
    optimism: str
    slices: Table | None
    labels: Table | None
    confusions: Sequence[Confusion]
    changed: Sequence[Changed]
    marked: bool
    """Whether places of answers are marked in the changed texts."""
    compared: bool
    ours: str
    theirs: str
    cost: Sequence[tuple[str, str, str]]
    """Version, size and latency."""
    facts: Sequence[Fact]
    settings: Sequence[tuple[str, str]]
    """The policy, key by key."""


def view_of(item: Json, words: Words) -> View:
    """Return what to show of an answer of ``GET /api/models/M/versions/N/report``."""
    decision = item["decision"]
    report = item["report"]
    numbers = decision["numbers"]
    compared = bool(numbers["compared"])
    names = {"candidate": decision["candidate"], "champion": decision["champion"]}
    heading = words("heading" if compared else "heading.first", model=decision["model"], **names)
    changed = [_changed(one, names, words) for one in report["changed"]]
    return View(
        language=words.tag,
        heading=heading,
        verdict=decision["verdict"],
        sign=SIGNS[decision["verdict"]],
        verdict_name=words(f"verdict.{decision['verdict']}"),
        headline=words(f"reason.{numbers['reason']}", **names),
        sentence=decision["sentence"],
        reason=decision.get("reason"),
        when=words("decided", when=moment(decision["created_at"])),
        figures=_figures(numbers, names, words),
        judges=list(_judges(numbers, names, words)),
        budget=_budget(decision, words),
        conditions=conditions_of(decision, report, words),
        plot_heading=words("plot" if compared else "plot.first"),
        plot_lead=words("plot.lead", confidence=percent(decision["policy"]["confidence"])) if compared else "",
        plot=_gains(decision, report, names, words) if compared else _first(decision, names, words),
        optimism=words("optimism", points=f"{100 * report['optimism']:.1f}") if report["optimism"] >= LEAST_OPTIMISM else "",
        slices=_table(report["rows"], words, sort=False) if compared and len(report["rows"]) > 1 else None,
        labels=_table(report["labels"], words, sort=True) if report["labels"] else None,
        confusions=[_confusion(one) for one in report["confusions"]],
        changed=changed,
        marked=any(one.segments and (part.right or part.wrong) for one in changed for part in one.segments),
        compared=compared,
        ours=f"v{names['candidate']}",
        theirs=f"v{names['champion']}",
        cost=list(_costs(report["cost"], names, compared, words)),
        facts=list(_facts(decision, words)),
        settings=[(key, json.dumps(value)) for key, value in sorted(decision["policy"].items())],
    )


def _figures(numbers: Json, names: Json, words: Words) -> list[Figure]:
    def score(key: str, who: str) -> Figure:
        interval = numbers.get(f"{key}_interval")
        note = words("figure.interval", low=decimals(interval[0]), high=decimals(interval[1])) if interval else ""
        return Figure(name=words("figure.f1", version=names[who]), value=decimals(numbers[key]), note=note)

    if not numbers["compared"]:
        return [score("f1", "candidate"), Figure(name=words("figure.f1_bound"), value=decimals(numbers["f1_lower_bound"]))]
    return [
        score("champion_f1", "champion"),
        score("f1", "candidate"),
        Figure(name=words("figure.gain"), value=signed(numbers["gain"])),
        Figure(name=words("figure.bound"), value=signed(numbers["gain_lower_bound"])),
    ]


def _judges(numbers: Json, names: Json, words: Words) -> Iterator[str]:
    """Yield what is worth knowing about the rows that judged."""
    yield words(f"judges.{numbers['unit']}", groups=f"{numbers['groups']:,}", rows=f"{numbers['examples']:,}")
    if "differing" in numbers:
        yield words("judges.differing", differing=f"{numbers['differing']:,}")
    audited = numbers.get("dataset", {}).get("audited")
    if audited:
        yield words("judges.audited", declared=f"{numbers['examples'] - audited:,}", audited=f"{audited:,}")
    elif audited == 0:
        yield words("judges.declared")
    if corrections := numbers.get("corrections"):
        scores = {"f1": decimals(corrections["f1"]), "champion_f1": decimals(corrections["champion_f1"])}
        key = "judges.corrections" if corrections["champion_f1"] is None else "judges.corrections_both"
        yield words(key, rows=f"{corrections['rows']:,}", **scores, **names)
    for key in ("unjudged", "unanswerable"):
        if labels := numbers.get(f"{key}_labels"):
            yield words(f"judges.{key}", labels=listed(labels, words, most=10), **names)
    if numbers.get("lost", 0.0) >= 0.005:
        yield words("judges.lost", share=f"{numbers['lost']:.0%}")


def _budget(decision: Json, words: Words) -> list[str]:
    """Return how often this holdout has judged, and what each match may spend of the error budget."""
    numbers, confidence = decision["numbers"], decision["policy"]["confidence"]
    unplayed = numbers["reason"] in OVER_BUDGET
    total, left = 1 - confidence, left_after(confidence, numbers["match"] - unplayed)
    spent = {"total": percent(total), "spent": percent(total - left), "left": percent(left)}
    if unplayed:
        return [words("budget.unplayed", **spent)]
    return [words("budget.match", match=numbers["match"], allowed=percent(numbers["allowed"])), words("budget.left", **spent)]


def _gains(decision: Json, report: Json, names: Json, words: Words) -> Plot | None:
    """Return the plot of the gain on the whole holdout, its parts and its slices; None if a report has none of them."""
    if not report["rows"]:
        return None
    numbers, least = decision["numbers"], decision["policy"]["min_gain"]
    lines = [Line(at=0.0, name=words("plot.zero"), kind="zero", left=True)]
    if least > 0:
        lines.append(Line(at=least, name=words("plot.wanted", value=signed(least)), kind="wanted"))
    return Plot(
        identity="gain",
        title=words("plot.title", **names),
        axis=words("plot.axis"),
        intervals=[_interval(row, numbers["unit"], words) for row in _plotted(report["rows"])],
        lines=lines,
        difference=True,
    )


def _plotted(rows: Sequence[Json]) -> list[Json]:
    """Return the rows of a plot in order: all, or if they are many the whole holdout and those with the largest losses."""
    worst = sorted(rows[1:], key=_gain_of)[: PLOTTED - 1]
    return [row for row in rows if row is rows[0] or any(row is one for one in worst)]


def _interval(row: Json, unit: str, words: Words) -> Interval:
    name, count = words.name("part", row["name"]), counted(row["texts"], unit, words)
    ends = {"gain": signed(row["gain"]), "low": signed(row["low"]), "high": signed(row["high"])}
    return Interval(
        name=name,
        value=row["gain"],
        low=row["low"],
        high=row["high"],
        told=words("plot.row", name=name, groups=count, **ends),
        caption=f"{ends['gain']} [{ends['low']}, {ends['high']}], {count}",
    )


def _first(decision: Json, names: Json, words: Words) -> Plot:
    """Return the plot of a first version: its F1 beside what is required of it."""
    numbers, least = decision["numbers"], decision["policy"]["min_f1"]
    low, high = numbers["f1_interval"]
    name, count = words("plot.first_title", **names), counted(numbers["groups"], numbers["unit"], words)
    told = words("plot.row", name=name, gain=decimals(numbers["f1"]), low=decimals(low), high=decimals(high), groups=count)
    return Plot(
        identity="f1",
        title=name,
        axis=words("plot.first_axis"),
        intervals=[
            Interval(
                name=name,
                value=numbers["f1"],
                low=low,
                high=high,
                told=told,
                caption=f"{decimals(numbers['f1'])} [{decimals(low)}, {decimals(high)}], {count}",
            )
        ],
        lines=[Line(at=least, name=words("plot.first_wanted", value=f"{least:g}"), kind="wanted")],
        difference=False,
    )


def _table(changes: Sequence[Json], words: Words, *, sort: bool) -> Table:
    """Return the rows of a table. ``sort``: the largest losses first, and the middle of a long list apart."""
    rows = [_row(one, words) for one in (sorted(changes, key=_gain_of) if sort else changes)]
    long = sort and len(rows) > 2 * SHOWN_LABELS + 2
    ends = [row.interval for row in rows if row.interval is not None]
    return Table(
        first=rows[:SHOWN_LABELS] if long else rows,
        rest=rows[SHOWN_LABELS:-SHOWN_LABELS] if long else [],
        last=rows[-SHOWN_LABELS:] if long else [],
        scale=scale_of([edge for low, _, high in ends for edge in (low, high)]),
        compared=any(one["champion_f1"] is not None for one in changes),
        intervals=bool(ends),
    )


def _gain_of(change: Json) -> float:
    return float(change["f1"] - (change["champion_f1"] or 0.0))


def _row(change: Json, words: Words) -> Row:
    gain = None if change["champion_f1"] is None else _gain_of(change)
    interval = (change["low"], change["gain"], change["high"]) if "low" in change else None
    return Row(
        name=words.name("part", change["name"]),
        count=f"{change['texts']:,}",
        champion_f1=decimals(change["champion_f1"]),
        f1=decimals(change["f1"]),
        gain="–" if gain is None else signed(gain),
        tone=_tone(0.0 if gain is None else round(gain, 3)),
        interval=interval,
        words="" if interval is None else words("figure.interval", low=signed(interval[0]), high=signed(interval[2])),
        lost=bool(change.get("lost")),
    )


def _confusion(one: Json) -> Confusion:
    difference = one["count"] - one["champion_count"]
    return Confusion(
        truth=one["truth"],
        answer=one["answer"],
        champion_count=one["champion_count"],
        count=one["count"],
        difference=f"{difference:+d}".replace("-", "\N{MINUS SIGN}"),
        tone=_tone(-difference),
    )


def _changed(one: Json, names: Json, words: Words) -> Changed:
    marks = one.get("marks", {})
    truth = marks.get("truth", ())
    answers = [(words("changed.truth"), one["truth"], "truth")]
    answers += [(f"v{names[who]}", one[key], key) for who, key in (("champion", "champion_answer"), ("candidate", "answer"))]
    return Changed(
        better=one["influence"] > 0,
        segments=segments(one["text"], marks),
        answers=[
            Told(
                who=who,
                words=words("changed.unkept") if told is None else told,
                named=[] if told is None else named(one["text"], marks.get(key, ()), truth),
                reasons=[
                    (of, [(word, signed(score)) for word, score in counting])
                    for of, counting in one.get("reasons", {}).get(key, ())
                ],
            )
            for who, told, key in answers
        ],
    )


def _costs(costs: Sequence[Json | None], names: Json, compared: bool, words: Words) -> Iterator[tuple[str, str, str]]:
    for who, cost in zip(("candidate", "champion"), costs, strict=True):
        if who == "champion" and not compared:
            continue
        name = words(f"version.{who}", version=names[who])
        if cost is None:
            yield name, words("cost.none"), words("cost.none")
        else:
            yield name, words("mb", value=f"{cost['megabytes']:,.1f}"), words("ms", value=f"{cost['latency_ms']:,.1f}")


def _facts(decision: Json, words: Words) -> Iterator[Fact]:
    """Yield ids and hashes, by which what was judged can be found again."""
    numbers = decision["numbers"]
    yield Fact(name=words("judged.decision"), value=str(decision["id"]))
    yield Fact(name=words("judged.model"), value=decision["model"])
    manifests = numbers.get("manifests", [None, None])
    for who, manifest in zip(("candidate", "champion"), manifests, strict=True):
        number = decision[who]
        value = words("none") if number is None else f"v{number}" if manifest is None else f"v{number}, {manifest}"
        yield Fact(name=words(f"judged.{who}"), value=value, code=True)
    if dataset := numbers.get("dataset"):
        value = words("dataset", number=dataset["number"] or "–", hash=dataset["hash"])
        yield Fact(name=words("judged.dataset"), value=value, code=True)
    yield Fact(name=words("judged.holdout"), value=numbers["holdout_hash"], code=True)
    if numbers.get("marks_hash"):
        yield Fact(name=words("judged.marks"), value=numbers["marks_hash"], code=True)
    policy = json.dumps(decision["policy"], sort_keys=True, separators=(",", ":")).encode()
    yield Fact(name=words("judged.policy"), value=hashlib.sha256(policy).hexdigest(), code=True)


def _tone(value: float) -> str:
    return "better" if value > 0 else "worse" if value < 0 else ""
