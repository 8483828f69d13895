"""Intervals as SVG: presentation is left to classes of report.css, and every plot says in words what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from services.report.numbers import decimals, signed

WIDTH, SIDE = 560, 24
"""Width of a plot and of its margins to both sides."""

ROW, HEAD, FOOT = 46, 30, 46
"""Heights of a row, of what stands above the rows, and of the axis below them."""

LEAST_SCALE = 0.01
"""Half of the narrowest axis of gains: below that, all gains are none."""

GLYPH_WIDTH, GLYPH_HEIGHT = 150, 16


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its confidence interval."""

    name: str
    value: float
    low: float
    high: float
    told: str
    """All of it in words, for those who do not see the plot."""
    caption: str
    """Its numbers, as the plot shows them."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A vertical line of a plot."""

    at: float
    name: str
    kind: str
    """Its class: ``zero`` or ``wanted``."""
    left: bool = False
    """Whether its name stands to the left of it."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Intervals on one axis."""

    identity: str
    """Unique in a page."""
    title: str
    axis: str
    intervals: Sequence[Interval]
    lines: Sequence[Line]
    difference: bool
    """Whether values are differences, which are written with their signs."""


def gain_plot(plot: Plot) -> Markup:
    """Return a plot with one row for each interval: its name and numbers, and the interval below them."""
    low, high = _limits(plot)
    bottom = HEAD + ROW * len(plot.intervals)
    height = bottom + FOOT

    def x(value: float) -> str:
        return f"{SIDE + (value - low) / (high - low) * (WIDTH - 2 * SIDE):.1f}"

    parts = [
        Markup('<svg class="plot" role="img" viewBox="0 0 {} {}" aria-labelledby="{}-title {}-desc">').format(
            WIDTH, height, plot.identity, plot.identity
        ),
        Markup('<title id="{}-title">{}</title>').format(plot.identity, plot.title),
        Markup('<desc id="{}-desc">{}</desc>').format(plot.identity, "; ".join(one.told for one in plot.intervals)),
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(SIDE, WIDTH - SIDE, bottom, bottom),
    ]
    for tick in _ticks(low, high):
        text = signed(tick) if plot.difference else decimals(tick)
        parts.append(Markup('<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x(tick), bottom, bottom + 5))
        parts.append(Markup('<text class="number" x="{}" y="{}">{}</text>').format(x(tick), bottom + 20, text))
    parts.append(Markup('<text class="number" x="{}" y="{}">{}</text>').format(WIDTH / 2, bottom + 40, plot.axis))
    for line in plot.lines:
        at, side = x(line.at), "end" if line.left else "start"
        parts.append(Markup('<line class="{0}" x1="{1}" x2="{1}" y1="20" y2="{2}"/>').format(line.kind, at, bottom))
        parts.append(Markup('<text class="note {}" x="{}" y="14">{}</text>').format(side, at, line.name))
    for index, one in enumerate(plot.intervals):
        top = HEAD + ROW * index
        parts.append(Markup('<text class="name" x="{}" y="{}">{}</text>').format(SIDE, top + 12, _short(one.name)))
        parts.append(Markup('<text class="caption" x="{}" y="{}">{}</text>').format(WIDTH - SIDE, top + 12, one.caption))
        parts.append(_bar((x(one.low), x(one.value), x(one.high)), top + 28, 7, _kind(one, plot)))
    return Markup("").join([*parts, Markup("</svg>")])


def interval_glyph(ends: tuple[float, float, float], scale: float) -> Markup:
    """Return a small interval for the cell of a table, on an axis from ``-scale`` to ``scale``.

    ``ends``: the lower end, the value, the upper end.
    """
    low, value, high = ends

    def x(place: float) -> str:
        return f"{4 + (max(-1.0, min(1.0, place / scale)) + 1) / 2 * (GLYPH_WIDTH - 8):.1f}"

    middle = GLYPH_HEIGHT / 2
    kind = "better" if low > 0 else "worse" if high < 0 else "open"
    return Markup(
        '<svg class="glyph" aria-hidden="true" viewBox="0 0 {} {}"><line class="zero" x1="{}" x2="{}" y1="0" y2="{}"/>{}</svg>'
    ).format(GLYPH_WIDTH, GLYPH_HEIGHT, x(0), x(0), GLYPH_HEIGHT, _bar((x(low), x(value), x(high)), middle, 4, kind))


def scale_of(ends: Sequence[float]) -> float:
    """Return half of the axis on which all these ends of intervals have room."""
    return max([LEAST_SCALE, *map(abs, ends)])


def _bar(places: tuple[str, str, str], y: float, half: float, kind: str) -> Markup:
    low, middle, high = places
    return Markup(
        '<g class="bar {kind}"><line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        '<line x1="{low}" x2="{low}" y1="{top}" y2="{bottom}"/><line x1="{high}" x2="{high}" y1="{top}" y2="{bottom}"/>'
        '<circle cx="{middle}" cy="{y}" r="{radius}"/></g>'
    ).format(kind=kind, low=low, high=high, middle=middle, y=y, top=y - half, bottom=y + half, radius=half * 0.75)


def _kind(one: Interval, plot: Plot) -> str:
    if not plot.difference:
        return "open"
    return "better" if one.low > 0 else "worse" if one.high < 0 else "open"


def _limits(plot: Plot) -> tuple[float, float]:
    """Return the ends of the axis: of gains around zero, of scores where their intervals and lines are."""
    values = [*(end for one in plot.intervals for end in (one.low, one.high)), *(line.at for line in plot.lines)]
    if plot.difference:
        half = 1.08 * scale_of(values)
        return -half, half
    margin = max(0.02, 0.1 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), min(1.0, max(values) + margin)


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers between two ends."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(name: str) -> str:
    """Return a name that has room beside its numbers."""
    return name if len(name) <= 34 else name[:33] + "…"
