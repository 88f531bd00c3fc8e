"""Two parts of the page: samples before they were mended beside random states, and each problem by itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from solvers.comparison import curves, words
from solvers.comparison.measures import Figures, Standing, on_one_problem
from solvers.comparison.page.drawing import chart
from solvers.comparison.page.tables import Cell, gap_cell, number_cell, table, text_cell
from solvers.comparison.results import Row
from solvers.comparison.statistics import for_all_together

if TYPE_CHECKING:
    from solvers.comparison.comparison import Comparison

_DRAWN = 60  # problems that get a plot of their own; a page of more would be megabytes


def about_samples(comparison: Comparison) -> str:
    """What quantum solvers sampled, raw, repaired and polished, beside random states that were polished likewise."""
    rows = []
    for (problem, backend, limit), own in comparison.groups.items():
        sampled = [row for row in own if row.control_raw is not None]
        if not sampled:
            continue
        standing = comparison.standings[problem]
        shares = [row.raw_feasible for row in sampled if row.raw_feasible is not None]
        kept = statistics.median(shares) if shares else None
        rows.append([
            text_cell(problem, "name"), text_cell(backend, "backend"), number_cell(words.limit(limit), limit),
            number_cell(str(sampled[0].samples), sampled[0].samples),
            number_cell("–" if kept is None else f"{100 * kept:.3g} %", kept),
            *(_median_gap(standing, sampled, name) for name in _STAGES),
        ])  # fmt: skip
    apart = _in_parts(comparison)
    if not rows and not apart:
        return ""
    head = (
        "problem", "solver", "limit", "samples", "feasible samples", "raw gap", "repaired gap", "polished gap",
        "random states, raw gap", "random states, polished gap",
    )  # fmt: skip
    note = (
        "Gaps of the best state at each step, median over the seeds; a seed without a feasible sample is the worst. "
        "The control is as many random feasible states (10,000 at most), chosen from and polished in the same "
        "way: a solver whose polished gap is no better than the control's owes its result to the polish, unless its "
        "raw gap is as good already."
    )
    if apart:
        note += f" Samples of sub-blocks are not told: {', '.join(apart)}."
    return (
        "<h2>Samples before and after they were mended</h2>"
        f"{table('Samples', head, rows)}<p class=note>{escape(note)}</p>"
    )


def _in_parts(comparison: Comparison) -> list[str]:
    """Quantum solvers, and problems that were taken apart for them."""
    return list(dict.fromkeys(
        f"{backend} on {problem}"
        for (problem, backend, _), own in comparison.groups.items()
        if comparison.race.backends[backend]["paradigm"] != "Classical"
        and any(row.solver.startswith("decompose") for row in own)
    ))  # fmt: skip


_STAGES = ("raw", "repaired", "polished", "control_raw", "control_polished")


def _median_gap(standing: Standing, rows: Sequence[Row], name: str) -> Cell:
    energies = [getattr(row, name) for row in rows]
    if name == "raw":  # None: no sample was feasible. Of the other stages: there was none
        energies = [math.inf if energy is None else energy for energy in energies]
    energies = [energy for energy in energies if energy is not None]
    if not energies:
        return number_cell("–", None)
    median = statistics.median_high(energies)
    return gap_cell(None if math.isinf(median) else standing.gap(median))


def about_problems(comparison: Comparison, style: Mapping[str, int]) -> str:
    """Each problem's facts, the gap along time on it, and whether its two best solvers differ there."""
    by_problem: dict[str, list[Figures]] = {}
    for each in comparison.figures:
        by_problem.setdefault(each.problem, []).append(each)
    told = _two_best(comparison, by_problem)
    parts = []
    for at, (name, own) in enumerate(by_problem.items()):
        standing = comparison.standings[name]
        facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _facts(standing))
        drawn = ""
        if at < _DRAWN:
            mine = curves.longest(own, [name])
            drawn = chart(
                curves.gaps_along_time(mine, comparison.groups, comparison.standings), style, x_label="seconds",
                y_label="mean gap", gaps=True, seen=f"Gap along time on {name}",
            )  # fmt: skip
            drawn = f"<figure>{drawn}<figcaption>{escape(told.get(name, ''))}</figcaption></figure>"
        easy = ", easy" if standing.easy else ""
        title = f"{name}: n = {standing.facts.n}, k = {standing.facts.ones}, {standing.facts.form}{easy}"
        parts.append(f"<details><summary>{escape(title)}</summary><div><dl>{facts}</dl>{drawn}</div></details>")
    return f"<h2>Problems</h2>{''.join(parts)}"


def _facts(standing: Standing) -> list[tuple[str, str]]:
    facts, best = standing.facts, standing.best
    rate = facts.descent_rate(best.energy)
    if rate is None:
        easy = "unknown: descents from random states would take too long here"
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
        ("found by", best.found_by or "not said"),
        ("random states", f"mean energy {facts.random_mean:.8g}"),
        ("easy", easy),
        ("from", facts.origin),
    ]


def _two_best(comparison: Comparison, by_problem: Mapping[str, Sequence[Figures]]) -> dict[str, str]:
    """Of each problem with two solvers and more, whether its two best differ on it, seed by seed.

    P-values are for all these problems together; that a pair was chosen as the best on its own problem is not in them.
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
    qualities = for_all_together([quality for quality, _ in tests])
    speeds = for_all_together([speed for _, speed in tests])
    return {
        name: f"{first.backend} against {second.backend}, seed by seed: energy {words.verdict(quality)}; speed "
        f"{words.verdict(speed)}."
        for (name, (first, second)), quality, speed in zip(best.items(), qualities, speeds, strict=True)
    }
