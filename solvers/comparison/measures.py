"""Figures per problem and backend, the leaderboard over all problems, and pairwise tests."""

from __future__ import annotations

import itertools
import math
import statistics as plain
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from problems import BestKnown
from solvers.comparison.facts import Facts
from solvers.comparison.results import Row
from solvers.comparison.statistics import Interval, SignTest, corrected, least_time, sign_test, time_to_solution

KEPT = 1.5
"""A backend keeps a time limit if its median run takes at most this factor times it."""


@dataclass(frozen=True)
class Standing:
    """A problem with its best known energy after a comparison.

    Attributes:
        facts: properties of the problem.
        best: the lowest energy of the record, the solvers and plain descent; whether proven, and by whom found.
        contradicted: describes an optimality proof that the results contradict; "" if there is none.
        solved: whether any solver found a feasible state.
    """

    facts: Facts
    best: BestKnown
    contradicted: str = ""
    solved: bool = True

    @property
    def easy(self) -> bool:
        """Whether more than half of the plain descents find the best energy; False without a feasible answer."""
        return self.solved and self.facts.easy(self.best.energy)

    def gap(self, energy: float) -> float:
        """Normalised gap: 0 at the best energy, 1 at the mean of random feasible states."""
        return self.facts.gap(energy, self.best.energy)

    def reached(self, row: Row, gap: float = 0.0) -> float:
        """Seconds until a run reached a gap; infinity if it did not."""
        if not row.scored:
            return math.inf
        return next((seconds for seconds, energy in row.incumbents if self.gap(energy) <= gap), math.inf)


@dataclass(frozen=True)
class Figures:
    """Figures of one backend on one problem with one time limit.

    Attributes:
        problem, backend, time_limit: what was run.
        runs: number of solves.
        feasible: runs that found a feasible state.
        successful: runs that reached the best known energy.
        failed: runs with an error.
        best: lowest energy; None if no run was feasible.
        median: median energy; infeasible runs count as the worst. None if the median run is infeasible.
        best_gap, median_gap: gaps of `best` and `median`.
        time: TTS99 if the best known energy is the proven optimum, otherwise time to target by the same formula.
        proven: whether the best known energy is proven.
        seconds: median seconds per run.
        setup: total set-up seconds.
        queue: median seconds in a service's queue, or None.
        seeds: seeds of the runs, ascending.
        energies: energy of each run; infinite if infeasible.
        hits: seconds until each run reached the best known energy.
    """

    problem: str
    backend: str
    time_limit: float | None
    runs: int
    feasible: int
    successful: int
    failed: int
    best: float | None
    median: float | None
    best_gap: float | None
    median_gap: float | None
    time: Interval
    proven: bool
    seconds: float | None
    setup: float
    queue: float | None
    seeds: tuple[int, ...]
    energies: tuple[float, ...]
    hits: tuple[float, ...]


@dataclass(frozen=True)
class Place:
    """A line of the leaderboard: one backend over all problems with one time limit.

    Attributes:
        backend, time_limit: what was run.
        problems: number of counted problems: without easy ones, unless all are easy.
        runs, feasible, successful: totals over these problems.
        unsolved: problems whose median run is infeasible.
        gap: mean of the median gaps over the other problems; None if all are unsolved.
        worst_gap: the largest median gap.
        time: median over problems of the time to solution or target.
        unreached: problems on which no run reached the best known energy.
        setup: total set-up seconds of the comparison.
        seconds: median over problems of the seconds per run; None if all runs failed.
        quality: sign test of median energies against the first of the board, p corrected for all pairs; None for the
            first itself.
        speed: the same for time to solution.
    """

    backend: str
    time_limit: float | None
    problems: int
    runs: int
    feasible: int
    successful: int
    unsolved: int
    gap: float | None
    worst_gap: float | None
    time: float
    unreached: int
    setup: float
    seconds: float | None
    quality: SignTest | None = None
    speed: SignTest | None = None

    @property
    def kept(self) -> bool:
        """Whether the median run keeps the time limit."""
        return self.time_limit is None or self.seconds is None or self.seconds <= KEPT * self.time_limit

    @property
    def order(self) -> tuple[bool, int, bool, int, float, float]:
        """Sort key of the leaderboard; backends with equal keys are tied."""
        gap = math.inf if self.gap is None else self.gap
        return self.gap is None, -self.problems, not self.kept, self.unsolved, gap, self.time


