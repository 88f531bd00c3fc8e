"""Comparisons with real worker processes: protocol, failing and cheating solvers, continuation after a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from races import SMALL, no_worker_process_is_left, race, what_counts

import problems
import solvers
from problems import BlockProblem, FileFormatError, instances
from solvers import OptionError
from solvers.comparison import Comparison
from solvers.comparison.page import render
from solvers.comparison.racing import race as race_module
from solvers.comparison.racing.track import RaceTask, close_tracks, race_task
from solvers.comparison.results import COLUMNS
from solvers.comparison.submission import submission


def test_every_backend_solves_every_problem_with_every_seed(whole):
    done = whole
    assert {row.key for row in done.rows} == {(p, b, None, s) for p in "ab" for b in ("sa", "exact") for s in (0, 1)}
    for row in done.rows:
        answer = solvers.solve(SMALL[row.problem], row.backend, seed=row.seed)
        assert row.energy == pytest.approx(answer.first.energy, rel=1e-12)
        assert row.status == "ok"
        assert row.incumbents[-1][1] == row.energy
        assert 0.0 <= row.incumbents[-1][0] <= row.seconds
        assert row.setup >= 0.0
        assert row.infeasible == 0
    assert all(standing.best.proven for standing in done.standings.values())
    assert all(figures.time.value < np.inf for figures in done.figures if figures.backend == "exact")
    assert (done.left, done.interrupted, done.put_off) == (0, False, {})


def test_rows_depend_on_the_seed_only_and_start_at_first_seed(whole):
    later = race(first_seed=1)
    assert {row.seed for row in later.rows} == {1, 2}
    assert [cells for cells in what_counts(later.rows) if cells[3] == 1] == [
        cells for cells in what_counts(whole.rows) if cells[3] == 1
    ]


def test_time_limits_are_ascending():
    done = race({"a": SMALL["a"]}, ["sa"], time_limits=[0.05, 0.02], seeds=1)
    assert [row.time_limit for row in done.rows] == [0.02, 0.05]
    assert [place.time_limit for place in done.board] == [0.02, 0.05]


def test_a_block_too_large_for_a_solver_is_decomposed():
    done = race({"large": instances.random(300, 150, 3)}, ["exact"], seeds=1, time_limits=0.1)
    assert done.rows[0].status == "ok"
    assert done.rows[0].solver == "decompose(exact)"


# The worker process


def test_a_solve_has_its_threads_and_processors_and_no_more(odd, tmp_path):
    path = problems.save(SMALL["a"], tmp_path / "a")
    recipe = {"class": "odd_solvers:Guess", "settings": {"count": 3, "threads": None}, "threads": 1}
    task = RaceTask("a", "guess", None, 0, recipe, str(path), 1, True)
    try:
        row = race_task(task)
        (track,) = race_module.race_task.__globals__["_own_tracks"]().values()
        track._output.seek(0)
        said = track._output.read().decode()
        told = eval(next(line for line in said.splitlines() if line.startswith("{'affinity'")))
    finally:
        close_tracks()
    assert row.status == "ok"
    assert row.threads == 1
    assert told["affinity"] in (1, None)
    assert told["variables"]["OMP_NUM_THREADS"] == told["variables"]["NUMBA_NUM_THREADS"] == "1"
    assert "thinking about it" in said  # output of solvers does not mix with answers
    assert "on the file descriptor too" in said


def test_a_solver_object_is_created_again_in_the_worker_process(odd):
    done = race({"a": SMALL["a"]}, [odd.Guess(count=7), "sa"], seeds=1)
    assert [row.backend for row in done.rows] == ["guess?count=7", "sa"]
    record = done.race.backends["guess?count=7"]
    assert record["tuned"] == {"count": 7}
    assert record["settings"]["threads"] == 1
    states = SMALL["a"].random_states(7, np.random.default_rng(0))
    assert done.rows[0].energy == pytest.approx(float(np.min(SMALL["a"].energy(states))))


def test_a_solver_that_dies_or_raises_has_failed_rows_and_the_comparison_continues(odd):
    done = race({"a": SMALL["a"]}, [odd.Dies(), odd.Raises(), odd.Guess()], seeds=3)
    by_key = {(row.backend, row.seed): row for row in done.rows}
    assert len(by_key) == 9
    assert {key for key, row in by_key.items() if row.status == "failed"} == {("dies", 1), ("raises", 1)}
    assert "SIGSEGV" in by_key["dies", 1].error
    assert by_key["raises", 1].error == "ZeroDivisionError: an unexpected error"
    assert by_key["dies", 2].status == "ok"  # in a new process
    (place,) = [place for place in done.board if place.backend == "dies"]
    assert (place.feasible, place.runs) == (2, 3)
    text = " ".join(render(done).split())
    assert "dies failed in 1 run: the worker process ended by SIGSEGV" in text


def test_a_solver_that_does_not_end_is_killed_and_the_comparison_continues(odd, monkeypatch):
    monkeypatch.setattr("solvers.comparison.racing.track._GRACE", 3.0)
    done = race({"a": SMALL["a"]}, [odd.Endless(), odd.Guess()], seeds=3, time_limits=0.01)
    failed = [row for row in done.rows if row.status == "failed"]
    assert [(row.backend, row.seed) for row in failed] == [("endless", 1)]
    assert "does not keep its time limit" in failed[0].error
    assert len(done.rows) == 6


def test_a_solver_that_the_worker_cannot_create_has_failed_rows(odd):
    done = race({"a": SMALL["a"]}, [odd.NotHere(), odd.Guess()])
    failed = [row for row in done.rows if row.backend == "not-here"]
    assert [row.status for row in failed] == ["failed", "failed"]
    assert all("its library is missing here" in row.error for row in failed)


def test_a_solver_unavailable_in_the_worker_is_put_off(odd):
    done = race({"a": SMALL["a"]}, [odd.Lacks(), odd.Guess()])
    assert {row.backend for row in done.rows} == {"guess"}
    assert done.put_off == {"lacks": "UnavailableError: its licence is taken here"}
    assert done.left == 2


def test_a_time_limit_may_be_very_long():
    (row,) = race({"a": SMALL["a"]}, "exact", time_limits=1e10, seeds=1).rows
    assert row.status == "ok"


def test_infeasible_states_are_counted_and_never_scored_whatever_energies_they_claim(odd):
    done = race({"a": SMALL["a"]}, [odd.Cheats(), odd.Cheats(feasible=True), odd.Guess()], seeds=2)
    by_backend = {}
    for row in done.rows:
        by_backend.setdefault(row.backend, []).append(row)
    for row in by_backend["cheats"]:
        assert (row.status, row.energy, row.infeasible, row.states) == ("infeasible", None, 3, 3)
    for row in by_backend["cheats?feasible=True"]:
        state = SMALL["a"].random_states(1, row.seed)[0]
        assert (row.status, row.infeasible) == ("ok", 2)
        assert row.energy == pytest.approx(SMALL["a"].energy(state))
        assert row.incumbents[-1][1] == row.energy
    found = [row.energy for row in done.rows if row.energy is not None]
    assert done.standings["a"].best.energy == min([*found, *done.race.problems["a"].descents])
    assert "found no feasible state in 2 runs" in render(done)


def test_quantum_rows_have_raw_repaired_polished_and_control_energies():
    problem = instances.random(8, 4, 5)
    done = race({"q": problem}, ["qaoa?reps=1&shots=50&mixer=x&iterations=5", "sa"], seeds=1)
    row, classical = done.rows
    assert row.samples == 50
    assert 0.0 < row.raw_feasible < 1.0
    assert row.polished <= row.repaired <= row.raw
    assert row.energy == row.polished
    drawn = problem.random_states(50, np.random.default_rng([0, 1]))
    assert row.control_raw == pytest.approx(float(np.min(problem.energy(drawn))))
    assert row.control_polished <= row.control_raw
    assert classical.control_raw is None
    assert "Samples before and after repair" in render(done)
    assert done.race.backends[row.backend]["paradigm"] == "Quantum Simulator"


def test_solves_start_from_the_current_mask():
    base = instances.random(30, 10, 4)
    with_mask = BlockProblem(
        base.form.dense(), base.linear, 10, provenance={"pruned_now": 10, "method": "test"}
    )  # fmt: skip
    mask = np.r_[np.ones(10, np.int8), np.zeros(20, np.int8)]
    done = race({"m": with_mask}, ["tabu?offspring=1"], start="mask", seeds=1)
    expected = solvers.solve(with_mask, "tabu?offspring=1", seed=0, initial_states=mask)
    assert done.rows[0].energy == pytest.approx(expected.first.energy)
    assert done.race.protocol.start == "mask"
    assert "from the current mask" in render(done)
    with pytest.raises(OptionError, match="no current mask on record"):
        race({"m": base}, ["sa"], start="mask", seeds=1)


# Continuation


def test_a_finished_comparison_computes_only_missing_rows(tmp_path):
    first = race(backends="exact", out=tmp_path / "r")
    text = (tmp_path / "r/results.csv").read_bytes()
    again = race(backends="exact", out=tmp_path / "r")
    assert (tmp_path / "r/results.csv").read_bytes() == text
    assert again.rows == first.rows
    more = race(backends=["exact", "ocean-sa?num_reads=2"], out=tmp_path / "r")
    assert (tmp_path / "r/results.csv").read_bytes().startswith(text)
    assert {row.backend for row in more.rows[4:]} == {"ocean-sa?num_reads=2"}
    assert len(more.rows) == 8
    grown = race(
        {**SMALL, "c": instances.random(12, 6, 9)}, "exact", seeds=3, time_limits=[None, 0.05], out=tmp_path / "r"
    )
    new = {row.key for row in grown.rows[8:]}
    wanted = {(p, "exact", t, s) for p in "abc" for t in (None, 0.05) for s in range(3)}
    assert new == wanted - {row.key for row in more.rows}
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "race.json", "results.csv", "submission.csv", "report.html",
    }  # fmt: skip


def test_a_problem_keeps_its_name_when_another_of_its_name_comes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, block in (("ga", SMALL["a"]), ("gb", SMALL["b"])):
        problems.save_set({"x": block}, tmp_path / folder)
    race("ga/x.bqm", "exact", seeds=1, out="r")
    grown = race(["ga/x.bqm", "gb/x.npz"], "exact", seeds=1, out="r")
    assert [row.problem for row in grown.rows] == list(grown.race.problems) == ["x", "gb/x"]
    assert [row.problem for row in race(tmp_path / "gb/x", "exact", seeds=2, out="r").rows] == ["x", "gb/x", "gb/x"]
    same = {"one": SMALL["a"], "two": SMALL["a"]}  # different names stand for different problems
    assert list(race(same, "exact", seeds=1, out="r").race.problems) == ["x", "gb/x", "one", "two"]


def test_a_newer_best_known_energy_is_used(tmp_path):
    before = race({"a": SMALL["a"]}, "exact", seeds=1, out=tmp_path / "r").standings["a"].best
    record = SMALL["a"].with_best_known(before.energy - 1.0, proven=False, found_by="someone")
    after = race({"a": record}, "exact", seeds=1, out=tmp_path / "r")
    assert after.standings["a"].best.found_by == "someone"
    assert Comparison.read(tmp_path / "r").standings == after.standings


def test_results_can_be_read_without_solving(tmp_path):
    done = race(backends="exact", out=tmp_path / "r")
    read = Comparison.read(tmp_path / "r")
    assert read.rows == done.rows
    assert read.board == done.board
    assert render(read) == render(done) == (tmp_path / "r/report.html").read_text("utf-8")
    assert submission(read) == (tmp_path / "r/submission.csv").read_text("utf-8")


def test_a_comparison_with_unusual_names_continues(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff") if sys.platform == "linux" else str(tmp_path / "d")
    os.mkdir(folder)
    for name in ("two  blanks", "no\u00a0break", "блок"):
        problems.save(SMALL["a"], f"{folder}/{name}")
    done = race(folder, "exact", seeds=1, out=tmp_path / "r")
    again = race(folder, "exact", seeds=2, out=tmp_path / "r")
    assert again.rows[:3] == done.rows
    assert {row.problem for row in again.rows} == {"two  blanks", "no\u00a0break", "блок"}
    assert "two  blanks" in (tmp_path / "r/report.html").read_text("utf-8")


def test_rows_of_another_comparison_are_refused(raced, tmp_path):
    path = raced / "results.csv"
    path.write_text(path.read_text().replace("\na,", "\nzzz,"))
    with pytest.raises(FileFormatError, match=r"'zzz' is not in race\.json"):
        Comparison.read(raced)
    with pytest.raises(FileFormatError, match=r"'zzz' is not in race\.json"):
        race(backends=["exact"], seeds=1, out=raced)
    with pytest.raises(FileNotFoundError):
        Comparison.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 2}, "holds a comparison with threads 1, not 2"),
        ({"start": "mask"}, "holds a comparison with start 'cold'"),
        ({"dispatch": "threads?workers=2"}, "holds a comparison with dispatch 'serial'"),
        ({"given": {"a": instances.random(16, 8, 99)}}, "holds results for another problem named 'a'"),
        ({"given": {"a": instances.random(16, 7, 1)}}, "holds results for another problem named 'a'"),
    ],
)
def test_another_protocol_or_problem_is_refused(raced, change, message, monkeypatch):
    monkeypatch.setattr(race_module, "processors", lambda: 2)
    text = (raced / "results.csv").read_bytes()
    with pytest.raises(OptionError, match=message):
        race(**{"backends": ["exact"], "out": raced, **change})
    assert (raced / "results.csv").read_bytes() == text


def test_a_backend_with_changed_defaults_is_refused(raced):
    path = raced / "race.json"
    values = json.loads(path.read_text())
    values["backends"]["exact"]["settings"]["max_nodes"] = 5
    path.write_text(json.dumps(values))
    with pytest.raises(OptionError, match="with other values of max_nodes"):
        race(backends=["exact"], seeds=2, out=raced)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["backends"]["exact"].pop("settings"), "backend 'exact': settings is None"),
        (lambda values: values["backends"]["exact"].pop("tuned"), "backend 'exact': tuned is None"),
        (lambda values: values["backends"].update(exact=[]), "is missing or has the wrong type"),
        (lambda values: values["problems"]["a"].update(n=None), "problem 'a': n is None"),
        (lambda values: values["problems"]["a"].update(random_mean="high"), "problem 'a': random_mean is 'high'"),
        (lambda values: values["problems"]["a"].update(descents=["low"]), r"problem 'a': descents is \('low',\)"),
        (lambda values: values["problems"]["a"].update(best_known={"energy": "x"}), "problem 'a': best_known is"),
        (lambda values: values["problems"]["a"].pop("rank"), "rank"),
        (lambda values: values["protocol"].update(workers="many"), "workers 'many' must be"),
    ],
)
def test_a_damaged_race_json_is_refused(raced, change, message):
    path = raced / "race.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(FileFormatError, match=message):
        Comparison.read(raced)


def test_rows_without_their_settings_are_refused(raced):
    (raced / "race.json").unlink()
    with pytest.raises(OptionError, match=r"no race\.json"):
        race(backends=["exact"], out=raced)


SCRIPT = """
import sys
import solvers
from problems import instances

