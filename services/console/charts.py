"""Line charts as SVG: from values to the places where a template draws them. Knows no markup and no subject."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 20
"""Margins for the axes, in the units of the drawing."""

LEAST_SPAN = 0.1
"""Least difference between the ends of the y axis."""

MOST_TICKS = 8
"""Number of places on the x axis that get a text, beside which there is no room for more."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value of a series."""

    x: float
    y: float
    title: str
    """What a pointer over it, and a screen reader, say."""
    mark: bool = False
    """Whether it is drawn as an event, for example as a promotion."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A place on an axis, in the units of the drawing, with its text."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series, with the places of its points."""

    name: str
    points: Sequence[Point]
    style: str
    """The CSS class that gives it its colour."""

    @property
    def path(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing of some series."""

    width: int
    height: int
    lines: Sequence[Line]
    across: Sequence[Tick]
    up: Sequence[Tick]
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM


def line_chart(
    series: Sequence[tuple[str, str, Sequence[Point]]],
    *,
    x_prefix: str = "",
    limit: float = math.inf,
    width: int = 360,
    height: int = 130,
) -> Chart | None:
    """Return a chart of some series, each with its name, its style and its points; None without any point.

    Args:
        x_prefix: what stands before the numbers of the x axis, for example ``v``.
        limit: the largest value that there can be, where the y axis ends at the latest.
    """
    points = [point for _, _, found in series for point in found]
    if not points:
        return None
    least, most = _span([point.y for point in points])
    most = min(most, limit)
    first, last = min(point.x for point in points), max(point.x for point in points)

    def place_x(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return LEFT + share * (width - LEFT - RIGHT)

    def place_y(y: float) -> float:
        return TOP + (most - y) / (most - least) * (height - TOP - BOTTOM)

    return Chart(
        width=width,
        height=height,
        lines=[
            Line(
                name=name,
                style=style,
                points=[Point(x=place_x(it.x), y=place_y(it.y), title=it.title, mark=it.mark) for it in found],
            )
            for name, style, found in series
            if found
        ],
        across=[Tick(at=place_x(x), text=f"{x_prefix}{x:g}") for x in _ticks(sorted({point.x for point in points}))],
        up=[Tick(at=place_y(y), text=f"{y:.2f}" if most - least < 5 else f"{y:g}") for y in (least, (least + most) / 2, most)],
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return round numbers around all values, for the ends of an axis."""
    low, high = min(values), max(values)
    if high - low < LEAST_SPAN:  # a difference that nobody needs to see must not fill the chart
        low, high = (low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2
    step = 10.0 ** math.floor(math.log10(high - low))
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _ticks(values: Sequence[float]) -> Iterator[float]:
    """Yield at most about `MOST_TICKS` of the values, the last one among them."""
    stride = math.ceil(len(values) / MOST_TICKS)
    yield from reversed(values[::-1][::stride])