@dataclass(frozen=True)
class Pair:
    """Sign tests of two backends with one time limit over all problems; p-values corrected for all pairs (Holm)."""

    first: str
    second: str
    time_limit: float | None
    quality: SignTest
    speed: SignTest


def standing(facts: Facts, rows: Iterable[Row]) -> Standing:
    """The best known energy of a problem, from its record, the rows and plain descent.

    Without any of them, it is the mean of random states.
    """
    scored = [(row.energy, row) for row in rows if row.energy is not None]
    best, contradicted = facts.best_known, ""
    found = []
    if scored:
        energy, row = min(scored, key=lambda pair: pair[0])
        found.append((energy, row.backend, f"{row.backend}, in this comparison"))
    if facts.descents:
        found.append((min(facts.descents), "plain descent", "plain descent"))
    for energy, who, found_by in found:
        if best is not None and energy >= best.energy - facts.tolerance(best.energy):
            continue
        if facts.best_known is not None and facts.best_known.proven:
            contradicted = f"{who} found an energy below the proven optimum on record, {facts.best_known.energy:.12g}"
        best = BestKnown(energy, False, found_by)
    best = best or BestKnown(facts.random_mean, False, "no solver")
    for _, row in scored:
        if row.lower_bound is None:
            continue
        if row.lower_bound > best.energy + facts.tolerance(best.energy):
            contradicted = f"{row.backend} reports a lower bound of {row.lower_bound:.12g}, above the best known energy"
        elif not best.proven and row.lower_bound >= best.energy - facts.tolerance(best.energy):
            found_by = best.found_by if row.backend in best.found_by else f"{best.found_by}; proven by {row.backend}"
            best = BestKnown(best.energy, True, found_by)
    return Standing(facts, best, contradicted, bool(scored))


def figures(standing: Standing, rows: Sequence[Row]) -> Figures:
    """The figures of one problem, backend and time limit; at least one row."""
    rows = sorted(rows, key=lambda row: row.seed)
    energies = tuple(math.inf if row.energy is None else row.energy for row in rows)
    best, median = (None if math.isinf(energy) else energy for energy in (min(energies), _median(energies)))
    hits = tuple(standing.reached(row) for row in rows)
    spent = [row.seconds for row in rows if row.seconds is not None]
    queued = [row.queue for row in rows if row.queue is not None]
    return Figures(
        rows[0].problem, rows[0].backend, rows[0].time_limit, len(rows),
        sum(row.energy is not None for row in rows),
        sum(hit < math.inf for hit in hits), sum(row.status == "failed" for row in rows), best, median,
        None if best is None else standing.gap(best), None if median is None else standing.gap(median),
        time_to_solution(hits), standing.best.proven, plain.median(spent) if spent else None,
        sum(row.setup for row in rows), plain.median(queued) if queued else None,
        tuple(row.seed for row in rows), energies, hits,
    )  # fmt: skip