given = {"a": instances.random(16, 8, 1), "b": instances.random(20, 5, 2, rank=6)}
solvers.compare(given, ["sa", "exact"], time_limits=None, seeds=2, out=sys.argv[1])
"""


def begun(folder, rows):
    """Start a comparison in its own process and wait until it has written this many rows."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], stderr=subprocess.PIPE, cwd=Path(__file__).parents[3], text=True
    )
    path = folder / "results.csv"
    end = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < rows + 1:
        assert process.poll() is None or path.read_bytes().count(b"\n") >= rows + 1, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("rows", [0, 5])
def test_a_killed_comparison_continues_with_the_same_rows(tmp_path, rows, whole):
    process = begun(tmp_path / "r", rows)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    process.stderr.close()
    kept = (tmp_path / "r/results.csv").read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert kept.count(b"\n") > rows
    no_worker_process_is_left()
    done = race(out=tmp_path / "r")
    assert (tmp_path / "r/results.csv").read_bytes().startswith(kept)  # existing rows are not computed again
    assert what_counts(done.rows) == what_counts(whole.rows)
    assert (tmp_path / "r/report.html").exists()


def test_ctrl_c_stops_a_comparison_and_keeps_its_rows(tmp_path, monkeypatch, whole):
    kept = race_module.race_task
    calls = []

    def interrupted(task):
        calls.append(task)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return kept(task)

    monkeypatch.setattr(race_module, "race_task", interrupted)
    done = race(out=tmp_path / "r")
    assert done.interrupted
    assert len(done.rows) == 2
    assert done.left == 6
    assert "The comparison is not finished: 6 solves left." in (tmp_path / "r/report.html").read_text("utf-8")
    monkeypatch.setattr(race_module, "race_task", kept)
    assert what_counts(race(out=tmp_path / "r").rows) == what_counts(whole.rows)


