"""The table in QOBLIB's columns, and the leaderboard on a terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from problems import BestKnown, BlockProblem, instances
from solvers.comparison.comparison import Comparison
from solvers.comparison.facts import Facts
from solvers.comparison.leaderboard import footnotes, leaderboard
from solvers.comparison.page import render
from solvers.comparison.protocol import Protocol, Race
from solvers.comparison.results import Row
from solvers.comparison.submission import submission

# As its CONTRIBUTING.md lists them; submissions in other columns are refused by its checker.
FIELDS = [
    "Problem", "Submitter", "Affiliation", "Date",
    "Reference", "Best Objective Value", "Optimality Bound", "Modeling Approach",
    "# Decision Variables", "# Binary Variables", "# Integer Variables", "# Continuous Variables",
    "# Non-Zero Coefficients", "Coefficients Type", "Coefficients Range", "Workflow",
    "Algorithm Type", "Paradigm", "# Runs", "# Feasible Runs",
    "# Successful Runs", "Success Threshold", "Hardware Specifications", "Total Runtime",
    "Time to Solution", "CPU Runtime", "GPU Runtime", "QPU Runtime",
    "Other HW Runtime", "Remarks",
]  # fmt: skip


def record(name, paradigm="Classical", device="cpu", **settings):
    return {
        "name": name, "settings": settings, "tuned": settings, "paradigm": paradigm, "deterministic": True,
        "remote": paradigm == "Quantum Hardware", "device": device, "versions": {"numpy": "2"},
    }  # fmt: skip


def row(backend, seed, energy, seconds=1.0, **others):
    status = others.pop("status", "ok")
    pairs = () if energy is None else ((seconds / 2, energy),)
    return Row(
        "p", backend, 1.0, seed, status, energy, seconds, wall=others.pop("wall", seconds), threads=1,
        machine="a machine",
        at="2026-03-04T05:06:07+00:00", incumbents=pairs, **others,
    )  # fmt: skip


@pytest.fixture
def comparison():
    facts = Facts(
        "p", "memory", 8, 4, 1, "low-rank", 3, 1.0, "x", 10.0, 1e-12, 44, -2.5, 7.0, False, BestKnown(-3.0, True, "me"),
    )  # fmt: skip
    backends = {
        "sa?sweeps=5": record("sa", sweeps=5),
        "leap?solver=qpu": record("leap(qpu)", "Quantum Hardware", "leap"),
        "exact": record("exact"),
    }
    rows = [
        row("sa?sweeps=5", 0, -2.0, 0.5), row("sa?sweeps=5", 1, -2.0, 1.5), row("sa?sweeps=5", 2, -1.0, 1.0),
        row("sa?sweeps=5", 3, None, status="infeasible"),
        row("leap?solver=qpu", 0, -3.0, 0.25, wall=9.0, queue=8.0, access=0.25),
        row("exact", 0, -3.0, 2.0, lower_bound=-3.0),
    ]  # fmt: skip
    return Comparison(Race(Protocol(), "token", {"p": facts}, backends), rows)


def table(comparison):
    return {line["Workflow"].partition(" ")[0]: line for line in csv.DictReader(io.StringIO(submission(comparison)))}


def test_the_columns_are_qoblib_s(comparison):
    assert next(csv.reader(io.StringIO(submission(comparison)))) == FIELDS


def test_runs_are_counted_as_qoblib_counts_them(comparison):
    line = table(comparison)["sa"]
    assert [line[key] for key in ("# Runs", "# Feasible Runs", "# Successful Runs")] == ["4", "3", "2"]
    assert line["Success Threshold"] == "0"  # of the algorithm's own best
    assert line["Best Objective Value"] == "-2.0"
    assert line["Optimality Bound"] == "N/A"
    assert "0 of 4 runs reached the proven optimum -3" in line["Remarks"]
    assert float(line["Total Runtime"]) == pytest.approx(1.0)
    assert float(line["Time to Solution"]) == pytest.approx(0.5)  # over the runs that were there
    assert line["Algorithm Type"] == "Stochastic"
    assert "sweeps=5" in line["Workflow"]


def test_only_a_solver_with_a_proof_has_an_optimality_bound(comparison):
    line = table(comparison)["exact"]
    assert (line["Optimality Bound"], line["Algorithm Type"]) == ("-3.0", "Deterministic")


def test_runtimes_exclude_the_queue_and_are_split_by_hardware(comparison):
    line = table(comparison)["leap(qpu)"]
    assert (line["Paradigm"], line["QPU Runtime"]) == ("Quantum Hardware", "0.25")
    assert float(line["Total Runtime"]) == pytest.approx(1.0)
    assert float(line["CPU Runtime"]) == pytest.approx(0.75)
    assert table(comparison)["sa"]["QPU Runtime"] == "N/A"


def test_a_recorded_answer_has_no_negative_runtime(comparison):
    rows = [row("leap?solver=qpu", 0, -3.0, 0.25, wall=0.01, queue=8.0, access=0.25)]
    line = table(Comparison(comparison.race, rows))["leap(qpu)"]
    assert float(line["Total Runtime"]) == 0.25
    assert float(line["CPU Runtime"]) == 0.0


def test_repair_and_polish_are_in_the_workflow_of_their_backends(comparison):
    rows = [row(name, 0, -3.0) for name in ("exact", "ocean", "raw", "gpu")]
    backends = {
        "exact": record("exact"), "ocean": record("ocean-sa", polish=True), "raw": record("ocean-tabu", polish=False),
        "gpu": record("tabu", device="cuda"),
    }  # fmt: skip
    lines = table(Comparison(Race(Protocol(), "token", comparison.race.problems, backends), rows))
    assert "repair" not in lines["exact"]["Workflow"]
    assert lines["ocean-sa"]["Workflow"].endswith("; repair and polish to local optima where needed")
    assert lines["ocean-tabu"]["Workflow"].endswith("; repair where needed")
    assert (lines["tabu"]["CPU Runtime"], lines["tabu"]["GPU Runtime"]) == ("N/A", "1")


def test_the_model_is_described(comparison):
    line = table(comparison)["exact"]
    assert [line[key] for key in FIELDS[8:14]] == ["8", "8", "0", "0", "44", "continuous"]
    assert line["Coefficients Range"] == "[-2.5, 7]"
    assert "a machine" in line["Hardware Specifications"]
    assert line["Date"] == "2026-03-04"
    assert line["Submitter"] == "N/A"  # for the user to fill in


def test_a_coefficient_of_a_pair_is_what_multiplies_it(tmp_path):
    (tmp_path / "max.txt").write_text("3 2\n0 1 1.0\n0 2 2.0\n1 2 5\n")
    facts = Facts.of("m", "file", instances.read_mdplib(tmp_path / "max.txt"))
    assert (facts.coefficients, facts.least, facts.most, facts.whole) == (6, -5.0, 1.0, True)
    positive = Facts.of("p", "memory", BlockProblem([[0, 3, 4], [3, 0, 2.5], [4, 2.5, 0]], cardinality=2))
    assert (positive.least, positive.most, positive.whole) == (1.0, 8.0, True)  # no 0 of the diagonal
    factor = Facts.of("f", "memory", BlockProblem.low_rank([[1.5], [0.0], [-2.0]], None, 1))
    assert (factor.coefficients, factor.least, factor.most, factor.whole) == (5, -2.0, 1.5, False)


def test_hidden_samples_of_sub_blocks_are_mentioned_once(comparison):
    rows = [replace(row("q", 0, -3.0, solver="decompose(qaoa)"), time_limit=limit) for limit in (0.5, 1.0)]
    backends = {"q": record("qaoa", "Quantum Simulator")}
    text = render(Comparison(Race(Protocol(), "token", comparison.race.problems, backends), rows))
    assert text.count("Samples of sub-blocks are not shown: q on p.") == 1
    assert text.count("q on p") == 1


def test_the_leaderboard_shows_ranks_protocol_and_warnings(comparison):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(leaderboard(comparison))
    text = console.export_text()
    assert text.index("leap?solver=qpu") < text.index("sa?sweeps=5")
    assert "noise" in text
    assert "3/4" in text  # feasible
    notes = "\n".join(footnotes(comparison))
    assert "1 thread a solve, cold start, serial" in notes
    assert "tuned    sa?sweeps=5: sweeps=5" in notes
    assert "cannot be significant" in notes
