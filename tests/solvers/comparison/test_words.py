"""Headline and warnings: the leader, the direction of differences, missing runs."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from problems import BestKnown
from solvers.comparison import words
from solvers.comparison.comparison import Comparison
from solvers.comparison.facts import Facts
from solvers.comparison.leaderboard import leaderboard
from solvers.comparison.page import render
from solvers.comparison.protocol import Protocol, Race
from solvers.comparison.results import Row

NAMES = [f"p{i}" for i in range(10)]
RECORD = {
    "name": "sa", "settings": {}, "tuned": {}, "paradigm": "Classical", "deterministic": True, "remote": False,
    "device": "cpu", "versions": {},
}  # fmt: skip


def row(problem, backend, energy, hit=0.1, *, seed=0, limit=1.0):
    status = "infeasible" if energy is None else "ok"
    pairs = () if energy is None else ((hit, energy),)
    return Row(problem, backend, limit, seed, status, energy, 1.0, incumbents=pairs)


def comparison(rows):
    """Rows on problems whose best known energy is 0 and random mean 10."""
    facts = {
        name: Facts(
            name, "memory", 8, 4, 1, "dense", None, 1.0, "x", 10.0, 1e-12, 10, -1.0, 1.0, False, BestKnown(0.0),
        )
        for name in NAMES
    }  # fmt: skip
    backends = dict.fromkeys((each.backend for each in rows), RECORD)
    return Comparison(Race(Protocol(), "token", facts, backends), rows)


def shown(found):
    """The leaderboard as a terminal of 80 columns shows it."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(leaderboard(found))
    return console.export_text()


def test_backends_with_equal_figures_are_tied():
    (sentence,) = words.headline(comparison([row(name, b, 0.0) for name in NAMES for b in "BA"]))
    assert sentence.startswith("Within 1 s, A and B are tied: ")
    assert "leads" not in sentence


def test_backends_without_a_common_seed_are_not_compared():
    rows = [row(name, b, e, seed=s) for name in NAMES for b, e, s in (("A", 0.0, 0), ("B", 1.0, 1))]
    found = comparison(rows)
    (sentence,) = words.headline(found)
    assert sentence.endswith("Second is B: not compared, because the two have no problem and seed in common.")
    assert "not compared" in shown(found)
    assert "not compared" in render(found)
    assert not any("sign test" in caution for caution in words.cautions(found))


def test_the_problems_needed_for_significance_depend_on_the_number_of_pairs():
    rows = [row(name, b, e) for name in NAMES[:6] for b, e in (("A", 0.0), ("B", 1.0), ("C", 2.0))]
    assert not any("sign test" in caution for caution in words.cautions(comparison(rows[::3] + rows[1::3])))
    (caution,) = (caution for caution in words.cautions(comparison(rows)) if "A sign test over 6 problems" in caution)
    assert "p = 0.094 (corrected for 3 pairs); p below 0.05 needs 7 problems." in caution


def test_an_exceeded_time_limit_is_reported():
    rows = [replace(row(name, "A", 0.0), seconds=3.0) for name in NAMES] + [row(name, "B", 1.0) for name in NAMES]
    found = comparison(rows)
    assert words.headline(found)[0].startswith("Within 1 s, B leads")
    assert "although it exceeds the time limit" in words.headline(found)[0]
    assert any(
        caution.startswith("A takes 3 s per solve (median) with a limit of 1 s") for caution in words.cautions(found)
    )
    alone = comparison(rows[: len(NAMES)])
    assert words.headline(alone)[0].startswith("Within 1 s (exceeded: 3 s per solve), A leads")


def test_a_second_with_lower_energies_on_more_problems_is_not_called_worse():
    rows = [row(name, "A", 1.0) for name in NAMES]
    rows += [row(name, "B", 0.5 if at else 9.0) for at, name in enumerate(NAMES)]
    found = comparison(rows)
    assert [place.backend for place in found.board] == ["A", "B"]
    (sentence,) = words.headline(found)
    assert "Second is B: it has lower energies on more problems (sign test over 10 problems, p = 0.021)" in sentence
    assert sentence.endswith("although its mean gap is larger.")
    assert sentence in render(found)
    (other,) = words.headline(comparison([row(name, b, e) for name in NAMES for b, e in (("A", 0.5), ("B", 1.0))]))
    assert "Second is B: its energies are higher (sign test over 10 problems" in other


def test_a_second_that_is_faster_on_more_problems_is_not_called_slower():
    rows = [row(name, "A", 0.0, 0.5) for name in NAMES]
    rows += [row(name, "B", 0.0 if at else 1.0, 0.1) for at, name in enumerate(NAMES)]
    (sentence,) = words.headline(comparison(rows))
    assert "and it is faster on more problems (p = 0.021), although its mean gap is larger" in sentence
    (other,) = words.headline(comparison([row(n, b, 0.0, t) for n in NAMES for b, t in (("A", 0.1), ("B", 0.5))]))
    assert "and it is slower (p = 0.002)" in other


def test_without_a_feasible_run_there_is_no_leader():
    found = comparison([row(name, backend, None) for name in NAMES for backend in ("A", "B")])
    assert words.headline(found) == ["Within 1 s, no run found a feasible state."]
    assert "A leads" not in render(found)
    assert "infeasible" in shown(found)
    assert found.summary()["leaderboard"][0]["gap"] is None


def test_a_backend_with_fewer_problems_is_reported():
    rows = [row(name, "A", 1.0) for name in NAMES] + [row(name, "B", 0.0) for name in NAMES[:9]]
    found = comparison(rows)
    caution = (
        "B ran on only 9 of 10 problems (1 s), so its figures are over fewer problems than those of other backends."
    )
    assert caution in words.cautions(found)
    assert words.headline(found)[0].endswith("although it ran on fewer problems.")
    assert "9 of 10" in render(found)
    assert "9/10" in shown(found)
    whole = comparison([row(name, "A", 1.0) for name in NAMES])
    assert not any("only" in caution for caution in words.cautions(whole))
    assert "prob-" in shown(found)
    assert "prob-" not in shown(whole)


def test_mostly_infeasible_runs_are_reported():
    rows = [row(name, "A", None if at < 3 else 0.0) for at, name in enumerate(NAMES)]
    (caution,) = [each for each in words.cautions(comparison(rows)) if "the mean gap leaves" in each]
    assert caution.startswith("A has no feasible state in at least half of its runs on 3 of 10 problems (1 s)")
