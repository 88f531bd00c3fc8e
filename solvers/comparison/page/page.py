"""A race as one self-contained HTML page: who leads and whether that is noise, curves, tables, each problem's facts."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from solvers.comparison import curves, words
from solvers.comparison.page.drawing import COLOURS, chart
from solvers.comparison.page.sections import about_problems, about_samples
from solvers.comparison.page.tables import Cell, gap_cell, number_cell, table, text_cell, time_cell
from solvers.comparison.statistics import SignTest

if TYPE_CHECKING:
    from solvers.comparison.comparison import Comparison


def page(comparison: Comparison) -> str:
    """The page of a race, finished or not."""
    style = {text: number for number, text in enumerate(comparison.race.backends)}
    files = importlib.resources.files("solvers.comparison.page")
    css, js = ((files / name).read_text("utf-8") for name in ("page.css", "page.js"))
    parts = [
        f"<h1>{_title(comparison)}</h1>",
        *(f'<p class="lead">{escape(sentence)}</p>' for sentence in words.headline(comparison)),
        _cautions(comparison),
        _board(comparison),
        _charts(comparison, style),
        _pairs(comparison),
        _results(comparison),
        about_samples(comparison),
        about_problems(comparison, style),
        _backends(comparison),
        _protocol(comparison),
    ]
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{_title(comparison)} · hybrid-icbs</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"</main>\n<script>\n{js}</script>\n</body>\n</html>\n"
    )


def _title(comparison: Comparison) -> str:
    backends = len({row.backend for row in comparison.rows})
    problems = len(comparison.standings)
    return f"{_count(backends, 'solver')} on {_count(problems, 'block problem')}"


def _cautions(comparison: Comparison) -> str:
    found = words.cautions(comparison)
    if comparison.left:
        found.insert(0, f"The race is not finished: {_count(comparison.left, 'solve')} left.")
    items = "".join(f"<li>{escape(each)}</li>" for each in found)
    return f'<div class="cautions"><ul>{items}</ul></div>' if found else ""


def _board(comparison: Comparison) -> str:
    count = len(comparison.counting)
    partly = any(place.problems != count for place in comparison.board)
    rows = [
        [
            text_cell(place.backend, "backend"), number_cell(words.limit(place.time_limit), place.time_limit),
            *([number_cell(f"{place.problems} of {count}", place.problems)] if partly else []),
            gap_cell(place.gap), gap_cell(place.worst_gap),
            number_cell(f"{place.successful} of {place.runs}", place.successful / max(1, place.runs)),
            number_cell(f"{place.feasible} of {place.runs}", place.feasible / max(1, place.runs)),
            time_cell(place.time), number_cell(f"{place.unreached} of {place.problems}", place.unreached),
            time_cell(place.setup), _score_cell(place.quality), _score_cell(place.speed),
        ]
        for place in comparison.board
    ]  # fmt: skip
    head = (
        "solver", "limit", *(["problems"] if partly else []), "mean gap", "worst gap", "runs that reached best",
        "feasible runs", "time to best, 99 %", "problems unreached", "set-up", "energy, against the first",
        "speed, against the first",
    )  # fmt: skip
    note = (
        f"Over {_count(count, 'problem')}; those that solved any first, then by most problems raced, the time limit "
        "kept, fewest with mostly infeasible answers, least mean gap, least time. Gap: 0 % is the best known "
        "energy, 100 % the mean of random feasible states; of each problem the median over the seeds, where a run "
        "without a feasible answer is the worst. Time: the median over the problems of the seconds to the best "
        "known energy with probability 0.99. Against the first: problems on which a solver is better and worse than "
        "the first of the board, and the p-value of that for all pairs together, or that it is noise. Set-up "
        "(imports, compilation, embedding) is in no other time."
    )
    return f"<h2>Leaderboard</h2>{table('Leaderboard', head, rows)}<p class=note>{escape(note)}</p>"


def _charts(comparison: Comparison, style: dict[str, int]) -> str:
    by_backend = curves.longest(comparison.figures, comparison.counting)
    groups, standings = comparison.groups, comparison.standings
    profile = chart(
        curves.profiles(by_backend), style, x_label="times the fastest one's time", y_label="problems",
        seen="Performance profile: share of problems on which each solver is within a factor of the fastest",
    )  # fmt: skip
    targets = []
    for gap in curves.TARGETS:
        drawn = chart(
            curves.reached(by_backend, groups, standings, gap), style, x_label="seconds", y_label="runs",
            seen=f"Share of the runs that had come to {_target(gap)} by a time",
        )  # fmt: skip
        targets.append(f'<div data-target="{gap:g}"{" hidden" if gap else ""}>{drawn}</div>')
    options = "".join(f'<option value="{gap:g}">{_target(gap)}</option>' for gap in curves.TARGETS)
    along = chart(
        curves.gaps_along_time(by_backend, groups, standings), style, x_label="seconds", y_label="mean gap", gaps=True,
        seen="Mean gap of the best state found by a time",
    )  # fmt: skip
    return (
        f"<h2>Curves</h2>{legend(by_backend, style)}<div class=charts>"
        f"<figure><h3>Performance profile</h3>{profile}<figcaption>Share of the problems solved within so many times "
        "the time of whichever solver was fastest on each. At the left edge: how often a solver is the fastest; at the "
        "right: how often it gets there at all.</figcaption></figure>"
        f"<figure><h3>Time to target</h3>{''.join(targets)}"
        f'<p class="tools"><label for="target">Target <select id="target">{options}</select></label></p>'
        "<figcaption>Share of the runs, over problems and seeds, that had come to the target by a time (ECDF)."
        "</figcaption></figure>"
        f"<figure><h3>Gap against time</h3>{along}<figcaption>Mean over problems and seeds; 100 % until a run has "
        "found anything. The lowest line is 0, below all that is above it.</figcaption></figure></div>"
        "<p class=note>Each solver with its longest time limit; the problems are those of the leaderboard.</p>"
    )


def legend(backends: Iterable[str], style: dict[str, int]) -> str:
    """What colour each backend has."""
    items = []
    for text in backends:
        dash = "" if style[text] < COLOURS else ' stroke-dasharray="6 4"'
        line = f'<path class="line c{style[text] % COLOURS}" d="M0 6H28"{dash}/>'
        items.append(f'<li><svg viewBox="0 0 28 12" aria-hidden="true">{line}</svg><span>{escape(text)}</span></li>')
    return f"<ul class=legend>{''.join(items)}</ul>"


def _pairs(comparison: Comparison) -> str:
    if not comparison.pairs:
        return ""
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
    note = (
        "Sign tests over the problems, by median energy and by time to the best known one; ties tell nothing. The "
        "p-values are for all pairs of the race together (Holm). Where p is 0.05 or more the difference is noise: a "
        "coin would do as well."
    )
    return f"<h2>Pair by pair</h2>{table('Pair by pair', head, rows)}<p class=note>{escape(note)}</p>"


def _results(comparison: Comparison) -> str:
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
            number_cell(str(each.successful), each.successful), _energy(each.best), _energy(each.median),
            gap_cell(each.best_gap), gap_cell(each.median_gap),
            number_cell(f"{words.seconds(each.time.value)}{ends}", each.time.value), text_cell(kind, "kind"),
            time_cell(each.seconds), time_cell(each.setup), *([time_cell(each.queue)] if queued else []),
        ])  # fmt: skip
        marks.append({"backend": each.backend, "easy": "yes" if standing.easy else "no"})
    head = (
        "problem", "solver", "limit", "runs", "feasible", "reached best", "best energy", "median energy", "best gap",
        "median gap", "time to best, 99 % (interval)", "kind", "seconds a run", "set-up",
        *(["queue"] if queued else []),
    )  # fmt: skip
    options = "".join(
        f"<option>{escape(text)}</option>" for text in dict.fromkeys(f.backend for f in comparison.figures)
    )
    tools = (
        '<div class="tools"><label>Filter <input type="search" id="filter" placeholder="words"></label>'
        f'<label>Solver <select id="backend"><option value="">all</option>{options}</select></label>'
        '<label><input type="checkbox" id="hard"> without easy problems</label>'
        '<span id="shown" role="status"></span></div>'
    )
    note = (
        "Reached best: runs that came to the best known energy. Kind: TTS99 where that is the proven optimum, time to "
        "target where it is only the best that anyone knows; the interval holds for 95 of 100 resamples of the runs, "
        "one more of which never came there. Runs without a feasible answer are counted and never scored."
    )
    return (
        f"<h2>Results</h2>{tools}{table('Results', head, rows, marks=marks, identity='results')}"
        f"<p class=note>{escape(note)}</p>"
    )


def _backends(comparison: Comparison) -> str:
    rows = []
    for text, record in comparison.race.backends.items():
        tuned = ", ".join(f"{key}={value}" for key, value in record["tuned"].items()) or "none: all as they ship"
        others = ", ".join(f"{key}={value}" for key, value in record["settings"].items() if key not in record["tuned"])
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        rows.append([
            text_cell(text, "backend"), text_cell(record["paradigm"]), text_cell(record["device"]),
            text_cell(tuned, "words"), text_cell(others, "words"), text_cell(versions, "words"),
        ])  # fmt: skip
    head = ("solver", "paradigm", "device", "tuned parameters", "other parameters", "versions")
    return f"<h2>Solvers</h2>{table('Solvers', head, rows)}"


def _protocol(comparison: Comparison) -> str:
    protocol = comparison.race.protocol
    seeds = sorted({row.seed for row in comparison.rows})
    start = (
        "cold: each solver finds its own first state"
        if protocol.start == "cold"
        else "from the current mask, the state that leaves the network as it is"
    )
    shared = "one solve at a time" if protocol.fair else f"handed out by {protocol.dispatch}, side by side"
    facts = [
        ("threads", f"{protocol.threads} for each solve; numba, BLAS and OpenMP are held to them"),
        ("order", f"{shared}; the solvers take turns on each problem and seed, each in a process of its own"),
        ("start", start),
        ("time limits", ", ".join(dict.fromkeys(words.limit(row.time_limit) for row in comparison.rows))),
        ("seeds", f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}" if seeds else "none"),
        ("warm-up", "on a tiny problem of the same form, before the clock; reported as set-up"),
        ("energies", "recomputed from the problem's own coefficients in float64"),
        ("services", "their own run or access time counts; queue and upload are told apart"),
        ("machine", "; ".join(comparison.machines) or "unknown"),
    ]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<h2>Protocol</h2><dl>{items}</dl>"


def _score_cell(test: SignTest | None) -> Cell:
    return number_cell("first", 2.0) if test is None else number_cell(words.score(test), test.p)


def _tested(test: SignTest) -> list[Cell]:
    if not test.pairs:
        told = "not compared"
    elif test.wins + test.losses == 0:
        told = "equal"
    else:
        told = "noise" if test.noise else "a difference"
    counts = [number_cell(str(count), count) for count in (test.wins, test.losses, test.ties)]
    return [*counts, number_cell(f"{test.p:.2g}", test.p), text_cell(told)]


def _energy(value: float | None) -> Cell:
    return number_cell("–" if value is None else f"{value:.8g}", value)


def _target(gap: float) -> str:
    return "the best known energy" if gap == 0.0 else f"a gap of {100 * gap:g} %"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
