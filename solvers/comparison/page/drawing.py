"""Step curves as SVG for the page: they scale, take the page's colours, and need no library to be looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from solvers.comparison.curves import Curve

COLOURS = 8
"""The page's style has so many; further backends have the same colours with dashes."""

_WIDTH, _HEIGHT = 460, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 44

_FLOOR = 1e-6
"""Where a logarithmic axis of gaps ends: what is drawn there may be 0."""


def chart(
    curves: Sequence[Curve], style: Mapping[str, int], *, x_label: str, y_label: str, seen: str, gaps: bool = False
) -> str:
    """An SVG element of curves over a logarithmic axis.

    Args:
        curves: what to draw.
        style: number of each backend, which chooses its colour and dashes.
        x_label: under the axis.
        y_label: beside it.
        seen: what there is to see, for those who do not.
        gaps: whether y are gaps on a logarithmic axis that ends in 0; otherwise shares from 0 to 1, that begin at 0.
    """
    drawn = [curve for curve in curves if curve.x]
    if not drawn:
        return f'<p class="note">{escape(seen)}: nobody reached it.</p>'
    positive = [x for curve in drawn for x in curve.x if x > 0.0] or [1e-3]
    low, high = min(positive), max(positive)
    low, high = (low / 1.5, high * 1.5) if high < 4 * low else (low / 1.1, high * 1.1)
    bottom = 0.0
    if gaps:
        bottom = max(_FLOOR, min((y for curve in drawn for y in curve.y if y > 0.0), default=_FLOOR) / 3.0)

    def across(x: float) -> float:
        share = math.log(max(x, low) / low) / math.log(high / low)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, share)

    def up(y: float) -> float:
        share = math.log(max(y, bottom) / bottom) / math.log(1.0 / bottom) if gaps else y
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * min(1.0, share)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(seen)}">']
    levels = _gap_ticks(bottom * 1.5) if gaps else [0.25, 0.5, 0.75, 1.0]
    for y in [*levels, 0.0]:
        label = f"{100 * y:g} %"
        parts.append(f'<path class="grid" d="M{_LEFT} {up(y):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{label}</text>')
    for x in _ticks(low, high):
        parts.append(f'<path class="grid" d="M{across(x):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        anchor = "end" if across(x) > _WIDTH - _RIGHT - 16 else "middle"
        parts.append(
            f'<text x="{across(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{_short(x)}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for curve in drawn:
        points = [f"M{across(curve.x[0]):.1f} {up(curve.y[0] if gaps else 0.0):.1f}"]
        for x, y in zip(curve.x, curve.y, strict=True):
            points.append(f"H{across(x):.1f}V{up(y):.1f}")
        points.append(f"H{_WIDTH - _RIGHT}")
        number = style[curve.backend]
        dash = "" if number < COLOURS else ' stroke-dasharray="6 4"'
        title = f"<title>{escape(curve.backend)}</title>"
        parts.append(f'<path class="line c{number % COLOURS}" d="{"".join(points)}"{dash}>{title}</path>')
    parts.append("</svg>")
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two ends, or 1, 2 and 5 times them where there are few, or every so many of many."""
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
