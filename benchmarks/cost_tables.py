"""Predicted seconds of a run's parts, and the tables of predict_cost.py and cost_check.py."""

from __future__ import annotations

from collections.abc import Iterable

from cost_plan import Work
from cost_steps import Rate


def seconds_of(work: Iterable[Work], rates: dict[str, Rate]) -> dict[str, tuple[float, float]]:
    """Seconds of each part, and the factor by which its work exceeds the largest measured size.

    Raises:
        ValueError: a step was not measured.
    """
    found: dict[str, tuple[float, float]] = {}
    for each in work:
        if each.step not in rates:
            raise ValueError(f"no measurement of {each.step!r}; make it with --measure (types: float32, bfloat16)")
        rate = rates[each.step]
        one = rate.seconds(each.x)
        seconds, far = found.get(each.part, (0.0, 0.0))
        found[each.part] = seconds + each.count * one, max(far, one / rate.points[-1][1])
    return found


def row(cells: Iterable[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def duration(seconds: float) -> str:
    for unit, of in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * of:
            return f"{short(seconds / of)} {unit}"
    return f"{seconds:.2g} s"


def size(count: float) -> str:
    return f"{short(count / 1e9)} GB" if count >= 1e9 else f"{short(count / 1e6)} MB"


def short(value: float) -> str:
    """Two digits, or all digits before the point; thousands and more as k, M, G."""
    for letter, of in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 10 * of:
            return f"{value / of:.0f}{letter}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