def _median(energies: Sequence[float]) -> float:
    """The median of energies, infinite for infeasible runs; of an even number, the worse of the two middle ones."""
    return sorted(energies)[len(energies) // 2]


def counting(standings: Mapping[str, Standing]) -> list[str]:
    """Names of the problems that the leaderboard includes: those that are not easy, or all if all are easy."""
    hard = [name for name, each in standings.items() if not each.easy]
    return hard or list(standings)


def board(all_figures: Sequence[Figures], standings: Mapping[str, Standing]) -> list[Place]:
    """The leaderboard, per time limit: backends by whether any problem is solved, number of problems, whether the limit
    is kept, fewest unsolved problems, mean gap and time.
    """
    names = counting(standings)
    places: list[Place] = []
    tests = {(pair.first, pair.second, pair.time_limit): pair for pair in pairs(all_figures, standings)}
    limits = sorted({each.time_limit for each in all_figures}, key=lambda limit: math.inf if limit is None else limit)
    setups: dict[str, float] = {}
    for each in all_figures:
        setups[each.backend] = setups.get(each.backend, 0.0) + each.setup
    for limit in limits:
        by_backend: dict[str, dict[str, Figures]] = {}
        for each in all_figures:
            if each.time_limit == limit and each.problem in names:
                by_backend.setdefault(each.backend, {})[each.problem] = each
        ranked = sorted(
            (_place(backend, limit, own, setups[backend]) for backend, own in by_backend.items()),
            key=lambda place: (*place.order, place.backend),
        )
        if not ranked:  # incomplete: only easy problems have rows with this limit
            continue
        places.append(ranked[0])
        for place in ranked[1:]:
            if pair := tests.get((place.backend, ranked[0].backend, limit)):
                places.append(replace(place, quality=pair.quality, speed=pair.speed))
            else:
                pair = tests[ranked[0].backend, place.backend, limit]
                places.append(replace(place, quality=pair.quality.reversed, speed=pair.speed.reversed))
    return places


def pairs(all_figures: Sequence[Figures], standings: Mapping[str, Standing]) -> list[Pair]:
    """Sign tests of all pairs of backends per time limit, over their common problems and seeds."""
    names = counting(standings)
    found: list[Pair] = []
    for limit in dict.fromkeys(each.time_limit for each in all_figures):
        by_backend: dict[str, dict[str, Figures]] = {}
        for each in all_figures:
            if each.time_limit == limit and each.problem in names:
                by_backend.setdefault(each.backend, {})[each.problem] = each
        found += [
            Pair(a, b, limit, *_against(by_backend[a], by_backend[b], standings))
            for a, b in itertools.combinations(by_backend, 2)
        ]
    qualities = corrected([pair.quality for pair in found])
    speeds = corrected([pair.speed for pair in found])
    return [
        replace(pair, quality=quality, speed=speed)
        for pair, quality, speed in zip(found, qualities, speeds, strict=True)
    ]


def on_one_problem(first: Sequence[Row], second: Sequence[Row], standing: Standing) -> tuple[SignTest, SignTest]:
    """Sign tests of two backends on one problem, paired by seed: energy, and time to the best known energy."""
    theirs = {row.seed: row for row in second}
    both = [(row, theirs[row.seed]) for row in first if row.seed in theirs]
    tolerance = standing.facts.tolerance(standing.best.energy)
    energies = [[math.inf if row.energy is None else row.energy for row in pair] for pair in both]
    hits = [[standing.reached(row) for row in pair] for pair in both]
    return (
        sign_test([a for a, _ in energies], [b for _, b in energies], tolerance),
        sign_test([a for a, _ in hits], [b for _, b in hits]),
    )


def _place(backend: str, limit: float | None, own: Mapping[str, Figures], setup: float) -> Place:
    every = list(own.values())
    gaps = [each.median_gap for each in every if each.median_gap is not None]
    times = sorted(each.time.value for each in every)
    spent = [each.seconds for each in every if each.seconds is not None]
    return Place(
        backend, limit, len(every), sum(each.runs for each in every), sum(each.feasible for each in every),
        sum(each.successful for each in every), len(every) - len(gaps), sum(gaps) / len(gaps) if gaps else None,
        max(gaps, default=None), times[len(times) // 2],
        sum(each.successful == 0 for each in every), setup,
        plain.median(spent) if spent else None,
    )  # fmt: skip


def _against(
    mine: Mapping[str, Figures], theirs: Mapping[str, Figures], standings: Mapping[str, Standing]
) -> tuple[SignTest, SignTest]:
    """Sign tests of two backends over their common problems: median energy, and time to the best known energy.

    Only common seeds count, because both figures depend on the number of runs.
    """
    medians: list[tuple[float, float]] = []
    times: list[tuple[float, float]] = []
    tolerances = []
    for name in mine:
        shared = set(mine[name].seeds).intersection(theirs[name].seeds) if name in theirs else ()
        if not shared:
            continue
        energies, hits = zip(*(_of_seeds(each[name], shared) for each in (mine, theirs)), strict=True)
        medians.append((_median(energies[0]), _median(energies[1])))
        times.append((least_time(hits[0]), least_time(hits[1])))
        tolerances.append(standings[name].facts.tolerance(standings[name].best.energy))
    return (
        sign_test([a for a, _ in medians], [b for _, b in medians], tolerances),
        sign_test([a for a, _ in times], [b for _, b in times]),
    )


def _of_seeds(each: Figures, seeds: Collection[int]) -> tuple[list[float], list[float]]:
    """Energies of the runs with these seeds, and their times to the best known energy."""
    places = [place for place, seed in enumerate(each.seeds) if seed in seeds]
    return [each.energies[place] for place in places], [each.hits[place] for place in places]
