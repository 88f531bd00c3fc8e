"""The page of a comparison: headline, cautions, leaderboard, curves, tables and the protocol."""

from __future__ import annotations

import math

from solvers.comparison import curves, words
from solvers.comparison.comparison import Comparison
from solvers.comparison.page.charts import chart, legend
from solvers.comparison.page.sections import decomposed, gap_cell, problem_sections, sample_table
from solvers.comparison.statistics import SignTest
from solvers.html import counted
from solvers.html import render as filled
from solvers.html.tables import Cell, Table, number_cell, text_cell


def render(comparison: Comparison) -> str:
    """The HTML page of a comparison, finished or not. It loads nothing from elsewhere."""
    style = {text: number for number, text in enumerate(comparison.race.backends)}
    by_backend = curves.longest(comparison.figures, comparison.counting)
    groups, standings = comparison.groups, comparison.standings
    cautions = words.cautions(comparison)
    if comparison.left:
        cautions.insert(0, f"The comparison is not finished: {counted(comparison.left, 'solve')} left.")
    profile = chart(
        curves.profiles(by_backend), style, x_label="times the fastest solver's time", y_label="problems",
        seen="Performance profile: share of problems on which each solver is within a factor of the fastest",
    )  # fmt: skip
    along = chart(
        curves.gaps_along_time(by_backend, groups, standings), style, x_label="seconds", y_label="mean gap", gaps=True,
        seen="Mean gap of the best state found by a time",
    )  # fmt: skip
    targets = []
    for gap in curves.TARGETS:
        label = "the best known energy" if gap == 0.0 else f"a gap of {100 * gap:g} %"
        drawn = chart(
            curves.reached(by_backend, groups, standings, gap), style, x_label="seconds", y_label="runs",
            seen=f"Share of the runs that had reached {label} by a time",
        )  # fmt: skip
        targets.append((f"{gap:g}", label, drawn))
    return filled(
        "solvers.comparison.page", "page.html",
        solvers=len({row.backend for row in comparison.rows}), counting=len(comparison.counting),
        headline=words.headline(comparison), cautions=cautions, board=_board(comparison),
        lines=legend(by_backend, style), profile=profile, targets=targets, along=along,
        pairs=_pairs(comparison), results=_results(comparison),
        backends=list(dict.fromkeys(each.backend for each in comparison.figures)),
        samples=sample_table(comparison), in_parts=decomposed(comparison),
        problems=problem_sections(comparison, style), settings=_settings(comparison), protocol=_protocol(comparison),
    )  # fmt: skip


def _board(comparison: Comparison) -> Table:
    count = len(comparison.counting)
    partly = any(place.problems != count for place in comparison.board)
    rows = [
        [
            text_cell(place.backend, "backend"), number_cell(words.limit(place.time_limit), place.time_limit),
            *([number_cell(f"{place.problems} of {count}", place.problems)] if partly else []),
            gap_cell(place.gap), gap_cell(place.worst_gap),
            number_cell(f"{place.successful} of {place.runs}", place.successful / max(1, place.runs)),
            number_cell(f"{place.feasible} of {place.runs}", place.feasible / max(1, place.runs)),
            _time_cell(place.time), number_cell(f"{place.unreached} of {place.problems}", place.unreached),
            _time_cell(place.setup), _score_cell(place.quality), _score_cell(place.speed),
        ]
        for place in comparison.board
    ]  # fmt: skip
    head = (
        "solver", "limit", *(["problems"] if partly else []), "mean gap", "worst gap", "runs that reached best",
        "feasible runs", "time to best, 99 %", "problems unreached", "set-up", "energy, against the first",
        "speed, against the first",
    )  # fmt: skip
    return Table("Leaderboard", head, rows)


def _pairs(comparison: Comparison) -> Table:
    rows = [
        [
            text_cell(pair.first, "backend"), text_cell(pair.second, "backend"),
            number_cell(words.limit(pair.time_limit), pair.time_limit),
            *_tested(pair.quality), *_tested(pair.speed),
        ]
        for pair in comparison.pairs
    ]  # fmt: skip
    head = (
        "solver", "against", "limit", "lower energy on", "higher on", "equal on", "p", "in words", "faster on",
        "slower on", "equal on", "p", "in words",
    )  # fmt: skip
    return Table("Pair by pair", head, rows)


