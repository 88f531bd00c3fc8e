"""Curves of a comparison: performance profiles, time to target, gap against time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from solvers.comparison.measures import Figures, Standing
from solvers.comparison.results import Row

TARGETS = (0.0, 1e-3, 1e-2, 1e-1)
"""Target gaps of the time-to-target curves."""

_SOONEST = 1e-9  # seconds; a solver may report an answer at time 0
_TIMES = 160  # points of a gap-against-time curve


@dataclass(frozen=True)
class Curve:
    """A step function of one backend: y[i] from x[i] to x[i + 1]."""

    backend: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def longest(figures: Sequence[Figures], names: Iterable[str]) -> dict[str, list[Figures]]:
    """Each backend's figures on the named problems, at its longest time limit on each."""
    kept: dict[tuple[str, str], Figures] = {}
    wanted = set(names)
    for each in figures:
        held = kept.get((each.backend, each.problem))
        if each.problem in wanted and (held is None or _length(each.time_limit) > _length(held.time_limit)):
            kept[each.backend, each.problem] = each
    found: dict[str, list[Figures]] = {}
    for (backend, _), each in kept.items():
        found.setdefault(backend, []).append(each)
    return found


def profiles(by_backend: Mapping[str, Sequence[Figures]]) -> list[Curve]:
    """Performance profiles: the share of problems on which a backend's time is within a factor of the fastest.

    (Dolan and More 2002.) Times are times to solution. Problems that no backend solved stay in the denominator.
    """
    least: dict[str, float] = {}
    for each in (each for own in by_backend.values() for each in own):
        least[each.problem] = min(least.get(each.problem, math.inf), max(_SOONEST, each.time.value))
    curves = []
    for backend, own in by_backend.items():
        ratios = sorted(
            max(_SOONEST, each.time.value) / least[each.problem] for each in own if each.time.value < math.inf
        )
        curves.append(_steps(backend, ratios, len(least)))
    return curves


def reached(
    by_backend: Mapping[str, Sequence[Figures]],
    rows: Mapping[tuple[str, str, float | None], Sequence[Row]],
    standings: Mapping[str, Standing],
    gap: float,
) -> list[Curve]:
    """Share of all runs that had reached a gap to the best known energy, against time."""
    curves = []
    for backend, own in by_backend.items():
        hits = [
            standings[each.problem].reached(row, gap)
            for each in own
            for row in rows[each.problem, backend, each.time_limit]
        ]
        curves.append(_steps(backend, sorted(hit for hit in hits if hit < math.inf), len(hits)))
    return curves


def gaps_along_time(
    by_backend: Mapping[str, Sequence[Figures]],
    rows: Mapping[tuple[str, str, float | None], Sequence[Row]],
    standings: Mapping[str, Standing],
) -> list[Curve]:
    """Mean gap over problems and seeds against time; a run counts as 1 until its first feasible state."""
    curves = []
    for backend, own in by_backend.items():
        series = [
            (standings[each.problem], row) for each in own for row in rows[each.problem, backend, each.time_limit]
        ]
        moments = [seconds for _, row in series for seconds, _ in row.incumbents]
        if not moments:
            continue
        first, last = max(min(moments), 1e-6), max(max(moments), 2e-6)
        ends = [row.seconds for _, row in series if row.seconds]
        times = np.geomspace(first, max([last * 1.0001, *ends]), _TIMES)
        total = np.zeros(_TIMES)
        for held, row in series:
            seconds = [t for t, _ in row.incumbents] if row.scored else []
            gaps = [1.0, *(min(1.0, held.gap(energy)) for _, energy in row.incumbents)] if row.scored else [1.0]
            total += np.array(gaps)[np.searchsorted(seconds, times, side="right")]
        curves.append(Curve(backend, tuple(times.tolist()), tuple((total / len(series)).tolist())))
    return curves


def _steps(backend: str, values: Sequence[float], count: int) -> Curve:
    """The number of values up to x, divided by `count`."""
    x = tuple(dict.fromkeys(values))
    return Curve(backend, x, tuple(float(np.searchsorted(values, value, side="right")) / count for value in x))


def _length(limit: float | None) -> float:
    return math.inf if limit is None else limit
