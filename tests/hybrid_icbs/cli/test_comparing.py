"""`hybrid-icbs compare`: from files and runs to a folder, and one clear sentence for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import problems
from hybrid_icbs.cli.app import app
from problems import instances
from solvers.comparison.results import Row


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems.save_set({"x": instances.random(14, 6, 1), "y": instances.random(12, 4, 2)}, tmp_path / "blocks")
    return "blocks"


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "140"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_a_race_prints_its_leaderboard_and_leaves_a_folder(blocks, tmp_path):
    done = call(blocks, "--backends", "exact,sa?restarts=2", "--time-limit", "0.02", "--seeds", 2, "--out", "race")
    assert "leaderboard over 2 problems, 0.02 s a solve" in done.stdout
    assert "tuned    sa?restarts=2: restarts=2" in done.stdout
    assert "race/report.html" in done.stdout
    assert {path.name for path in (tmp_path / "race").iterdir()} == {
        "race.json", "results.csv", "submission.csv", "report.html",
    }  # fmt: skip
    assert (tmp_path / "race/results.csv").read_text().count("\n") == 1 + 2 * 2 * 2
    grown = call(
        blocks, "--backends", "exact,sa?restarts=2", "--time-limit", "0.02,none", "--seeds", 2, "--out", "race",
        "--json", "--quiet",
    )  # fmt: skip
    told = json.loads(grown.stdout)
    assert told["rows"] == 16
    assert {place["time_limit"] for place in told["leaderboard"]} == {0.02, None}
    assert told["problems"]["x"]["best_known"]["proven"]
    assert told["protocol"] == {"threads": 1, "start": "cold", "dispatch": "serial", "workers": 1}


def test_quiet_is_quiet(blocks):
    done = call(blocks, "--backends", "exact", "--seeds", 1, "--time-limit", "none", "--quiet")
    assert done.output == ""


def test_a_run_s_blocks_are_made_again_and_raced_from_its_masks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ["prune", "--model", "hybrid_icbs.digits:digits_classifier", "--data", "hybrid_icbs.digits:load_digits"]
    made = CliRunner().invoke(
        app,
        [*run, "--density", "0.1", "--backend", "sa?restarts=1&sweeps=5", "--block-size", "48", "--steps", "2",
         "--out", "run", "--quiet"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    done = call(
        "run", "--count", 2, "--backends", "sa", "--time-limit", "0.02", "--seeds", 1, "--start", "mask", "--json"
    )
    told = json.loads(done.stdout)
    assert [name.partition("-")[0] for name in told["problems"]] == ["run", "run"]
    for facts in told["problems"].values():
        assert (facts["n"], facts["origin"]) == (48, "run run")
        # The current mask has energy 0 by the model's own definition, and a search from it goes nowhere above.
        assert facts["best_known"]["energy"] <= 1e-9


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["blocks", "--backends", "sa,"], 2, "must be names with commas between them"),
        (["blocks", "--backends", "taboo"], 2, "no backend 'taboo'"),
        (["blocks", "--backends", "sa,sa"], 2, "'sa' is given twice"),
        (["blocks", "--time-limit", "0"], 2, "time limit 0.0 must be a number of seconds above 0"),
        (["blocks", "--time-limit", "soon"], 2, "--time-limit 'soon' must be a number"),
        (["blocks", "--seeds", "0"], 2, "seeds 0 must be"),
        (["blocks", "--threads", "0"], 2, "threads 0 must be"),
        (["blocks", "--dispatch", "cluster"], 2, "no dispatch 'cluster'"),
        (["blocks", "--out", "blocks/x.json"], 2, "is a file"),
        (["missing.npz"], 2, "missing.npz: no such problem"),
        (["empty"], 2, "empty: no problem in the folder"),
        (["instances:no-such-thing"], 2, "no instance matches"),
        (["blocks", "--start", "mask"], 2, "no current mask on record"),
    ],
)
def test_what_cannot_be_raced_is_one_clear_sentence(blocks, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    done = call(*arguments, "--quiet", code=code)
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_a_race_in_which_every_solve_fails_ends_in_one_sentence(blocks):
    settings = [blocks, "--backends", "dimod:dimod.reference.samplers.ExactSolver", "--time-limit", "none", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solvers.comparison.racing.race.race_task", _failed)
        done = call(*settings, "--seeds", 2, "--out", "race", code=1)
    assert done.stdout == ""
    assert done.stderr.split("\n") == [
        "error: none of the 4 solves has a feasible answer; 4 failed, the first of them, "
        "dimod:dimod.reference.samplers.ExactSolver, with ValueError: too large", "",
    ]  # fmt: skip
    assert (Path("race") / "report.html").exists()


def _failed(task):
    return Row(task.problem, task.backend, task.time_limit, task.seed, "failed", error="ValueError: too large")


def test_another_protocol_is_refused_with_its_remedy(blocks, monkeypatch):
    monkeypatch.setattr("solvers.comparison.racing.race.processors", lambda: 2)
    settings = ["--backends", "exact", "--time-limit", "none", "--seeds", 1, "--quiet"]
    call(blocks, *settings, "--out", "race")
    done = call(blocks, *settings, "--out", "race", "--threads", 2, code=2)
    assert "holds a comparison with threads 1, not 2" in " ".join(done.stderr.split())
    assert "Use threads 1 or another folder" in " ".join(done.stderr.split())