def _results(comparison: Comparison) -> Table:
    rows: list[list[Cell]] = []
    marks: list[dict[str, str]] = []
    queued = any(each.queue is not None for each in comparison.figures)
    for each in comparison.figures:
        standing = comparison.standings[each.problem]
        kind = "TTS99" if each.proven else "to target"
        ends = "" if math.isinf(each.time.value) else f" ({words.interval(each.time)})"
        rows.append([
            text_cell(each.problem, "name"), text_cell(each.backend, "backend"),
            number_cell(words.limit(each.time_limit), each.time_limit),
            number_cell(str(each.runs), each.runs), number_cell(str(each.feasible), each.feasible),
            number_cell(str(each.successful), each.successful), _energy_cell(each.best), _energy_cell(each.median),
            gap_cell(each.best_gap), gap_cell(each.median_gap),
            number_cell(f"{words.seconds(each.time.value)}{ends}", each.time.value), text_cell(kind, "kind"),
            _time_cell(each.seconds), _time_cell(each.setup), *([_time_cell(each.queue)] if queued else []),
        ])  # fmt: skip
        marks.append({"backend": each.backend, "easy": "yes" if standing.easy else "no"})
    head = (
        "problem", "solver", "limit", "runs", "feasible", "reached best", "best energy", "median energy", "best gap",
        "median gap", "time to best, 99 % (interval)", "kind", "seconds a run", "set-up",
        *(["queue"] if queued else []),
    )  # fmt: skip
    return Table("Results", head, rows, marks=marks, identity="results")


def _settings(comparison: Comparison) -> Table:
    rows = []
    for text, record in comparison.race.backends.items():
        tuned = ", ".join(f"{key}={value}" for key, value in record["tuned"].items()) or "none: all at their defaults"
        others = ", ".join(f"{key}={value}" for key, value in record["settings"].items() if key not in record["tuned"])
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        rows.append([
            text_cell(text, "backend"), text_cell(record["paradigm"]), text_cell(record["device"]),
            text_cell(tuned, "words"), text_cell(others, "words"), text_cell(versions, "words"),
        ])  # fmt: skip
    head = ("solver", "paradigm", "device", "tuned parameters", "other parameters", "versions")
    return Table("Solvers", head, rows)


def _protocol(comparison: Comparison) -> list[tuple[str, str]]:
    protocol = comparison.race.protocol
    seeds = sorted({row.seed for row in comparison.rows})
    start = (
        "cold: each solver finds its own first state"
        if protocol.start == "cold"
        else "from the current mask: the state that leaves the network unchanged"
    )
    shared = "one solve at a time" if protocol.fair else f"dispatched by {protocol.dispatch}, several at once"
    return [
        ("threads", f"{protocol.threads} per solve; numba, BLAS and OpenMP are limited to them"),
        ("order", f"{shared}; the solvers take turns on each problem and seed, each in its own process"),
        ("start", start),
        ("time limits", ", ".join(dict.fromkeys(words.limit(row.time_limit) for row in comparison.rows))),
        ("seeds", f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}" if seeds else "none"),
        ("warm-up", "on a tiny problem of the same form, before the clock starts; reported as set-up"),
        ("energies", "recomputed from the problem's own coefficients in float64"),
        ("services", "their own run or access time counts; queue and upload are reported separately"),
        ("machine", "; ".join(comparison.machines) or "unknown"),
    ]


def _time_cell(seconds: float | None) -> Cell:
    return number_cell(words.seconds(seconds), seconds)


def _energy_cell(value: float | None) -> Cell:
    return number_cell("–" if value is None else f"{value:.8g}", value)


def _score_cell(test: SignTest | None) -> Cell:
    return number_cell("first", 2.0) if test is None else number_cell(words.score(test), test.p)


def _tested(test: SignTest) -> list[Cell]:
    if not test.pairs:
        verdict = "not compared"
    elif test.wins + test.losses == 0:
        verdict = "equal"
    else:
        verdict = "noise" if test.noise else "a difference"
    counts = [number_cell(str(count), count) for count in (test.wins, test.losses, test.ties)]
    return [*counts, number_cell(f"{test.p:.2g}", test.p), text_cell(verdict)]
