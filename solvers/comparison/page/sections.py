"""Two parts of the page: quantum samples beside random states, and a section for each problem."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from solvers.comparison import curves, words
from solvers.comparison.comparison import Comparison
from solvers.comparison.measures import Figures, Standing, on_one_problem
from solvers.comparison.page.charts import Chart, chart
from solvers.comparison.results import Row
from solvers.comparison.statistics import corrected
from solvers.html.tables import Cell, Table, number_cell, text_cell

_DRAWN = 60  # problems with a chart of their own; a page with more would take megabytes


def sample_table(comparison: Comparison) -> Table:
    """What quantum solvers sampled: raw, repaired and polished, beside random states polished in the same way."""
    rows = []
    for (problem, backend, limit), own in comparison.groups.items():
        sampled = [row for row in own if row.control_raw is not None]
        if not sampled:
            continue
        standing = comparison.standings[problem]
        shares = [row.raw_feasible for row in sampled if row.raw_feasible is not None]
        feasible = statistics.median(shares) if shares else None
        rows.append([
            text_cell(problem, "name"), text_cell(backend, "backend"), number_cell(words.limit(limit), limit),
            number_cell(str(sampled[0].samples), sampled[0].samples),
            number_cell("–" if feasible is None else f"{100 * feasible:.3g} %", feasible),
            *(_median_gap(standing, sampled, name) for name in _STAGES),
        ])  # fmt: skip
    head = (
        "problem", "solver", "limit", "samples", "feasible samples", "raw gap", "repaired gap", "polished gap",
        "random states, raw gap", "random states, polished gap",
    )  # fmt: skip
    return Table("Samples", head, rows)


def decomposed(comparison: Comparison) -> list[str]:
    """Quantum solvers and the problems that were decomposed for them, as "BACKEND on PROBLEM"."""
    return list(dict.fromkeys(
        f"{backend} on {problem}"
        for (problem, backend, _), own in comparison.groups.items()
        if comparison.race.backends[backend]["paradigm"] != "Classical"
        and any(row.solver.startswith("decompose") for row in own)
    ))  # fmt: skip


def gap_cell(gap: float | None) -> Cell:
    """A cell of a gap; 0, the best possible, is highlighted."""
    return Cell(words.percent(gap), math.nan if gap is None else gap, "number best" if gap == 0.0 else "number")


_STAGES = ("raw", "repaired", "polished", "control_raw", "control_polished")


def _median_gap(standing: Standing, rows: Sequence[Row], name: str) -> Cell:
    energies = [getattr(row, name) for row in rows]
    if name == "raw":  # None means no feasible sample here, and a stage that was not run elsewhere
        energies = [math.inf if energy is None else energy for energy in energies]
    energies = [energy for energy in energies if energy is not None]
    if not energies:
        return number_cell("–", None)
    median = statistics.median_high(energies)
    return gap_cell(None if math.isinf(median) else standing.gap(median))


@dataclass(frozen=True)
class ProblemSection:
    """A problem's section of the page.

    Attributes:
        title: name, size, form and whether it is easy.
        facts: names and values.
        chart: gap against time; None beyond the first problems.
        verdict: whether its two best solvers differ, in a sentence.
    """

    title: str
    facts: list[tuple[str, str]]
    chart: Chart | None
    verdict: str


def problem_sections(comparison: Comparison, style: Mapping[str, int]) -> list[ProblemSection]:
    """A section for each problem, in the order of the comparison."""
    by_problem: dict[str, list[Figures]] = {}
    for each in comparison.figures:
        by_problem.setdefault(each.problem, []).append(each)
    verdicts = _two_best(comparison, by_problem)
    sections = []
    for at, (name, own) in enumerate(by_problem.items()):
        standing = comparison.standings[name]
        drawn = None
        if at < _DRAWN:
            along = curves.gaps_along_time(curves.longest(own, [name]), comparison.groups, comparison.standings)
            drawn = chart(
                along, style, x_label="seconds", y_label="mean gap", gaps=True, seen=f"Gap against time on {name}"
            )
        easy = ", easy" if standing.easy else ""
        title = f"{name}: n = {standing.facts.n}, k = {standing.facts.ones}, {standing.facts.form}{easy}"
        sections.append(ProblemSection(title, _facts(standing), drawn, verdicts.get(name, "")))
    return sections


def _facts(standing: Standing) -> list[tuple[str, str]]:
    facts, best = standing.facts, standing.best
    rate = facts.descent_rate(best.energy)
    if rate is None:
        easy = "unknown: descents from random states would take too long"
    else:
        found = f"{round(rate * facts.tries)} of {facts.tries} plain descents from random states end in the best energy"
        easy = f"{'yes' if standing.easy else 'no'}: {found}"
    ones = f"{facts.ones} ({100 * facts.ones / max(1, facts.n):.3g} % of n)"
    return [
        ("n", f"{facts.n} variables"),
        ("k", ones if facts.groups == 1 else f"{ones} in {facts.groups} groups"),
        ("form", facts.form),
        ("rank", "of the factor: " + str(facts.rank) if facts.rank is not None else "no factor: full matrix"),
        ("density of Q", f"{100 * facts.density:.3g} % of the pairs are coupled"),
        ("best known", f"{best.energy:.12g}, {'proven' if best.proven else 'not proven'}"),
        ("found by", best.found_by or "unknown"),
        ("random states", f"mean energy {facts.random_mean:.8g}"),
        ("easy", easy),
        ("source", facts.origin),
    ]


def _two_best(comparison: Comparison, by_problem: Mapping[str, Sequence[Figures]]) -> dict[str, str]:
    """Whether the two best solvers of each problem differ on it, seed by seed.

    P-values are adjusted for all problems, but not for the choice of the two best on each.
    """
    best: dict[str, tuple[Figures, Figures]] = {}
    for name, own in by_problem.items():
        longest = max((each.time_limit for each in own), key=lambda limit: math.inf if limit is None else limit)
        ranked = sorted(
            (each for each in own if each.time_limit == longest),
            key=lambda each: (math.inf if each.median_gap is None else each.median_gap, each.time.value),
        )
        if len(ranked) > 1:
            best[name] = ranked[0], ranked[1]
    tests = []
    for name, pair in best.items():
        first, second = (comparison.groups[each.problem, each.backend, each.time_limit] for each in pair)
        tests.append(on_one_problem(first, second, comparison.standings[name]))
    qualities = corrected([quality for quality, _ in tests])
    speeds = corrected([speed for _, speed in tests])
    return {
        name: f"{first.backend} against {second.backend}, seed by seed: energy {words.verdict(quality)}; speed "
        f"{words.verdict(speed)}."
        for (name, (first, second)), quality, speed in zip(best.items(), qualities, speeds, strict=True)
    }