def test_solves_of_problems_not_loaded_are_counted_as_left(tmp_path):
    def interrupt(what, done, total):
        if what == "loading b":
            raise KeyboardInterrupt

    done = race(out=tmp_path / "r", on_progress=interrupt)
    assert (done.interrupted, done.left, len(done.rows)) == (True, 8, 0)


def test_problem_files_are_temporary_and_written_only_if_needed(tmp_path, monkeypatch):
    (tmp_path / "r" / race_module.SPOOL).mkdir(parents=True)
    (tmp_path / "r" / race_module.SPOOL / "left").touch()  # by a killed comparison
    race(backends="exact", seeds=1, out=tmp_path / "r")
    assert not (tmp_path / "r" / race_module.SPOOL).exists()
    monkeypatch.setattr(race_module.problems, "save", None)
    assert len(race(backends="exact", seeds=1, out=tmp_path / "r").rows) == 2  # no missing rows


def test_rows_of_several_versions_are_reported(raced):
    path = raced / "race.json"
    values = json.loads(path.read_text())
    values["backends"]["exact"]["versions"]["numpy"] = "0.1"
    path.write_text(json.dumps(values))
    assert "several versions" not in render(race(backends="exact", seeds=1, out=raced))  # no new row
    done = race(backends="exact", seeds=2, out=raced)
    assert f"Results of exact are from several versions: numpy 0.1, then {np.__version__}." in render(done)


def test_the_settings_of_a_portfolio_s_members_are_on_record():
    done = race({"a": SMALL["a"]}, "portfolio?solvers=exact+tabu", seeds=1)
    _, tabu = done.race.backends["portfolio?solvers=exact+tabu"]["settings"]["solvers"]
    assert tabu["settings"]["population"] == 4


def test_the_columns_of_a_row_are_in_the_file(raced):
    head = (raced / "results.csv").read_text().split("\n")[0]
    assert head.split(",") == list(COLUMNS)
