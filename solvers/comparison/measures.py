"""From rows to figures: what each backend reached on each problem, and what it did over all of them."""

from __future__ import annotations

import itertools
import math
import statistics as plain
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from problems import BestKnown
from solvers.comparison.facts import Facts
from solvers.comparison.results import Row
from solvers.comparison.statistics import Interval, SignTest, for_all_together, least_time, sign_test, time_to_solution

KEPT = 1.5
"""Times its limit that a solve may take and count as one that has kept it: what begins and ends a solve takes time."""


@dataclass(frozen=True)
class Standing:
    """A problem as the race has left it.

    Attributes:
        facts: what was known of it before.
        best: the lowest energy on record, found by the race or by plain descent, whether proven, and who found it.
        contradicted: a proof on record that the race went below, or a proof of the race against another; else "".
        solved: whether any solver of the race has a feasible answer.
    """

    facts: Facts
    best: BestKnown
    contradicted: str = ""
    solved: bool = True

    @property
    def easy(self) -> bool:
        """Whether more than half of the plain descents find the best energy; never where no solver found anything."""
        return self.solved and self.facts.easy(self.best.energy)

    def gap(self, energy: float) -> float:
        """0 at the best energy, 1 at the mean of random feasible states."""
        return self.facts.gap(energy, self.best.energy)

    def reached(self, row: Row, gap: float = 0.0) -> float:
        """Seconds after which a run's gap was no more than this; infinity where it never was."""
        if not row.scored:
            return math.inf
        return next((seconds for seconds, energy in row.incumbents if self.gap(energy) <= gap), math.inf)


@dataclass(frozen=True)
class Figures:
    """One backend on one problem within one time limit.

    Attributes:
        problem, backend, time_limit: which.
        runs: solves.
        feasible: runs with a feasible answer.
        successful: runs that reached the best known energy.
        failed: runs that ended in an error.
        best: the lowest energy; None where no run was feasible.
        median: over all runs, of which those without a feasible answer are the worst; None where it is one of these.
        best_gap, median_gap: gaps of those two.
        time: seconds to the best known energy with probability 0.99: TTS99 where that is the proven optimum, and by the
            same formula a time to target otherwise.
        proven: whether it is the proven optimum.
        seconds: median seconds of a run.
        setup: seconds of warming up, all runs together.
        queue: median seconds in a service's queue; None without one.
        seeds: of the runs, in order.
        energies: of each run, infinite without a feasible answer.
        hits: seconds of each run to the best known energy.
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
    """One backend over all problems within one time limit, as the leaderboard has it.

    Attributes:
        backend, time_limit: which.
        problems: how many count: those that are not easy, unless all are.
        runs, feasible, successful: over these.
        unsolved: problems without a median energy: half of the runs there, or more, have no feasible answer.
        gap: mean over the other problems of the median gap; None where all are unsolved.
        worst_gap: the largest of these.
        time: median over the problems of time to solution or target.
        unreached: problems whose best known energy no run reached.
        setup: seconds of warming up in the whole race: a process is started once, on whatever problem comes first.
        seconds: median over the problems of a run's seconds; None where every run failed.
        quality: against the first of the board by median energy, problem by problem, p for all pairs of the race
            together; None for the first itself.
        speed: likewise by time to solution.
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
        """Whether its solves mostly keep the time limit."""
        return self.time_limit is None or self.seconds is None or self.seconds <= KEPT * self.time_limit

    @property
    def order(self) -> tuple[bool, int, bool, int, float, float]:
        """What places on the board go by, the least first; those with equal figures are level."""
        gap = math.inf if self.gap is None else self.gap
        return self.gap is None, -self.problems, not self.kept, self.unsolved, gap, self.time


@dataclass(frozen=True)
class Pair:
    """Two backends, problem by problem, within one time limit; p-values adjusted for all pairs (Holm)."""

    first: str
    second: str
    time_limit: float | None
    quality: SignTest
    speed: SignTest


def standing(facts: Facts, rows: Iterable[Row]) -> Standing:
    """What a problem's best known energy is after some rows; that of a random state where nobody has found any.

    Plain descent counts as one who may have found it: what this program has seen is known.
    """
    scored = [(row.energy, row) for row in rows if row.energy is not None]
    best, contradicted = facts.best_known, ""
    found = []
    if scored:
        energy, row = min(scored, key=lambda pair: pair[0])
        found.append((energy, row.backend, f"{row.backend}, in this race"))
    if facts.descents:
        found.append((min(facts.descents), "plain descent", "plain descent"))
    for energy, who, found_by in found:
        if best is not None and energy >= best.energy - facts.tolerance(best.energy):
            continue
        if facts.best_known is not None and facts.best_known.proven:
            contradicted = f"{who} went below the optimum on record, {facts.best_known.energy:.12g}, said to be proven"
        best = BestKnown(energy, False, found_by)
    best = best or BestKnown(facts.random_mean, False, "nobody")
    for _, row in scored:
        if row.lower_bound is None:
            continue
        if row.lower_bound > best.energy + facts.tolerance(best.energy):
            contradicted = f"{row.backend} claims to have proven that nothing is below {row.lower_bound:.12g}"
        elif not best.proven and row.lower_bound >= best.energy - facts.tolerance(best.energy):
            found_by = best.found_by if row.backend in best.found_by else f"{best.found_by}; proven by {row.backend}"
            best = BestKnown(best.energy, True, found_by)
    return Standing(facts, best, contradicted, bool(scored))


def figures(standing: Standing, rows: Sequence[Row]) -> Figures:
    """The figures of the rows of one problem, backend and time limit; one at least."""
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
    """That of runs' energies, infinite ones without a feasible answer behind all others.

    A run's own energy, not the mean of two: the median of an even number is the worse of the middle ones.
    """
    return sorted(energies)[len(energies) // 2]


def counting(standings: Mapping[str, Standing]) -> list[str]:
    """Names of the problems that headlines are made of: those that are not easy, or all where all are."""
    hard = [name for name, each in standings.items() if not each.easy]
    return hard or list(standings)


def board(all_figures: Sequence[Figures], standings: Mapping[str, Standing]) -> list[Place]:
    """The leaderboard: by time limit; then who has solved any, most problems raced, the limit kept, fewest unsolved,
    least gap and time.
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
        if not ranked:  # of a race that was stopped, or grew: all of this limit's problems are easy
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
    """Every two backends of a time limit, by sign tests over the problems and seeds that both have raced on."""
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
    qualities = for_all_together([pair.quality for pair in found])
    speeds = for_all_together([pair.speed for pair in found])
    return [
        replace(pair, quality=quality, speed=speed)
        for pair, quality, speed in zip(found, qualities, speeds, strict=True)
    ]


def on_one_problem(first: Sequence[Row], second: Sequence[Row], standing: Standing) -> tuple[SignTest, SignTest]:
    """Two backends on one problem and time limit, seed by seed: by energy, and by seconds to the best known one."""
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
    """Two backends over the problems that both have: by median energy, and by time to the best known one.

    Both are taken over the seeds that both have: of more runs the least time is less, and the median another one.
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
    """Energies of the runs with these seeds, and their seconds to the best known one."""
    places = [place for place, seed in enumerate(each.seeds) if seed in seeds]
    return [each.energies[place] for place in places], [each.hits[place] for place in places]
