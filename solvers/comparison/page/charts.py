"""Step curves over a logarithmic axis, in the coordinates of the SVG that `charts.html` draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from solvers.comparison.curves import Curve

COLOURS = 8
"""Colours of the stylesheet; further backends repeat them with dashed lines."""

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 44

_FLOOR = 1e-6
"""Lower end of a logarithmic axis of gaps; a gap of 0 is drawn there."""


@dataclass(frozen=True)
class Line:
    """The line of a backend.

    Attributes:
        backend: its name.
        colour: number of the colour.
        dashed: whether it is dashed.
        path: the curve as SVG path data; empty in a legend.
    """

    backend: str
    colour: int
    dashed: bool
    path: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        seen: what it shows, for screen readers.
        x_label, y_label: labels of the axes.
        levels: height and label of each horizontal grid line.
        ticks: position, text anchor and label of each vertical grid line.
        lines: the curves; none where no backend has one.
    """

    seen: str
    x_label: str
    y_label: str
    levels: Sequence[tuple[float, str]] = ()
    ticks: Sequence[tuple[float, str, str]] = ()
    lines: Sequence[Line] = ()

    left, right, top, bottom, width, height = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM, WIDTH, HEIGHT


def legend(backends: Iterable[str], style: Mapping[str, int]) -> list[Line]:
    """The colour and dashes of each backend, from its number in `style`."""
    return [Line(text, style[text] % COLOURS, style[text] >= COLOURS) for text in backends]


def chart(
    curves: Sequence[Curve], style: Mapping[str, int], *, x_label: str, y_label: str, seen: str, gaps: bool = False
) -> Chart:
    """Place curves in a chart.

    Args:
        curves: the curves.
        style: number of each backend, which sets its colour and dashes.
        x_label: label of the axis of x.
        y_label: label of the axis of y.
        seen: what the chart shows, for screen readers.
        gaps: whether y are gaps, on a logarithmic axis whose lowest line is 0; else they are shares from 0 to 1, and
            each curve starts at 0.
    """
    drawn = [curve for curve in curves if curve.x]
    if not drawn:
        return Chart(seen, x_label, y_label)
    positive = [x for curve in drawn for x in curve.x if x > 0.0] or [1e-3]
    low, high = min(positive), max(positive)
    low, high = (low / 1.5, high * 1.5) if high < 4 * low else (low / 1.1, high * 1.1)
    bottom = 0.0
    if gaps:
        bottom = max(_FLOOR, min((y for curve in drawn for y in curve.y if y > 0.0), default=_FLOOR) / 3.0)

    def across(x: float) -> float:
        share = math.log(max(x, low) / low) / math.log(high / low)
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, share)

    def up(y: float) -> float:
        share = math.log(max(y, bottom) / bottom) / math.log(1.0 / bottom) if gaps else y
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(1.0, share)

    levels = _gap_ticks(bottom * 1.5) if gaps else [0.25, 0.5, 0.75, 1.0]
    edge = WIDTH - RIGHT - 16  # a label centred beyond it would leave the chart
    return Chart(
        seen,
        x_label,
        y_label,
        [(up(y), f"{100 * y:g} %") for y in [*levels, 0.0]],
        [(across(x), "end" if across(x) > edge else "middle", _short(x)) for x in _ticks(low, high)],
        [
            Line(curve.backend, style[curve.backend] % COLOURS, style[curve.backend] >= COLOURS,
                 _path(curve, across, up, curve.y[0] if gaps else 0.0))
            for curve in drawn
        ],
    )  # fmt: skip


def _path(curve: Curve, across: Callable[[float], float], up: Callable[[float], float], first: float) -> str:
    steps = "".join(f"H{across(x):.1f}V{up(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
    return f"M{across(curve.x[0]):.1f} {up(first):.1f}{steps}H{WIDTH - RIGHT}"


def _ticks(low: float, high: float) -> list[float]:
    """At most seven powers of ten between two ends; where there are few, 1, 2 and 5 times them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1.0,) if last - first > 2 else (1.0, 2.0, 5.0)
    ticks = [f * 10.0**e for e in range(first, last + 1) for f in factors if low <= f * 10.0**e <= high]
    return ticks[:: max(1, -(-len(ticks) // 7))] or [low, high]


def _gap_ticks(bottom: float) -> list[float]:
    ticks = [10.0**e for e in range(0, -12, -1) if 10.0**e >= bottom]
    return ticks[:: max(1, -(-len(ticks) // 6))]


def _short(x: float) -> str:
    if 1e-3 <= x < 1e4:
        return f"{x:g}"
    exponent = round(math.log10(x))
    return (
        f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e") if abs(10.0**exponent / x - 1) > 1e-9 else f"1e{exponent}"
    )
